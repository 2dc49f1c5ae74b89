"""Answers that must agree with other answers of the same variant: asked again, and alone beside others."""

from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest

from deploykit.inputs import CaseInputs
from deploykit.parity.budget import budget_for
from deploykit.parity.judge import Failure, Judge, conclude
from deploykit.parity.relations import REPEATS
from deploykit.parity.scale import Scale
from deploykit.session import CPU
from tests.conftest import answered

SPREAD = np.random.default_rng(5).standard_normal((40, 5)).astype(np.float32)


def asked(name, input_class, x, relation="", gate="full"):
    return answered(CaseInputs(name, input_class, gate, {"x": x}, len(x), 0, relation=relation))


def related():
    """The cases that are related, and one judged one that gives the output's spread."""
    loud = SPREAD[:8].copy()
    loud[1:] *= 10
    return [
        asked("example", "example", SPREAD[:2]),
        asked("gaussian", "in range", SPREAD),
        asked("alone", "sequence", SPREAD[:1]),
        asked("beside-mates", "sequence", SPREAD[:8], "first-row-of:alone"),
        asked("beside-outlier", "outlier", loud, "first-row-of:alone", "accurate"),
        asked("again", "sequence", SPREAD[:2], "repeats:example"),
    ]


def judged(candidate, precision="fp32", cases=None):
    cases = related() if cases is None else cases
    names = frozenset(case.relation.partition(":")[2] for case in cases) - {""}
    judge = Judge(Scale.of(cases), budget_for(precision, CPU), related=names)
    for case in cases:
        answer = candidate(case, case.expected["output"].copy())
        judge.add(case, answer if isinstance(answer, Failure) else {"output": answer})
    return conclude("onnx", CPU, judge)


def the_check(report, case, metric):
    (check,) = (check for check in report.checks if (check.id, check.metric) == (case, metric))
    return check


def spread():
    return Scale.of(related()).spread["output"]


def reduced(case, y):
    """Noise of a healthy quantized variant, the same for the same row in every company."""
    rows = [np.random.default_rng(crc32(row.tobytes())).standard_normal(3) for row in case.inputs["x"]]
    return (y + 0.01 * spread() * np.array(rows)).astype(np.float32)


def test_a_variant_that_keeps_nothing_passes():
    report = judged(lambda case, y: y)
    assert report.verdict == "pass"
    assert the_check(report, "again", "repeat_difference").value == 0.0
    for case in ("beside-mates", "beside-outlier"):
        check = the_check(report, case, "moves_with_batch")
        assert (check.verdict, check.limit) == ("pass", 0.05)
        assert check.value < 1e-5


def test_what_is_asked_again_is_compared_with_the_first_answer_and_not_judged_twice():
    report = judged(lambda case, y: y)
    assert [check.metric for check in report.checks if check.id == "again"] == ["repeat_difference"]


@pytest.mark.parametrize(("share", "verdict"), [(0.8, "pass"), (1.3, "fail")])
def test_two_answers_to_one_question_may_differ_by_a_rounding_of_the_output(share, verdict):
    level = np.sqrt(np.mean(related()[0].expected["output"].astype(float) ** 2))
    step = np.float32(share * REPEATS * level)
    report = judged(lambda case, y: y + step if case.id == "again" else y)
    check = the_check(report, "again", "repeat_difference")
    assert (check.verdict, check.limit) == (verdict, REPEATS)
    assert check.value == pytest.approx(share * REPEATS, rel=0.15)


@pytest.mark.parametrize("precision", ["fp32", "int8-dynamic"])
def test_a_session_that_counts_its_calls_fails_as_lost_state(precision):
    calls = iter(range(10))
    report = judged(lambda case, y: reduced(case, y) + np.float32(1e-3 * next(calls)), precision)
    check = the_check(report, "again", "repeat_difference")
    assert (check.verdict, check.code) == ("fail", "STATE_LOST")
    assert report.verdict == "fail"
    assert "remembers" in check.reason


def test_nan_at_the_second_call_fails():
    report = judged(lambda case, y: y * np.float32(np.nan) if case.id == "again" else y)
    assert the_check(report, "again", "repeat_difference").verdict == "fail"


def moved(case, y, share, where):
    """The first row of one case moves by `share` of the output's spread, in every column."""
    if case.id == where:
        y[0] += np.float32(share * spread())
    return y


