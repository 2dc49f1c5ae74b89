"""Values off the distribution: only where eager itself is right, and half precision by eager's own error."""

import numpy as np
import pytest

from deploykit.parity.budget import budget_for
from deploykit.parity.judge import Judge, conclude
from deploykit.parity.ledger import Ledger
from deploykit.parity.scale import Scale
from deploykit.parity.values import Values
from deploykit.reference import Case, Noise, accurate
from deploykit.session import CPU

ROWS, COLUMNS = 400, 3


def case_of(exact, expected=None, input_class="extreme", gate="accurate", half=None, name="times1e4"):
    exact = np.asarray(exact, np.float64)
    expected = exact.astype(np.float32) if expected is None else np.asarray(expected, np.float32)
    both = np.isfinite(expected) & np.isfinite(exact)
    if gate == "accurate":
        both &= accurate(expected, exact)
    own = float(np.sqrt(np.mean((expected[both].astype(float) - exact[both]) ** 2)))
    return Case(name, input_class, gate, len(exact), 3, {}, {"y": expected}, {"y": exact}, {"y": Noise(own, half)})


def judged(case, actual, precision="fp32", changes=None, beside=()):
    judge = Judge(Scale.of([case, *beside]), budget_for(precision, CPU, changes))
    judge.add(case, {"y": np.asarray(actual, np.float32)})
    return conclude("onnx", CPU, judge)


def checks(report, **wanted):
    return [c for c in report.checks if all(getattr(c, key) == value for key, value in wanted.items())]


EXACT = np.random.default_rng(1).standard_normal((ROWS, COLUMNS)) * 100


def wrong_in_eager(exact=EXACT):
    """Eager has no digit left in every tenth element; where it is right the noise is a rounding."""
    expected = exact.astype(np.float32)
    lost = np.zeros(exact.shape, bool)
    lost.flat[::10] = True
    expected[lost] += 50.0
    return case_of(exact, expected), lost


def test_where_eager_itself_is_right():
    case = case_of(
        [[100.0, 100.0, 1e-9, np.inf, np.nan, np.inf, 5.0]],
        [[100.9, 103.0, 0.5, np.inf, np.nan, 3e38, np.inf]],
    )
    found = accurate(case.expected["y"], case.expected64["y"])
    # within 1 % of the element; beyond; small beside the output's size; the same overflow; one side overflows
    assert found.tolist() == [[True, False, True, True, True, False, False]]


def test_elements_that_eager_gets_wrong_are_held_against_nobody():
    case, lost = wrong_in_eager()
    exact = judged(case, EXACT)
    assert exact.verdict == "pass"  # right where eager is not
    other = np.where(lost, -7e5, EXACT)
    assert judged(case, other).verdict == "pass"
    assert judged(case, case.expected["y"]).verdict == "pass"


@pytest.mark.parametrize("kind", ["one", "column"])
def test_elements_that_eager_gets_right_are_judged_all_the_same(kind):
    case, lost = wrong_in_eager()
    broken = EXACT.copy()
    if kind == "one":
        broken[tuple(np.argwhere(~lost)[7])] += 1.0
    else:
        broken[:, 1] *= 1.001
    report = judged(case, broken)
    assert (report.verdict, report.code) == ("fail", "VALUE_MISMATCH")


def test_under_the_full_gate_the_same_elements_count():
    """The rule is of the gate: eager's error would be the noise, and the error of a tenth would hide the rest."""
    case, lost = wrong_in_eager()
    full = Case("uniform", "in range", "full", ROWS, 3, {}, case.expected, case.expected64, case.noise)
    report = judged(full, np.where(lost, 7e5, EXACT))
    assert report.verdict == "fail"


