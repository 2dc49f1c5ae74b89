import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from deploykit.measurements import GATE_EXITS, BenchReport, GateMetric, GateReport
from deploykit.report import speed_gate, text

MEDIAN = GateMetric(
    "median",
    "pass",
    "+0.4 %: less than +5 % at 95% confidence",
    1.004,
    0.991,
    0.99,
    1.015,
    0.95,
    0.9,
    0.9,
    21e3,
    21.1e3,
)
MEMORY = replace(MEDIAN, name="memory", base=64e6, candidate=65e6)
PASS = GateReport("main/onnx", "onnx", 1, "pass", 0, "median +0.4 %: fine", (MEDIAN,), 0.02, 0.05, 10, 80)
INVALID = GateReport("main/onnx", "onnx-fp16", 8, "invalid", 4, "main/onnx: WORKER_CRASHED: it died", (), 0.02, 0.05)
UNPAIRED = GateMetric("median", "inconclusive", "+3.0 %: unpaired", 1.03, base=20e3, candidate=20.6e3)


def report(*gates, **protocol):
    return BenchReport("mlp", {}, protocol, (), gates=gates)


def test_a_gate_is_one_calm_line():
    first, second, rule = speed_gate.lines(report(PASS, INVALID))
    assert first == (
        "PASS         onnx against main/onnx, batch 1: median +0.4 % [-0.9 %, +1.5 %], 21 µs → 21.1 µs: "
        "less than +5 % at 95% confidence (10 launches)"
    )
    assert second == "INVALID      onnx-fp16 against main/onnx, batch 8: main/onnx: WORKER_CRASHED: it died"
    assert rule.startswith("FAIL: more than +2 % at 99 % confidence")
    assert rule.endswith("less than +5 % at 95 % (right limit)")
    *_, floored = speed_gate.lines(report(replace(PASS, floor_ns=5_000.0)))
    assert floored.endswith("; a time fails only beyond 5 µs more, and passes below it")


def test_several_metrics_have_a_line_each_and_a_retry_is_told():
    gate = replace(PASS, metrics=(MEDIAN, MEMORY), retried=True, said=("loosened: everything",))
    head, median, memory, said, _ = speed_gate.lines(report(gate))
    assert head.endswith("median +0.4 %: fine (10 launches, in two rounds)")
    assert median.startswith("    pass: median +0.4 %")
    assert "64.0 MB → 65.0 MB" in memory
    assert said == "    loosened: everything"


def test_a_stored_result_shows_no_limits_and_no_rule():
    gate = replace(PASS, verdict="inconclusive", metrics=(UNPAIRED,), reason="unpaired", paired=False, worse=None)
    lines = speed_gate.lines(report(gate))
    assert lines == ["INCONCLUSIVE onnx against main/onnx, batch 1: unpaired (10 launches)"]


def test_what_was_not_gated_is_told():
    lines = speed_gate.lines(report(PASS, not_gated=["onnx-fp16: the base did not pass verify: SQNR_LOW"]))
    assert "not gated: onnx-fp16: the base did not pass verify: SQNR_LOW" in lines


def test_without_a_gate_there_is_nothing():
    assert speed_gate.lines(report()) == []
    assert "FAIL" not in text.render_bench(report())


def test_what_befell_the_sample():
    calm = {"rounds": 80, "rounds_dropped": 0, "rounds_disturbed": {}, "ended": "width", "half_width": 0.015}
    assert speed_gate.sampling_lines(report(**calm)) == []
    (dropped,) = speed_gate.sampling_lines(report(**{**calm, "rounds_dropped": 3, "rounds_disturbed": {"steal": 3}}))
    assert dropped == "3 of 80 rounds dropped for all (steal: 3)"
    (always,) = speed_gate.sampling_lines(report(**{**calm, "rounds_disturbed": {"throttled": 70}}))
    assert "none is dropped" in always
    (late,) = speed_gate.sampling_lines(report(**{**calm, "ended": "time"}))
    assert late == "sampling ended at the time limit: some ratio is known less well than ±1.5%"


@pytest.mark.parametrize("verdict", list(GATE_EXITS))
def test_junit_has_a_case_per_metric(verdict):
    metrics = (replace(MEDIAN, verdict=verdict), MEMORY)
    root = ET.fromstring(speed_gate.junit(report(replace(PASS, metrics=metrics, verdict=verdict))))
    bad = {"pass": (0, 0), "fail": (1, 0), "inconclusive": (1, 0), "invalid": (0, 1)}[verdict]
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("2", *map(str, bad))
    (suite,) = root
    assert [case.get("name") for case in suite] == ["median", "memory"]
    assert "21 µs → 21.1 µs" in suite[0].findtext("system-out")


def test_junit_of_a_gate_without_metrics_is_an_error_and_clean():
    root = ET.fromstring(speed_gate.junit(report(replace(INVALID, reason="died \x1b[31m"))))
    assert (root.get("tests"), root.get("errors")) == ("1", "1")
    assert root.find(".//error").get("message") == "died  [31m"
