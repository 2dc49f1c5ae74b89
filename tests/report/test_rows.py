import math
from dataclasses import replace

import pytest

from deploykit.measurements import Comparison, Recommendation
from deploykit.report import rows
from deploykit.results import Check, VariantReport


def check(value, limit, metric="R", verdict="pass", name="real", **more):
    return Check(name, more.pop("input_class", "real"), "output", verdict, "", metric, value, limit, "why", **more)


def variant(*checks, verdict="pass", **more):
    return VariantReport("onnx", verdict, "CPUExecutionProvider", checks, **more)


def test_every_row_has_a_cell_for_every_column(verified, benched):
    assert {len(row) for row in rows.verify_rows(verified)} == {len(rows.VERIFY_HEAD)}
    assert {len(row) for row in rows.bench_rows(benched)} == {len(rows.BENCH_HEAD)}
    assert [row[0] for row in rows.verify_rows(verified)] == [v.name for v in verified.variants]


def test_a_row_has_value_limit_head_room_and_reason(verified):
    found = {row[0]: row for row in rows.verify_rows(verified)}
    assert found["onnx"][1:] == ("pass", "real R", "1.25", "≤ 4", "3.2×", "same arithmetic")
    assert found["onnx-fp16"][1:6] == ("fail", "batch-7 centred_sqnr_db", "31", "≥ 45", "-14.0 dB")
    assert "largest difference 9 at output[3, 1]" in found["onnx-fp16"][6]
    assert found["onnx-int8-static"][1:3] == ("inconclusive", "top1-drop accuracy_drop_upper")
    assert found["torchscript"][1:3] == ("error", "WORKER_DIED")
    assert found["torchscript"][6] == "the worker was killed by signal 11"
    assert found["onnx-int4"][6] == "not made: no package"


def test_the_check_that_failed_decides_before_the_one_with_the_least_room():
    tight, failed, open_ = (
        check(3.9, 4.0),
        check(9.0, 4.0, verdict="fail", name="b"),
        check(9.0, 4.0, verdict="inconclusive", name="c"),
    )
    assert rows.tightest(variant(tight, open_, failed)) is failed
    assert rows.tightest(variant(tight, open_)) is open_
    assert rows.tightest(variant(check(1.0, 4.0), tight, check(0.0, 4.0))) is tight


def test_decibels_and_ratios_are_compared_as_amplitudes():
    decibels = check(51.0, 45.0, "centred_sqnr_db", at_least=True)  # 6 dB: a factor of two
    assert rows.tightest(variant(check(1.0, 3.0), decibels)) is decibels
    assert rows.tightest(variant(check(1.0, 1.5), decibels)).metric == "R"


def test_a_check_that_warns_near_its_limit_is_the_tightest_of_those_that_hold():
    near = check(46.0, 45.0, "centred_sqnr_db", verdict="warn", name="uniform", at_least=True)
    outside = check(3.0, 45.0, "centred_sqnr_db", verdict="warn", name="ones", at_least=True)
    ample = check(60.0, 45.0, "centred_sqnr_db", at_least=True)
    assert rows.tightest(variant(ample, near, outside)) is near
    assert rows.tightest(variant(outside)) is None


def test_exact_checks_and_task_metrics_are_not_called_tight():
    assert rows.tightest(variant(check(0.0, 0.0, "different"))) is None
    assert rows.tightest(variant(check(0.0049, 0.005, "accuracy_drop_upper", input_class="task"))) is None
    assert rows.tightest(variant()) is None


def test_an_infinite_ratio_is_not_tight():
    exact = check(math.inf, 15.0, "centred_sqnr_db", at_least=True)
    assert rows.tightest(variant(exact, check(40.0, 15.0, "centred_sqnr_db", at_least=True))).value == 40.0
    assert rows.tightest(variant(exact)) is exact


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (check(1.25, 4.0), "3.2×"),
        (check(5.0, 4.0), "0.8×"),
        (check(0.0, 4.0), "exact"),
        (check(1e-9, 4.0), "> 10⁴×"),
        (check(57.4, 45.0, "centred_sqnr_db", at_least=True), "12.4 dB"),
        (check(31.0, 45.0, "centred_sqnr_db", at_least=True), "-14.0 dB"),
        (check(95.0, 90.0, "centred_sqnr_db"), "-5.0 dB"),
        (check(0.995, 0.99, "ratio", at_least=True), "1.0×"),
        (check(1.0, None), "-"),
        (check(None, None), "-"),
    ],
)
def test_head_room(made, text):
    assert rows.headroom(made) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (1.23456, "1.235"), (1e-9, "1e-09"), (math.inf, "inf"), (math.nan, "nan")]
)
def test_numbers(value, text):
    assert rows.number(value) == text


