"""Every way of measuring is on the HTML page and in the Markdown, with the words that the text has."""

import json
import re
from dataclasses import replace

import pytest

from deploykit.errors import RefusedError
from deploykit.measurements import (
    BenchReport,
    GateMetric,
    GateReport,
    LatencyPercentile,
    Load,
    Sweep,
    SweepRow,
)
from deploykit.pipeline.report import render
from deploykit.profile_results import OperatorTime, Profile
from deploykit.report import html, markdown, text
from deploykit.results import to_json
from deploykit.session import CPU
from deploykit.tune_results import Tried, Tuned

SWEEP = Sweep(
    "onnx", CPU, 2, "measured", rows=(SweepRow(8, 41_000.0, (40_000.0, 42_000.0), 0.75, 195e3, 0.02, 3),), batch=8,
    throughput_per_s=41_000.0, saturated=True, stopped="two steps gained less than 5 %",
)  # fmt: skip
LOAD = Load(
    "onnx", CPU, 1, 2, "met", slo="p99 ≤ 5 ms", slo_ns=5e6, rate_per_s=812.0, searched=True,
    latency=(LatencyPercentile("p99", 4.1e6, (3.9e6, 4.4e6)),), utilization=0.81, calls=9000, launches=3,
)  # fmt: skip
METRIC = GateMetric(
    "median", "fail", "median: more than +2 %", 1.061, 1.048, 0.99, 1.07, 0.95, 0.001, 0.001, 2e4, 2.1e4
)
GATE = GateReport("old", "new", 1, "fail", 1, "median is slower", (METRIC,), 0.02, 0.05, 12)
PROFILE = Profile(
    "onnx",
    CPU,
    1,
    20,
    100.0,
    0.88,
    (OperatorTime("/fc1/Gemm", "Gemm", CPU, 20, 44.0, 0.5, 2.1),),
    2,
    {},
    "profile/onnx.json",
    call_us=2.4,
)
TUNED = Tuned(
    "onnx", "latency", "threads=1", "threads=2", 1, 0.8, (0.79, 0.82), 0.97, None, None,
    (Tried("threads=1", 1, 0.8, "faster"),), 28.0, "faster than the default",
)  # fmt: skip
EMPTY = BenchReport("mlp", {"cores": {"usable": 2}, "cpu": "one"}, {"goal": "latency"}, ())

CASES = {
    "sweep": (replace(EMPTY, sweeps=(SWEEP,)), ["offline throughput of mlp", "41,000 [40,000, 42,000]", "two steps"]),
    "load": (replace(EMPTY, loads=(LOAD,)), ["as a server", "capacity 812", "p99 ≤ 5 ms"]),
    "gate": (replace(EMPTY, gates=(GATE,)), ["speed gate", "FAIL", "new against old", "+6.1 %"]),
    "profile": (replace(EMPTY, profiles=(PROFILE,)), ["/fc1/Gemm", "50%", "profile/onnx.json"]),
    "tuned": (replace(EMPTY, tuned=(TUNED,)), ["settings of mlp", "threads=1", "0.80× its time [0.79, 0.82]"]),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_on_the_page_and_in_the_markdown(name):
    report, expected = CASES[name]
    page = html.render("mlp", None, None, (report,))
    plain = re.sub(r"\\(.)", r"\1", markdown.render_bench(report))
    for part in expected:
        assert part.lower() in page.lower(), part
        assert part.lower() in plain.lower(), part


def test_the_gate_and_the_profile_stand_under_their_table(benched):
    report = replace(benched, gates=(GATE,), profiles=(PROFILE,))
    page = html.render("mlp", None, report)
    order = [page.index(part) for part in ("83.4 µs", "Speed gate", "/fc1/Gemm", "Recommended: onnx")]
    assert order == sorted(order)


def test_no_two_parts_of_a_page_have_the_same_title(benched):
    gate = replace(benched, gates=(GATE,), recommendation=None)
    page = html.render("mlp", None, benched, [gate])
    titles = re.findall(r"<h[23]>(.*?)</h[23]>", page)
    assert len(titles) == len(set(titles)), titles
    assert "What the speed gate of mlp measured, host to host" in titles
    assert text.render_bench(gate).startswith("what the speed gate of mlp measured")


def test_deploykit_report_shows_what_lies_beside_the_table(made, benched):
    (made / "reports").mkdir(exist_ok=True)
    for name, report in (
        ("bench.json", benched),
        ("gate.json", CASES["gate"][0]),
        ("bench-offline.json", CASES["sweep"][0]),
        ("bench-server.json", CASES["load"][0]),
        ("tune.json", CASES["tuned"][0]),
    ):
        (made / "reports" / name).write_text(to_json(report), encoding="utf-8")
        json.loads((made / "reports" / name).read_text(encoding="utf-8"))
    for form in ("text", "markdown", "html"):
        shown = re.sub(r"\\(.)", r"\1", render(made, form))
        for part in ("83.4 µs", "new against old", "41,000", "capacity 812", "threads=1"):
            assert part in shown, (form, part)


def test_one_other_way_of_measuring_alone_is_a_report(made):
    (made / "reports").mkdir(exist_ok=True)
    (made / "reports" / "gate.json").write_text(to_json(CASES["gate"][0]), encoding="utf-8")
    assert "new against old" in render(made, "html")


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
@pytest.mark.parametrize(
    ("name", "protocol"),
    [("gate.json", {"not_gated": 5}), ("bench.json", {"tuned": 7}), ("bench.json", {"not_forked": [1]}),
     ("bench.json", {"rounds_disturbed": "x"}), ("bench-quick.json", {"tuned": 7}), ("tune.json", {"goal": 1})],
    ids=str,
)  # fmt: skip
def test_a_tampered_report_is_refused_by_name(made, benched, name, protocol, form):
    (made / "reports").mkdir()
    document = json.loads(to_json(replace(benched, protocol=protocol)))
    if name == "gate.json":
        document["gates"] = [json.loads(to_json(GATE))]
    if name == "tune.json":
        document["tuned"] = [json.loads(to_json(TUNED))]
        document["environment"] = {"cores": 3}
    (made / "reports" / name).write_text(json.dumps(document))
    with pytest.raises(RefusedError) as caught:
        render(made, form)
    assert (caught.value.code, caught.value.exit_code) == ("MALFORMED", 5)
    assert name in caught.value.subject
