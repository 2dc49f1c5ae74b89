"""Edges: steps of the function, where either side is right, and the ends of the declared range."""

from dataclasses import replace

import numpy as np
import pytest

from deploykit.parity.budget import budget_for
from deploykit.parity.judge import Failure, Judge, conclude
from deploykit.parity.scale import Scale
from deploykit.reference import Case, Noise
from deploykit.session import CPU

X = np.linspace(-4.0, 4.0, 1200).reshape(400, 3)
X[::50] = np.round(X[::50])  # 24 elements exactly on a step
HAIR = 2.0**-21


def stepped(dtype=np.float32, **more):
    """`floor(x)` with eager's answers a hair below and above."""
    on = np.floor(X)
    near = np.stack([np.floor(X - np.abs(X) * HAIR), np.floor(X + np.abs(X) * HAIR)])
    floats = dtype == np.float32
    return Case(
        "straddle", "straddle", "full", 400, 3, {}, {"y": on.astype(dtype)}, {"y": on} if floats else {},
        {"y": Noise(1e-7)} if floats else {}, near={"y": near.astype(dtype)}, **more,
    )  # fmt: skip


CROSSED = np.floor(X - np.abs(X) * HAIR) != np.floor(X)


def judged(case, actual, precision="fp32", order=None):
    judge = Judge(Scale.of([case]), budget_for(precision, CPU))
    judge.add(case, actual if isinstance(actual, Failure) else {"y": np.asarray(actual)})
    return conclude("onnx", CPU, judge)


def test_there_are_elements_on_a_step():
    assert 0 < CROSSED.sum() < 30


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int32])
def test_the_other_side_of_a_step_is_told_and_passes(dtype):
    case = stepped(dtype)
    report = judged(case, case.near["y"][0])
    assert report.verdict == "pass"
    told = [check for check in report.checks if check.code == "DISCONTINUITY"]
    assert [(check.verdict, check.value) for check in told] == [("warn", CROSSED.sum())]
    assert "a hair beside" in told[0].reason
    assert {check.verdict for check in report.checks} <= {"pass", "warn"}


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_eagers_own_side_says_nothing(dtype):
    report = judged(stepped(dtype), stepped(dtype).expected["y"])
    assert [check.verdict for check in report.checks] == ["pass"]


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_a_value_that_eager_gives_on_neither_side_fails_on_a_step(dtype):
    case = stepped(dtype)
    wrong = case.near["y"][0].copy()
    wrong[tuple(np.argwhere(CROSSED)[0])] -= 1
    report = judged(case, wrong)
    assert (report.verdict, report.code) == ("fail", "VALUE_MISMATCH")


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_a_step_too_early_fails_off_the_step(dtype):
    """The neighbours' value, but where eager gives it on neither side of the input."""
    case = stepped(dtype)
    wrong = case.expected["y"].copy()
    wrong[tuple(np.argwhere(~CROSSED)[5])] -= 1
    report = judged(case, wrong)
    assert (report.verdict, report.code) == ("fail", "VALUE_MISMATCH")


def test_a_general_error_is_not_excused_by_a_few_steps():
    case = stepped()
    report = judged(case, case.near["y"][0] * np.float32(1.001))
    assert (report.verdict, report.code) == ("fail", "VALUE_MISMATCH")


def test_bools_have_edges_too():
    case = stepped()
    flags = {"y": case.expected["y"] >= 0}
    sides = {"y": case.near["y"] >= 0}
    case = replace(case, expected=flags, expected64={}, noise={}, near=sides)
    assert (flags["y"] != sides["y"][0]).sum() == 0  # zero is no place to go a relative hair beside
    sides["y"][0, 0, 0] = ~flags["y"][0, 0]
    crossed = flags["y"].copy()
    crossed[0, 0] ^= True
    assert [check.code for check in judged(case, crossed).checks] == ["DISCONTINUITY"]
    crossed[0, 1] ^= True
    assert judged(case, crossed).code == "VALUE_MISMATCH"