def test_findings_tell_where_it_diverged_and_each_warning_once(verified):
    assert rows.findings(verified.variants[0]) == []
    line, advice = rows.findings(verified.variants[1])
    assert line.startswith("onnx-fp16: SQNR_LOW")
    assert "seed 3" in line
    assert advice.startswith("onnx-fp16: SQNR_LOW, what to do: ")
    warned = verified.variants[2].checks[1]
    (line,) = rows.findings(variant(warned, replace(warned, id="zeros"), warned))
    assert "outside the calibrated range" in line
    assert line.endswith("(ones, zeros)")


def test_decisions_alike_share_a_line(verified):
    (line,) = rows.task_lines(verified)
    assert "64 of 64 decisions alike" in line
    assert "onnx" in line
    twice = replace(verified, variants=(verified.variants[0], replace(verified.variants[0], name="onnx-b")))
    (line,) = rows.task_lines(twice)
    assert "(onnx, onnx-b)" in line


def test_a_passed_drop_is_told_with_its_bound_and_limit(verified):
    drop = check(0.0031, 0.005, "accuracy_drop_upper", name="top1-drop", input_class="task")
    (line,) = rows.task_lines(replace(verified, variants=(variant(drop),)))
    assert "0.31%" in line
    assert "limit 0.50%" in line


def test_bench_cells_have_units_and_what_is_unknown_is_a_dash(benched):
    eager, onnx, fp16, script = rows.bench_rows(benched)
    for part in ("83.4 µs", "81", "85 µs", "90 µs", "120 µs", "11,990", "12 ms", "1.50 ms", "412.0 MB"):
        assert part in " ".join(eager)
    assert "410 kB" in onnx
    assert eager[-1] == "base"
    assert onnx[-1] == "4.0× faster"
    assert fp16[-1] == "the same"
    assert fp16[2] == "2.1 ms *"
    assert fp16[3] == "-"
    assert "verify says fail" in " ".join(script)


def test_a_slower_variant_is_told_by_how_much(benched):
    slower = Comparison("eager", "onnx", 1, 2.5, None, None, "slower")
    assert rows.bench_rows(replace(benched, comparisons=(slower,)))[1][-1] == "2.5× slower"


def test_bench_notes_say_what_was_refused_and_why(benched):
    notes = "\n".join(rows.bench_notes(benched))
    assert "p99: only 90 calls (onnx)" in notes
    assert "interval: one launch (onnx)" in notes
    assert "not steady: the clock rose (onnx-fp16)" in notes
    assert "verify says fail" not in notes  # it stands in the table


def test_a_rounding_that_is_half_a_step_at_most_is_not_the_tightest():
    """It has no head-room by its nature; when it fails it is shown like any other."""
    half = Check("weights", "weights", "", "pass", "", "steps", 0.4999, 0.5, "within half a step")
    values = Check("real", "real", "y", "pass", "", "centred_sqnr_db", 30.0, 15.0, "8 bits", at_least=True)
    report = VariantReport("onnx-int8-static", "pass", None, (half, values))
    assert rows.tightest(report) == values
    broken = replace(half, verdict="fail", value=3.0)
    assert rows.tightest(replace(report, checks=(values, broken))) == broken


def test_the_front_and_what_is_not_on_it(benched):
    choice = benched.recommendation
    assert rows.front_lines(choice) == [
        "Pareto front (latency, memory, size, exactness): onnx",
        "not on it: onnx-fp16: onnx is 100.0× faster, and no worse in anything else",
    ]
    assert rows.front_lines(replace(choice, pareto=())) == []


def test_what_was_asked_for_is_said_and_nothing_else():
    assert rows.asked(Recommendation("onnx", "fast")) == ""
    assert rows.asked(Recommendation("onnx", "small", goal="size")) == "goal size"
    asked = Recommendation(None, "none", constraints=("size ≤ 1.0 MB", "load time ≤ 5 ms"), satisfied=False)
    assert rows.asked(asked) == "goal latency, with size ≤ 1.0 MB and load time ≤ 5 ms"


def test_a_table_of_forks_says_so_and_why_some_were_none(benched):
    said = {**benched.protocol, "forked": True, "not_forked": {"mine": "its plugin names no imports"}}
    lines = rows.bench_notes(replace(benched, protocol=said))
    assert [line for line in lines if "memory layout" in line or "fresh" in line] == [
        "workers are forks of one process and share its memory layout: another run may lie outside the intervals",
        "mine in fresh processes: its plugin names no imports",
    ]
    lines = rows.bench_notes(replace(benched, protocol=said | {"forked": False, "not_forked": {}}))
    assert not [line for line in lines if "fork" in line or "fresh" in line]