@pytest.mark.parametrize(
    ("precision", "where", "verdict"),
    [
        ("fp32", "beside-mates", "fail"),
        ("fp32", "beside-outlier", "fail"),
        ("fp16", "beside-outlier", "fail"),
        ("int8-static", "beside-mates", "fail"),
        ("int8-dynamic", "beside-mates", "fail"),
        ("int8-dynamic", "beside-outlier", "warn"),
        ("int8-static", "beside-outlier", "warn"),
    ],
)
def test_a_sample_that_feels_its_batch(precision, where, verdict):
    base = (lambda case, y: y) if precision in {"fp32", "fp16"} else reduced
    report = judged(lambda case, y: moved(case, base(case, y), 0.06, where), precision)
    check = the_check(report, where, "moves_with_batch")
    assert (check.verdict, check.code) == (verdict, "BATCH_DEPENDENCE")
    assert check.value == pytest.approx(0.06, rel=0.02)
    assert "6.0% of the output's spread" in check.reason
    other = "beside-mates" if where == "beside-outlier" else "beside-outlier"
    assert the_check(report, other, "moves_with_batch").verdict == "pass"
    if precision.startswith("int8"):
        assert report.verdict == ("pass" if verdict == "warn" else "fail")


@pytest.mark.parametrize(("share", "verdict"), [(0.04, "pass"), (0.06, "fail")])
def test_the_limit_is_five_percent_of_the_spread(share, verdict):
    report = judged(lambda case, y: moved(case, reduced(case, y), share, "beside-mates"), "int8-dynamic")
    assert the_check(report, "beside-mates", "moves_with_batch").verdict == verdict


def test_a_model_that_looks_at_its_whole_batch_is_held_to_what_eager_does():
    """Eager's first row moves by 3 with its mates: values say whether a variant does so too, and no relation does."""

    def batchwise(case):
        if not case.relation.startswith("first-row-of"):
            return case
        return replace(
            case,
            expected={"output": case.expected["output"] + np.float32(3)},
            expected64={"output": case.expected64["output"] + 3},
        )

    cases = [batchwise(case) for case in related()]
    report = judged(lambda case, y: y, cases=cases)
    assert report.verdict == "pass"
    assert "moves_with_batch" not in {check.metric for check in report.checks}
    alone = judged(lambda case, y: y - np.float32(3 * (case.id == "beside-mates")), cases=cases)
    assert (alone.verdict, alone.code) == ("fail", "VALUE_MISMATCH")


def test_an_earlier_case_without_an_answer_leaves_nothing_to_compare():
    report = judged(lambda case, y: Failure("RUN_ERROR", "no") if case.id in {"alone", "example"} else y)
    metrics = {check.metric for check in report.checks}
    assert not metrics & {"moves_with_batch", "repeat_difference"}
    assert (report.verdict, report.code) == ("fail", "RUN_ERROR")


def test_integers_are_compared_again_as_well():
    whole = [
        replace(case, expected={"output": np.arange(2)}, expected64={}, noise={})
        for case in related()
        if case.id in {"example", "again"}
    ]
    assert judged(lambda case, y: y, cases=whole).verdict == "pass"
    report = judged(lambda case, y: y + (case.id == "again"), cases=whole)
    assert report.code == "STATE_LOST"


@pytest.mark.parametrize(("units", "verdict"), [(6, "pass"), (12, "fail")])
def test_where_samples_differ_by_less_than_rounding_a_move_within_the_noise_is_none(units, verdict):
    """A deep network with random weights: its answers hardly depend on the input."""
    cases = related()
    scale = Scale.of(cases)
    beside = next(case for case in cases if case.id == "beside-mates")
    noise = scale.noise_of(beside, "output")
    scale = replace(scale, spread={"output": noise})
    judge = Judge(scale, budget_for("fp32", CPU), related=frozenset({"alone", "example"}))
    for case in cases:
        moved = (units * noise if case.id == "beside-mates" else 0.0) + case.expected["output"]
        judge.add(case, {"output": moved.astype(np.float32)})
    check = the_check(conclude("onnx", CPU, judge), "beside-mates", "moves_with_batch")
    assert check.verdict == verdict
    assert check.value > check.limit
