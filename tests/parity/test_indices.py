"""Index outputs are compared by the scores behind them: on arrays, and through the judge."""

import numpy as np
import pytest

from deploykit.parity.budget import budget_for
from deploykit.parity.indices import Picked, picked
from deploykit.parity.judge import Judge, conclude
from deploykit.parity.scale import Scale
from deploykit.reference import Case, IndexOutput
from deploykit.session import CPU

TOP = IndexOutput(1, largest=True)
LONE = IndexOutput(None, largest=True)


def case_of(expected, scores, input_class="in range", noise=1e-7):
    scores = np.asarray(scores, np.float64)
    found = np.asarray(expected, np.int64)
    return Case(
        "gaussian", input_class, "full", len(found), 3, {}, {"best": found}, {}, {},
        scores={"best": scores}, score_noise={"best": noise},
    )  # fmt: skip


def compared(expected, scores, actual, how=TOP, allowed=1e-6):
    return picked(case_of(expected, scores), "best", how, np.asarray(actual), allowed)


SCORES = [[5.0, 3.0, 3.0, 1.0, 3.0]]


@pytest.mark.parametrize(
    ("actual", "tied", "wrong"),
    [
        ([[0, 1, 2]], 0, 0),
        ([[0, 2, 1]], 2, 0),  # two places changed inside the tie
        ([[0, 4, 2]], 1, 0),  # another of the three
        ([[1, 0, 2]], 0, 2),  # across the edge of the tie
        ([[0, 1, 3]], 0, 1),
        ([[0, 1, 1]], 0, 1),  # one index twice, though either score is right
        ([[0, 4, 4]], 0, 2),
        ([[0, 4, -1]], 0, 2),  # the same place by another name
        ([[0, 1, 5]], 0, 1),  # there are five scores
        ([[0, 1, 2**40]], 0, 1),
        ([[0, 1, -3]], 1, 0),  # counted from the end it is the same place
        ([[0, 1, -1]], 1, 0),
        ([[0, 1, -2]], 0, 1),
        ([[0, 1, -6]], 0, 1),
    ],
)
def test_three_best_of_five_with_a_tie_of_three(actual, tied, wrong):
    found = compared([[0, 1, 2]], SCORES, actual)
    assert (found.count, found.tied, found.wrong) == (3, tied, wrong)
    assert bool(found.first) == bool(wrong)


@pytest.mark.parametrize(("gap", "wrong"), [(0.9e-6, 0), (1.1e-6, 1)])
def test_scores_tie_within_what_is_allowed_and_no_further(gap, wrong):
    assert compared([1], [[0.0, gap]], [0], LONE).wrong == wrong
    assert compared([0], [[0.0, gap]], [1], LONE).wrong == wrong  # nor is a better score than eager's right


def test_the_first_wrong_index_is_named_with_its_score():
    found = compared([[0, 1], [2, 0]], [[3.0, 2.0, 0.0], [1.5, 0.0, 2.0]], [[0, 1], [2, 1]])
    assert found == Picked(4, 0, 1, "at [1, 1] index 0 became 1, whose score is 1.5 off")


def test_each_lone_index_has_scores_of_its_own():
    scores = [[[1.0, 2.0], [2.0, 2.0]], [[2.0, 1.0], [0.0, 3.0]]]
    found = compared([[1, 0], [0, 1]], scores, [[1, 1], [0, 0]], LONE)
    assert (found.count, found.tied, found.wrong) == (4, 1, 1)
    assert found.first.startswith("at [1, 1]")


def test_ranks_along_the_first_axis():
    scores = [[4.0, 1.0, 1.0], [0.0, 7.0, 7.0]]  # for each of two columns, three rows
    expected = [[0, 1], [1, 2]]  # rank, column
    along = IndexOutput(0, largest=True)
    assert compared(expected, scores, [[0, 2], [2, 1]], along) == Picked(4, 3, 0)
    assert compared(expected, scores, [[1, 1], [0, 2]], along).wrong == 2
    assert compared(expected, scores, [[0, 1], [0, 2]], along).wrong == 1  # row 0 twice in the first column


def test_nan_ties_with_nan_and_infinity_with_itself_and_with_nothing_else():
    scores = [[np.nan, 1.0, np.nan, -np.inf, -np.inf]]
    assert compared([0], scores, [2], LONE) == Picked(1, 1, 0)
    assert compared([0], scores, [1], LONE).wrong == 1
    assert compared([1], scores, [0], LONE).wrong == 1
    assert compared([3], scores, [4], LONE) == Picked(1, 1, 0)
    assert compared([3], scores, [1], LONE).wrong == 1
    assert compared([[1, 3]], scores, [[0, 4]]) == Picked(2, 1, 1, "at [0, 0] index 1 became 0, whose score is nan off")