def test_a_new_infinity_where_eager_is_right_fails_and_where_it_is_wrong_does_not():
    case, lost = wrong_in_eager()
    spoiled = EXACT.copy()
    spoiled[tuple(np.argwhere(lost)[3])] = np.inf
    assert judged(case, spoiled).verdict == "pass"
    spoiled[tuple(np.argwhere(~lost)[3])] = np.nan
    report = judged(case, spoiled)
    assert (report.verdict, report.code) == ("fail", "NAN_PATTERN")


def test_the_noise_is_that_of_the_elements_that_are_left():
    """Eager is far off in one column: with that as noise for all, an error of 0.1 in the others would pass."""
    expected = EXACT.astype(np.float32)
    case = case_of(EXACT, expected + np.where(np.arange(COLUMNS) == 0, 40.0, 0).astype(np.float32))
    actual = EXACT.copy()
    actual[:, 1:] += 0.1
    assert judged(case, actual).code == "VALUE_MISMATCH"


@pytest.mark.parametrize("input_class", ["straddle", "extreme", "constant", "outlier"])
@pytest.mark.parametrize(("times", "verdict"), [(2.9, "pass"), (3.1, "fail")])
def test_fp16_off_the_distribution_is_held_to_eagers_own_error_in_half(input_class, times, verdict):
    own = 4.0  # a poor 28 dB: the limit of 45 dB would fail eager in half itself
    case = case_of(EXACT, input_class=input_class, gate="full", half=own)
    noise = np.random.default_rng(2).standard_normal(EXACT.shape)
    actual = EXACT + noise * (times * own / np.sqrt(np.mean(noise**2)))
    report = judged(case, actual, "fp16")
    (check,) = report.checks
    assert (check.metric, check.verdict, report.verdict) == ("half_ratio", verdict, verdict)
    assert check.value == pytest.approx(times, rel=1e-3)


def test_on_the_distribution_decibels_count_too():
    case = case_of(EXACT, input_class="in range", gate="full", half=4.0, name="uniform")
    noise = np.random.default_rng(2).standard_normal(EXACT.shape)
    report = judged(case, EXACT + noise * 4.0, "fp16")
    assert {c.metric for c in report.checks if c.input_class == "in range"} == {"half_ratio", "centred_sqnr_db"}
    assert checks(report, metric="centred_sqnr_db")[0].verdict == "fail"
    assert checks(report, metric="half_ratio")[0].verdict == "pass"


@pytest.mark.parametrize(("input_class", "verdict"), [("straddle", "warn"), ("constant", "fail"), ("sequence", "fail")])
def test_where_eager_has_no_half_precision_fp16_is_held_to_decibels_only_on_known_ground(input_class, verdict):
    case = case_of(EXACT, input_class=input_class, gate="full")
    report = judged(case, EXACT * 1.1, "fp16")
    (check,) = report.checks
    assert (check.metric, check.verdict) == ("centred_sqnr_db", verdict)


@pytest.mark.parametrize("input_class", ["straddle", "extreme", "outlier", "constant"])
def test_int8_is_warned_of_outside_its_calibrated_range(input_class):
    case = case_of(EXACT, input_class=input_class)
    report = judged(case, np.clip(EXACT, -50, 50), "int8-static")
    (check,) = report.checks
    assert (check.verdict, check.code, check.reason) == ("warn", "SQNR_LOW", "unlike the inputs it is made for")
    assert judged(case, np.clip(EXACT, -50, 50), "fp32").verdict == "fail"


@pytest.mark.parametrize("input_class", ["shapes", "layout", "masks", "sequence", "real"])
def test_int8_answers_for_its_values_wherever_inputs_are_ordinary(input_class):
    case = case_of(EXACT, input_class=input_class, gate="full")
    assert judged(case, np.clip(EXACT, -50, 50), "int8-static").code == "SQNR_LOW"


# limits of one output


