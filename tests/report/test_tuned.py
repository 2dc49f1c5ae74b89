from dataclasses import replace

from deploykit.measurements import BenchReport
from deploykit.report import tuned
from deploykit.session import CPU
from deploykit.tune_results import Tried, Tuned
from deploykit.tuned import TunedRecord

FOUND = Tuned(
    "onnx", "latency", "threads=1", "threads=8", 1, 0.81, (0.8, 0.82), 0.97, None, None,
    (Tried("threads=1", 1, 0.8, "faster"), Tried("graph_level=basic", 1, None, "PARITY: y is off")),
    28.4, "faster than the default",
)  # fmt: skip
STAYED = replace(FOUND, variant="onnx-fp16", chosen="", ratio=None, ci=None, said="the default stays: why", tried=())
RECORD = TunedRecord(
    goal="latency", provider=CPU, settings="threads=1", batch=1, ratio=0.81, low=0.8, high=0.82, level=0.97,
    cpu="Toy\x1b[2J", cores=8, engine="onnxruntime 1.23.2",
)  # fmt: skip


def report(*found, goal="latency"):
    environment = {"cpu": "Toy", "cores": {"usable": 8}}
    return BenchReport("b", environment, {"goal": goal}, (), tuned=found)


def test_a_line_says_what_was_chosen_why_and_at_what_cost():
    assert tuned.line(FOUND) == (
        "threads=1: faster than the default, 0.81× its time [0.80, 0.82] (2 tried, 28 s)"
    )  # fmt: skip
    assert tuned.line(STAYED) == "default (threads=8): the default stays: why (0 tried, 28 s)"
    memory = replace(FOUND, goal="memory", time_ratio=1.05, time_ci=(1.0, 1.09), batch=4)
    assert ", 0.81× its peak memory [0.80, 0.82], 1.05× its time [1.00, 1.09] (" in tuned.line(memory)
    assert "threads=1 at batch 4: " in tuned.line(memory)


def test_the_page_names_what_was_out_and_what_happens_next():
    shown = tuned.render(report(FOUND, STAYED))
    assert shown.splitlines()[0] == "settings of b for latency, on Toy, 8 cores"
    assert "onnx       out: graph_level=basic: PARITY: y is off" in shown
    assert "verify and bench open with it from now on" in shown
    assert "written" not in tuned.render(report(STAYED))
    memory = tuned.render(report(replace(FOUND, goal="memory"), goal="memory"))
    assert "verify and bench go on with the settings for latency" in memory


def test_what_was_left_out_is_named_with_the_reason():
    found = report(FOUND)
    found = replace(found, protocol={**found.protocol, "left_out": {"onnx-fp16": "SQNR_LOW: too far"}})
    assert "  left out: onnx-fp16: SQNR_LOW: too far" in tuned.render(found).splitlines()


def test_a_record_is_one_line_and_a_batch_alone_is_said():
    assert tuned.recorded(RECORD).startswith(
        "for latency: threads=1, 0.81× the default's time [0.80, 0.82] at batch 1; CPU"
    )
    batch = RECORD.model_copy(update={"goal": "throughput", "settings": "", "batch": 64})
    assert tuned.recorded(batch).startswith("for throughput: default at batch 64; ")


def test_a_table_says_what_was_tuned():
    assert tuned.notes(report()) == []
    table = replace(report(), protocol={"tuned": {"onnx": "threads=1, tuned for latency"}})
    assert tuned.notes(table) == ["onnx opens with threads=1, tuned for latency"]