def test_scores_of_another_form_settle_nothing():
    assert compared([[0, 1]], [[1.0, 2.0], [2.0, 1.0]], [[1, 0]]) is None


# through the judge


def judged(case, actual, precision="fp32", how=TOP):
    judge = Judge(Scale.of([case]), budget_for(precision, CPU), index_outputs={"best": how})
    judge.add(case, {"best": np.asarray(actual)})
    report = conclude("onnx", CPU, judge)
    (check,) = report.checks
    return report, check


def test_a_tie_passes_and_is_counted_as_one():
    report, check = judged(case_of([[0, 1, 2]], SCORES), [[0, 4, 1]])
    assert (report.verdict, check.verdict) == ("pass", "pass")
    assert check.reason == "2 of 3 indices differ where scores are equal"


def test_the_allowed_gap_comes_from_the_noise_of_the_scores():
    """8 budgets of R 4 on a noise of 1e-5: 3.2e-4."""
    for gap, verdict in ((3.1e-4, "pass"), (3.3e-4, "fail")):
        case = case_of([1], [[0.0, gap]], noise=1e-5)
        report, check = judged(case, [0], how=LONE)
        assert (report.verdict, check.verdict) == (verdict, verdict)


@pytest.mark.parametrize("actual", [[[1, 0, 2]], [[0, 1, 1]], [[0, 1, 7]]])
def test_a_wrong_index_fails_in_full_precision(actual):
    report, check = judged(case_of([[0, 1, 2]], SCORES), actual)
    assert (report.verdict, check.code) == ("fail", "VALUE_MISMATCH")
    assert "index" not in check.metric
    assert "eager gives" in check.reason


def test_without_the_scores_an_index_is_a_number_like_any_other():
    case = case_of([[0, 1, 2]], SCORES)
    judge = Judge(Scale.of([case]), budget_for("fp32", CPU))
    judge.add(case, {"best": np.array([[0, 2, 1]])})
    assert conclude("onnx", CPU, judge).code == "VALUE_MISMATCH"


def many(wrong):
    """100 rows; the variant takes the second best in `wrong` of them."""
    scores = np.tile([0.0, 1.0, 0.5], (100, 1))
    actual = np.ones(100, np.int64)
    actual[:wrong] = 2
    return case_of(np.ones(100), scores), actual


@pytest.mark.parametrize(("wrong", "verdict"), [(10, "warn"), (11, "fail")])
def test_reduced_precision_may_reorder_a_tenth_of_what_is_close(wrong, verdict):
    case, actual = many(wrong)
    report, check = judged(case, actual, "int8-dynamic", LONE)
    assert (check.verdict, check.code, check.metric) == (verdict, "VALUE_MISMATCH", "index_flips")
    assert check.value == wrong
    assert f"{wrong} of 100 indices differ" in check.reason
    assert report.verdict == ("pass" if verdict == "warn" else "fail")
    assert judged(case, actual, "fp32", LONE)[0].verdict == "fail"


def test_an_index_that_is_none_fails_in_reduced_precision_as_often_as_it_is_wrong():
    case, actual = many(0)
    actual[:11] = 900
    assert judged(case, actual, "int8-dynamic", LONE)[0].verdict == "fail"


def test_nan_scores_have_no_best_one():
    """Where eager ranks NaN, any of the NaN is as good; a number instead of them is another pattern."""
    scores = [[np.nan, 1.0, np.nan]]
    case = case_of([0], scores, "non-finite", noise=0.0)
    assert judged(case, [2], how=LONE)[0].verdict == "pass"
    report, check = judged(case, [1], how=LONE)
    assert (report.verdict, check.code) == ("fail", "NAN_PATTERN")
    told, check = judged(case, [1], "int8-dynamic", LONE)
    assert (told.verdict, check.verdict, check.code) == ("pass", "warn", "NAN_PATTERN")


def test_the_first_wrong_index_is_named_where_it_lies_in_the_output():
    scores = [[4.0, 1.0, 0.0], [0.0, 8.0, 7.0]]
    found = compared([[0, 1], [1, 2]], scores, [[0, 1], [1, 0]], IndexOutput(0, largest=True))
    assert found.first == "at [1, 1] index 2 became 0, whose score is 7 off"