def two_outputs(changes):
    """Two outputs; the candidate is 5 R off in both."""
    noise = 1e-3
    exact = dict.fromkeys(("logits", "embedding"), EXACT)
    case = Case(
        "uniform", "in range", "full", ROWS, 3, {}, {n: a.astype(np.float32) for n, a in exact.items()}, exact,
        {name: Noise(noise) for name in exact},
    )  # fmt: skip
    by_output = {name: budget_for("fp32", CPU, changes, name) for name in exact}
    judge = Judge(Scale.of([case]), budget_for("fp32", CPU, changes), by_output=by_output)
    error = np.random.default_rng(3).standard_normal(EXACT.shape)
    error *= 5 * noise / np.sqrt(np.mean(error**2))
    judge.add(case, {"logits": (EXACT + error).astype(np.float32), "embedding": (EXACT + error).astype(np.float32)})
    report = conclude("onnx", CPU, judge)
    return {c.output: (c.verdict, c.limit, "loosened" in c.reason) for c in report.checks}


def test_a_limit_of_one_output_holds_for_that_output_alone():
    strict = two_outputs({})
    assert {name: found[:2] for name, found in strict.items()} == dict.fromkeys(("logits", "embedding"), ("fail", 4.0))
    changed = two_outputs({"logits.max_r": 6.0})
    assert changed["logits"] == ("warn", 6.0, True)
    assert changed["embedding"] == strict["embedding"]


def test_a_limit_of_one_output_goes_before_that_of_all():
    changed = two_outputs({"max_r": 6.0, "embedding.max_r": 4.5})
    assert (changed["logits"][:2], changed["embedding"][:2]) == (("warn", 6.0), ("fail", 4.5))


@pytest.mark.parametrize("precision", ["fp16", "int8-dynamic", "int8-static"])
def test_an_output_that_hardly_depends_on_the_input_is_held_to_eagers_own_rounding(precision):
    """Decibels of what is smaller than fp32's last digit mean nothing: 1 is 1."""
    exact = 1.0 + 1e-12 * np.random.default_rng(2).standard_normal((ROWS, COLUMNS))
    case = case_of(exact, input_class="in range", gate="full", name="gaussian")
    last_digit = exact.astype(np.float32) + np.float32(2.0**-23) * (np.arange(COLUMNS) == 0)
    near = judged(case, last_digit, precision)
    assert near.verdict == "pass"
    assert [c.reason for c in checks(near, metric="R")] == ["as exact as eager's own fp32"]
    assert judged(case, exact + 1e-3, precision).verdict == "fail"


def test_a_reduced_variant_that_is_exact_is_still_not_applied():
    case = case_of(EXACT, input_class="in range", gate="full", name="gaussian")
    assert judged(case, EXACT, "int8-static").code == "VARIANT_NOT_APPLIED"


def answered_with(case, error):
    """The truth with an error of exactly this RMSE, spread evenly."""
    signs = np.where(np.arange(case.expected64["y"].size).reshape(case.expected64["y"].shape) % 2, 1.0, -1.0)
    return case.expected64["y"] + signs * error


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-dynamic", "int8-static"])
@pytest.mark.parametrize("input_class", ["real", "in range", "shapes", "constant", "straddle"])
@pytest.mark.parametrize("half", [None, 1e-3])
@pytest.mark.parametrize("rows", [3, ROWS])
def test_the_limit_that_travels_is_where_the_grade_turns(precision, input_class, half, rows):
    case = case_of(EXACT[:rows], input_class=input_class, gate="full", half=half)
    scale, budget = (
        Scale.of([case_of(EXACT, input_class="real", gate="full", half=half), case]),
        budget_for(precision, CPU),
    )
    most = Values(scale, Ledger()).most(case, "y", budget)

    def failing(error):
        ledger = Ledger()
        Values(scale, ledger).grade(case, "y", answered_with(case, error), budget)
        return any(check.verdict == "fail" for check in ledger.checks)

    if np.isinf(most):
        assert not failing(1e6)
    else:
        assert not failing(most * 0.999)
        assert failing(most * 1.001)