def test_reduced_precision_is_held_to_its_decibels_there():
    """It has no error of one element that its budget excuses, so no single element can be excused."""
    case = stepped()
    report = judged(case, case.near["y"][0], "int8-static")
    assert not [check for check in report.checks if check.code == "DISCONTINUITY"]


# outside the declared range


def outside(rows=65, refused=False):
    exact = np.random.default_rng(0).standard_normal((rows, 3))
    expected = {} if refused else {"y": exact.astype(np.float32)}
    return Case(
        f"batch-{rows}", "outside", "outside", rows, 3, {}, expected, {} if refused else {"y": exact},
        {} if refused else {"y": Noise(1e-7)},
    )  # fmt: skip


def ordinary():
    exact = np.random.default_rng(1).standard_normal((400, 3))
    return Case(
        "uniform", "in range", "full", 400, 3, {}, {"y": exact.astype(np.float32)}, {"y": exact}, {"y": Noise(1e-7)}
    )


def beside(case, answer):
    """`case` after an ordinary one that is answered right."""
    judge = Judge(Scale.of([ordinary()]), budget_for("fp32", CPU))
    judge.add(ordinary(), ordinary().expected)
    judge.add(case, answer)
    report = conclude("onnx", CPU, judge)
    return report, [check for check in report.checks if check.id == case.id]


@pytest.mark.parametrize("refused", [True, False])
@pytest.mark.parametrize("code", ["RUN_ERROR", "DYNAMIC_DIM_FIXED"])
def test_refusing_is_right_whatever_eager_does(refused, code):
    report, (check,) = beside(outside(refused=refused), Failure(code, "expected at most 64"))
    assert (report.verdict, check.verdict, check.metric) == ("pass", "pass", "refused")


def test_the_right_answer_is_right_as_well():
    case = outside()
    report, (check,) = beside(case, case.expected)
    assert (report.verdict, check.metric, check.verdict) == ("pass", "R", "pass")


@pytest.mark.parametrize("kind", ["value", "nan", "shape", "dtype"])
def test_a_wrong_answer_fails(kind):
    case = outside()
    wrong = {
        "value": case.expected["y"] * np.float32(1.01),
        "nan": case.expected["y"] * np.float32(np.nan),
        "shape": case.expected["y"][:64],
        "dtype": case.expected["y"].astype(np.float64),
    }[kind]
    report, (check,) = beside(case, {"y": wrong})
    assert (report.verdict, check.verdict) == ("fail", "fail")
    assert check.code == "OUT_OF_RANGE"


@pytest.mark.parametrize(("rows", "verdict"), [(0, "warn"), (65, "fail")])
def test_answering_what_eager_refuses_fails_and_an_empty_batch_is_told(rows, verdict):
    case = outside(rows, refused=True)
    report, (check,) = beside(case, {"y": np.zeros((rows, 3), np.float32)})
    assert (check.verdict, check.code) == (verdict, "GUARD_LOST")
    assert report.verdict == ("pass" if verdict == "warn" else "fail")


def test_an_engine_that_goes_down_outside_the_range_is_told():
    report, (check,) = beside(outside(), Failure("WORKER_CRASHED", "killed by SIGSEGV"))
    assert (report.verdict, check.verdict, check.code) == ("pass", "warn", "GUARD_LOST")
    assert "SIGSEGV" in check.reason


def test_an_empty_batch_that_eager_answers_is_compared_and_a_difference_is_told():
    """Nobody promised an answer to no rows: a mean of nothing is NaN here and 0 there."""
    case = outside(0)
    assert beside(case, {"y": np.zeros((0, 3), np.float32)})[1][0].verdict == "pass"
    report, (check,) = beside(case, {"y": np.zeros((1, 3), np.float32)})
    assert (report.verdict, check.verdict, check.code) == ("pass", "warn", "OUT_OF_RANGE")


def test_refusing_outside_alone_is_no_proof_of_anything():
    report = judged(outside(), Failure("RUN_ERROR", "no"))
    assert report.verdict == "error"
