import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from deploykit.campaign.plan import campaign
from deploykit.inputs import CaseInputs, Samples
from deploykit.parity.budget import BY_PRECISION, budget_for
from deploykit.parity.judge import Failure, Judge, conclude
from deploykit.parity.scale import Scale, classifier_output
from deploykit.reference import Case, Noise
from deploykit.session import CPU
from tests.conftest import WEIGHT, answered, linear

EXAMPLE = {"x": np.ones((2, 5), np.float32)}


def judged(cases, candidate, limits="fp32", changes=None):
    """The report on `candidate(x)`, which gives one array or the outputs by name; a Failure stands for itself."""
    judge = Judge(
        Scale.of(cases),
        budget_for(limits, CPU, changes),
        related=frozenset(case.relation.partition(":")[2] for case in cases),
    )
    for case in cases:
        with np.errstate(all="ignore"):
            answer = candidate(case)
        judge.add(case, answer if isinstance(answer, dict | Failure) else {"output": answer})
    return conclude("onnx", CPU, judge)


def on_x(function):
    return lambda case: function(case.inputs["x"])


def with_weight(change):
    weight = WEIGHT.astype(np.float32)
    change(weight)

    def candidate(case):
        return case.inputs["x"] @ weight

    return candidate


def on_answer(function):
    """A candidate that spoils what eager answers."""
    return lambda case: np.asarray(function(case.expected["output"].copy()))


def scaled(index, factor):
    def change(weight):
        weight[index] *= factor

    return change


def checks_of(report, **wanted):
    return [c for c in report.checks if all(getattr(c, key) == value for key, value in wanted.items())]


def reordered_sum(x):
    """An honest float32 evaluation in another order than the reference's."""
    weight = WEIGHT.astype(np.float32)
    total = np.zeros((len(x), 3), np.float32)
    for k in reversed(range(5)):
        total += x[:, k : k + 1] * weight[k]
    return total


def noisy(case, error, seed=0):
    """Eager's answer in float64 with noise of exactly this RMSE; the non-finite pattern stays."""
    exact = case.expected64.get("output")
    if exact is None or not exact.size:
        return case.expected["output"]
    asked = {"again": "example"}.get(case.id, case.id)  # the same question gets the same answer
    noise = np.random.default_rng([seed, len(asked)]).standard_normal(exact.shape)
    return (exact + noise * (error / np.sqrt(np.mean(noise**2)))).astype(np.float32)


def large(rows=400):
    """400 rows are more than 1,000 elements: the plain limit on R applies."""
    x = np.random.default_rng(5).standard_normal((rows, 5)).astype(np.float32)
    return answered(CaseInputs("large", "in range", "full", {"x": x}, rows, 0))


def ill_conditioned(rows):
    """Eager's own noise is large against the rounding of the answer, so that a test can meet a limit exactly."""
    return replace(large(rows), noise={"output": Noise(1e-4)})


def test_an_honest_float32_variant_passes_with_r_around_one(cases):
    report = judged(cases, on_x(reordered_sum))
    assert (report.verdict, report.exit_code, report.code, report.first_divergence) == ("pass", 0, "", None)
    assert report.provider == CPU
    ratios = {c.id: c.value for c in checks_of(report, metric="R")}
    assert 0.3 < ratios["gaussian"] < 2.5
    assert 0.3 < ratios["batch-64"] < 2.5
    assert max(ratios.values()) < 4
    assert {c.verdict for c in report.checks} == {"pass"}
    assert {c.id for c in report.checks} == {case.id for case in cases} | {"top1-agreement", "top1-flips"}
    assert report.reason == f"{len(report.checks)} checks"


def test_eager_itself_passes_at_one(cases):
    report = judged(cases, on_answer(lambda y: y))
    assert report.verdict == "pass"
    assert all(c.value <= 1.0 + 1e-9 for c in checks_of(report, metric="R"))


SABOTAGE = {
    "a weight x 1.01": (with_weight(scaled((1, 2), 1.01)), "VALUE_MISMATCH", "is in column 2"),
    "a weight x 1.0001": (with_weight(scaled((1, 2), 1.0001)), "VALUE_MISMATCH", "is in column 2"),
    "a sign flipped": (with_weight(scaled((3, 0), -1.0)), "VALUE_MISMATCH", "is in column 0"),
    "an input feature ignored": (with_weight(scaled((4, slice(None)), 0.0)), "VALUE_MISMATCH", "largest difference"),
    "class columns swapped": (on_answer(lambda y: y[:, [1, 0, 2]]), "VALUE_MISMATCH", "largest difference"),
    "a constant output": (on_answer(lambda y: np.full_like(y, 0.25)), "VALUE_MISMATCH", "largest difference"),
    "rows of the batch mixed": (on_answer(lambda y: np.roll(y, 1, axis=0)), "VALUE_MISMATCH", "largest difference"),
    "rows in reverse": (on_answer(lambda y: y[::-1].copy()), "VALUE_MISMATCH", "largest difference"),
    "one column x 1.001": (
        on_answer(lambda y: y * np.array([1, 1.001, 1], np.float32)),
        "VALUE_MISMATCH",
        "is in column 1",
    ),
    "row 0 for every row": (
        on_answer(lambda y: np.broadcast_to(y[:1], y.shape).copy()),
        "VALUE_MISMATCH",
        "largest difference",
    ),
    "only row 0": (on_answer(lambda y: y[:1]), "SHAPE_MISMATCH", "shape [1, 3] where eager gives [64, 3]"),
    "transposed": (on_answer(lambda y: y.T.copy()), "SHAPE_MISMATCH", "shape [3, 64] where eager gives [64, 3]"),
    "an axis too many": (on_answer(lambda y: y[..., None]), "SHAPE_MISMATCH", "[64, 3, 1]"),
    "in float64": (on_x(linear), "DTYPE_MISMATCH", "float64 where eager gives float32"),
    "everything is NaN": (on_answer(lambda y: y * np.nan), "NAN_PATTERN", "192 of 192 elements"),
    "one element is infinite": (
        on_answer(lambda y: np.where(np.arange(3 * len(y)).reshape(y.shape) == 1, np.inf, y).astype(np.float32)),
        "NAN_PATTERN",
        "1 of 192 elements: at [0, 1]",
    ),
    "no output": (lambda case: {}, "OUTPUT_MISSING", "no output output"),
    "another name": (lambda case: {"logits": case.expected["output"]}, "OUTPUT_MISSING", "no output output"),
    "one output more": (
        lambda case: {"output": case.expected["output"], "debug": case.expected["output"]},
        "OUTPUT_MISSING",
        "unknown output debug",
    ),
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_sabotage_fails_with_its_code_and_says_where(cases, name):
    candidate, code, where = SABOTAGE[name]
    report = judged(cases, candidate)
    assert (report.verdict, report.exit_code, report.code) == ("fail", 1, code)
    assert report.reason.startswith(("gaussian: ", "uniform: "))
    assert where in report.reason
    assert report.first_divergence.startswith(("gaussian (in range, seed 3)", "uniform (in range, seed 3)"))
    assert where in report.first_divergence


def test_the_worst_element_is_named_with_both_values(cases):
    def candidate(case):
        y = case.expected["output"].copy()
        y[-1:, 1] = 7777.0
        return y

    report = judged(cases, candidate)
    named = report.reason.partition(":")[0]
    first = next(case for case in cases if case.id == named).expected64["output"]
    assert f"output[63, 1]: expected {first[63, 1]:.6g}, got 7777" in report.reason


def test_a_dropped_bias_fails_in_every_precision(cases):
    bias = np.array([0.0, 0.0, 3.0])

    def add(case):
        return replace(
            case,
            expected={"output": (case.expected["output"] + bias).astype(np.float32)},
            expected64={name: exact + bias for name, exact in case.expected64.items()},
        )

    biased = [add(case) for case in cases]
    assert judged(biased, lambda case: case.expected["output"]).verdict == "pass"
    for precision, code in (("fp32", "VALUE_MISMATCH"), ("int8-static", "SQNR_LOW")):
        report = judged(biased, lambda case: (case.expected["output"] - bias).astype(np.float32), precision)
        assert (report.verdict, report.code) == ("fail", code)
        assert "100% of the error is in column 2" in report.reason


def test_a_swallowed_nan_row_fails(cases):
    report = judged(cases, on_x(lambda x: linear(np.nan_to_num(x, posinf=0, neginf=0), np.float32)))
    assert (report.verdict, report.code) == ("fail", "NAN_PATTERN")
    assert {c.id for c in checks_of(report, verdict="fail")} == {"nan-element", "nan-row", "inf-element", "inf-row"}
    assert "eager gives nan" in report.first_divergence


def test_a_defect_at_one_batch_size_only_is_seen(cases):
    report = judged(cases, lambda case: case.expected["output"] * np.float32(1.01 if case.rows == 7 else 1.0))
    assert [c.id for c in checks_of(report, verdict="fail")] == ["batch-7"]
    assert report.first_divergence.startswith("batch-7")


def test_a_defect_on_constant_inputs_only_is_seen(cases):
    report = judged(cases, lambda case: case.expected["output"] + np.float32(case.id == "zeros"))
    assert [c.id for c in checks_of(report, verdict="fail")] == ["zeros"]


def test_a_case_that_cannot_be_run_is_a_failure_with_the_sessions_own_code(cases):
    report = judged(
        cases,
        lambda case: Failure("DYNAMIC_DIM_FIXED", "batch is 2") if case.rows == 3 else case.expected["output"],
    )
    assert (report.verdict, report.code, report.exit_code) == ("fail", "DYNAMIC_DIM_FIXED", 1)
    assert report.first_divergence == "batch-3 (shapes, seed 3): batch is 2"


@pytest.mark.parametrize(("share", "verdict"), [(0.99, "pass"), (1.01, "fail")])
@pytest.mark.parametrize("rows", [400, 64])
def test_the_limit_on_r_is_sharp(share, verdict, rows):
    case = ill_conditioned(rows)
    limit = 4.0 if rows == 400 else 8.0
    report = judged([case], lambda c: noisy(c, share * limit * 1e-4))
    (check,) = checks_of(report, metric="R")
    assert (check.limit, check.verdict) == (limit, verdict if share > 1 else "warn")
    assert check.value == pytest.approx(share * limit, rel=1e-4)
    assert (check.headroom > 1) == (share < 1)


@pytest.mark.parametrize(("value", "verdict"), [(2.4, "pass"), (2.6, "warn")])
def test_r_warns_before_it_fails(value, verdict):
    report = judged([ill_conditioned(400)], lambda c: noisy(c, value * 1e-4))
    assert checks_of(report, metric="R")[0].verdict == verdict
    assert report.verdict == "pass"
    assert report.reason.endswith("1 with a warning") == (verdict == "warn")


def without_half(cases):
    return [replace(c, noise={n: replace(v, half=None) for n, v in c.noise.items()}) for c in cases]


@pytest.mark.parametrize(
    ("precision", "floor"), [(p, b.min_sqnr_db) for p, b in BY_PRECISION.items() if b.min_sqnr_db is not None]
)
@pytest.mark.parametrize(("room", "verdict"), [(0.2, "pass"), (-0.2, "fail")])
def test_noise_just_inside_the_budget_passes_and_just_outside_fails(cases, precision, floor, room, verdict):
    signal = Scale.of(cases).signal["output"]
    alone = [c for c in without_half(cases) if not c.relation.startswith("first-row-of")]  # noise knows no company
    report = judged(alone, lambda c: noisy(c, signal / 10 ** ((floor + room) / 20)), precision)
    assert report.verdict == verdict
    tight = min(checks_of(report, metric="centred_sqnr_db", at_least=True), key=lambda c: c.value)
    assert tight.value == pytest.approx(floor + room, abs=0.01)
    assert tight.limit == floor
    assert tight.headroom == pytest.approx(room, abs=0.01)
    assert tight.code == "SQNR_LOW"  # the warning comes before
    if verdict == "fail":
        assert report.code == "SQNR_LOW"


@pytest.mark.parametrize(("error", "verdict"), [(2.9e-3, "pass"), (3.1e-3, "fail")])
def test_fp16_is_held_to_eager_in_half_too(cases, error, verdict):
    report = judged(cases, lambda c: noisy(c, error), "fp16")
    found = checks_of(report, metric="half_ratio")
    assert {"gaussian", "uniform", "zeros", "ones", "constants", "times3", "min-max"} <= {c.id for c in found}
    found = [c for c in found if c.id in {"gaussian", "uniform", "zeros", "constants"}]
    assert {c.verdict for c in found} == {verdict}
    assert all(("largest difference" in c.reason) == (verdict == "fail") for c in found)
    assert found[0].value == pytest.approx(error / 1e-3, rel=1e-3)
    assert not checks_of(report, metric="centred_sqnr_db", verdict="fail")
    assert report.verdict == verdict
    assert report.code == ("VALUE_MISMATCH" if verdict == "fail" else "")


@pytest.mark.parametrize(("error", "verdict"), [(14.0, "pass"), (16.0, "fail")])
def test_fp16_off_the_distribution_is_held_to_eager_in_half_alone(cases, error, verdict):
    hard = [replace(c, noise={"output": Noise(1e-7, 5.0)}) if c.input_class == "constant" else c for c in cases]
    report = judged(hard, lambda c: noisy(c, error if c.input_class == "constant" else 2e-3), "fp16")
    assert report.verdict == verdict
    found = checks_of(report, input_class="constant")
    assert {c.metric for c in found} == {"half_ratio"}
    assert {c.verdict for c in found} == {verdict}


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8-dynamic", "int8-static", "int4"])
def test_a_variant_too_exact_for_its_precision_was_not_converted(cases, precision):
    report = judged(cases, on_x(reordered_sum), precision)
    assert (report.verdict, report.code) == ("fail", "VARIANT_NOT_APPLIED")
    (check,) = checks_of(report, code="VARIANT_NOT_APPLIED")
    assert check.value > check.limit


def test_one_output_that_needs_no_conversion_does_not_make_the_variant_suspicious(cases):
    """A constant output, and one with no elements, are exact in every precision."""
    both = [
        replace(
            c,
            expected={
                **c.expected,
                "empty": c.expected["output"][:, :0],
                "fixed": np.full_like(c.expected["output"], 3),
            },
            expected64=c.expected64
            and {
                **c.expected64,
                "empty": c.expected64["output"][:, :0],
                "fixed": np.full_like(c.expected64["output"], 3),
            },
        )
        for c in cases
        if c.gate == "full"
    ]
    report = judged(both, lambda c: {**c.expected, "output": noisy(c, 0.02)}, "int8-static")
    assert report.verdict == "pass", report
    exact = judged(both, lambda c: c.expected, "int8-static")
    assert (exact.verdict, exact.code) == ("fail", "VARIANT_NOT_APPLIED")


def test_clean_rows_that_feel_a_bad_neighbour_fail_though_they_stay_finite(cases):
    def touched(case):
        answer = case.expected["output"].copy()
        if np.isnan(answer).any():
            answer[np.isfinite(answer).all(axis=1)] += 1.0
        return answer

    report = judged(cases, touched)
    assert (report.verdict, report.code) == ("fail", "VALUE_MISMATCH")
    assert "non-finite" in report.first_divergence


def test_a_variant_that_answers_nothing_is_an_error_and_one_that_answers_some_a_failure(cases):
    whole = judged(cases, lambda c: Failure("RUN_ERROR", "no such input"))
    assert (whole.verdict, whole.exit_code, whole.code) == ("error", 4, "RUN_ERROR")
    some = judged(cases, lambda c: Failure("RUN_ERROR", "batch") if c.id == "batch-3" else c.expected["output"])
    assert (some.verdict, some.exit_code) == ("fail", 1)


def test_reduced_precision_that_is_exact_on_zeros_is_not_suspicious(cases):
    report = judged(cases, lambda c: c.expected["output"] if c.id == "zeros" else noisy(c, 0.02), "int8-static")
    assert report.verdict == "pass"
    assert checks_of(report, id="zeros")[0].value == math.inf


@pytest.mark.parametrize("precision", ["fp16", "int8-static"])
def test_sabotage_fails_in_reduced_precision_too(cases, precision):
    for candidate in (
        on_answer(lambda y: y[:, [1, 0, 2]]),
        on_answer(lambda y: np.full_like(y, 0.25)),
        on_answer(lambda y: np.broadcast_to(y[:1], y.shape).copy()),
        on_answer(lambda y: np.roll(y, 1, axis=0)),
    ):
        report = judged(cases, candidate, precision)
        assert (report.verdict, report.code) == ("fail", "SQNR_LOW")


def test_a_statistic_that_is_nan_fails(cases):
    """Nothing is above or below a limit when one of the two is NaN."""
    unknown = [replace(c, noise={"output": Noise(math.nan, math.nan)}) for c in cases]
    for precision in ("fp32", "fp16"):
        report = judged(unknown, lambda c: noisy(c, 1e-3), precision)
        assert (report.verdict, report.code) == ("fail", "VALUE_MISMATCH")
        assert {c.verdict for c in report.checks if c.value is not None and math.isnan(c.value)} == {"fail"}


def test_a_large_constant_part_cannot_hide_a_drowned_signal(cases):
    level = 1000.0
    lifted = [
        replace(
            c,
            expected={"output": (c.expected["output"] + level).astype(np.float32)},
            expected64={n: exact + level for n, exact in c.expected64.items()},
        )
        for c in cases
    ]
    report = judged(lifted, lambda c: noisy(c, 2.0), "int8-static")  # a plain SQNR of 54 dB
    assert (report.verdict, report.code) == ("fail", "SQNR_LOW")


def test_int8_warns_outside_the_calibrated_range(cases):
    def candidate(case):
        return noisy(case, 10.0 if case.input_class == "constant" else 0.02)

    for precision in ("int8-dynamic", "int8-static"):
        report = judged(cases, candidate, precision)
        assert report.verdict == "pass"
        found = checks_of(report, input_class="constant", verdict="warn")
        assert {c.id for c in found} == {"zeros", "ones", "constants", "one-hot"}
        assert {c.reason for c in found} == {"unlike the inputs it is made for"}
    assert judged(without_half(cases), candidate, "fp16").verdict == "fail"


def test_int8_warns_of_a_lost_nan_and_counts_the_rows_that_one_bad_sample_spoils(cases):
    def candidate(case):
        if case.input_class != "non-finite":
            return noisy(case, 0.005)
        clean = np.nan_to_num(case.expected["output"], posinf=9, neginf=-9)
        return clean * np.float32(np.nan if case.id == "nan-row" else 1.0)

    report = judged(cases, candidate, "int8-dynamic")
    assert report.verdict == "pass"
    warned = {c.id: c for c in checks_of(report, input_class="non-finite")}
    assert {c.verdict for c in warned.values()} == {"warn"}
    assert {c.code for c in warned.values()} == {"NAN_PATTERN"}
    assert "spoils 3 good ones" in warned["nan-row"].reason
    assert "integers have no NaN" in warned["nan-element"].reason
    assert judged(without_half(cases), candidate, "fp16").code == "NAN_PATTERN"


def test_a_new_nan_on_ordinary_inputs_fails_int8_as_well(cases):
    report = judged(cases, lambda c: noisy(c, 0.02) * np.float32(np.nan if c.id == "ones" else 1), "int8-dynamic")
    assert (report.verdict, report.code) == ("fail", "NAN_PATTERN")


def test_a_loosened_limit_is_printed_and_a_tightened_one_bites(cases):
    wrong = SABOTAGE["a weight x 1.01"][0]
    loose = judged(cases, wrong, changes={"max_r": 1e7, "warn_r": 1e7})
    assert checks_of(loose, metric="R", verdict="fail") == []
    assert "loosened: max_r 4 → 1e+07" in loose.reason
    assert all("loosened" in c.reason for c in checks_of(loose, metric="R"))
    tight = judged(cases, on_x(reordered_sum), changes={"max_r": 0.01})
    assert (tight.verdict, tight.code) == ("fail", "VALUE_MISMATCH")
    assert "loosened" not in tight.reason


def test_without_a_float64_answer_the_reference_is_called_weak(cases):
    weak = [replace(c, expected64={}, noise={}) for c in cases]
    report = judged(weak, on_x(reordered_sum))
    assert report.verdict == "pass"
    assert all("weak reference" in c.reason for c in checks_of(report, metric="R") if c.input_class != "non-finite")
    for name in ("a weight x 1.01", "a sign flipped", "one column x 1.001", "rows of the batch mixed"):
        candidate, code, where = SABOTAGE[name]
        found = judged(weak, candidate)
        assert (found.verdict, found.code) == ("fail", code)
        assert where in found.reason


def test_a_result_that_overflows_float32_in_eager_too_is_no_failure(cases):
    """Float64 has room where float32 has none: the pattern is eager's, the values are those that eager has."""

    def overflowing(case):
        if case.gate != "full":
            return case
        wide = np.where(np.arange(3) == 1, 1e50, case.expected64["output"])
        with np.errstate(over="ignore"):
            return replace(case, expected64={"output": wide}, expected={"output": wide.astype(np.float32)})

    rising = [overflowing(c) for c in cases]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for precision, error in (("fp32", 0.0), ("int8-static", 0.02)):

            def honest(case, error=error):
                y = case.expected["output"]
                return y + np.where(np.isfinite(y), np.float32(error), 0)

            report = judged(rising, honest, precision)
            assert report.verdict == "pass", report.reason
        broken = judged(rising, lambda c: c.expected["output"] * np.float32(1.01))
    assert broken.code == "VALUE_MISMATCH"
    assert "largest difference inf" not in broken.reason


def test_minus_infinity_is_a_score_like_any_other(signature):
    """A masked class: its score is minus infinity in every row, and the decisions are among the others."""
    case = large()
    masked = replace(
        case,
        expected={"output": np.where([True, False, True], case.expected["output"], np.float32(-np.inf))},
        expected64={"output": np.where([True, False, True], case.expected64["output"], -np.inf)},
        labels=np.zeros(400, np.int64),
    )
    report = judged([masked], lambda c: c.expected["output"])
    assert report.verdict == "inconclusive"  # 400 samples are too few for half a point
    assert checks_of(report, id="top1-agreement")[0].value == 1.0
    swapped = judged([masked], on_answer(lambda y: y[:, [2, 1, 0]]))
    assert checks_of(swapped, metric="unexplained_flips")[0].value > 0


def test_integers_are_exact_and_complex_outputs_are_compared():
    expected = {
        "index": np.arange(6),
        "mask": np.array([True, False]),
        "wave": np.array([[1 + 1j, 2 + 0j]], np.complex64),
    }
    case = Case("gaussian", "in range", "full", None, 0, {}, expected, {}, {})
    assert judged([case], lambda c: dict(c.expected)).verdict == "pass"
    for name, right in expected.items():
        wrong = right.copy()
        wrong.flat[0] = 0 if name != "index" else 5
        report = judged([case], lambda c, name=name, wrong=wrong: {**c.expected, name: wrong})
        assert (report.verdict, report.code) == ("fail", "VALUE_MISMATCH"), name


def test_swapped_outputs_fail_as_order_and_are_still_compared_by_name():
    y = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    case = Case("gaussian", "in range", "full", 8, 0, {}, {"a": y, "b": 2 * y}, {}, {})
    moved = judged([case], lambda c: {"b": 2 * y, "a": y})
    assert (moved.verdict, moved.code) == ("fail", "OUTPUT_ORDER")
    assert len(checks_of(moved, verdict="fail")) == 1
    crossed = judged([case], lambda c: {"a": 2 * y, "b": y})
    assert [c.output for c in checks_of(crossed, code="VALUE_MISMATCH")] == ["a", "b"]


def test_empty_batches_and_scalars_are_judged():
    empty = np.zeros((0, 3), np.float32)
    none = Case("batch-0", "shapes", "full", 0, 0, {}, {"y": empty}, {"y": empty.astype(float)}, {"y": Noise(None)})
    one = np.float32(3.0).reshape(())
    scalar = Case("gaussian", "in range", "full", None, 0, {}, {"y": one}, {"y": one.astype(float)}, {"y": Noise(1e-7)})
    for case in (none, scalar):
        assert judged([case, scalar], lambda c: dict(c.expected)).verdict == "pass"
    assert judged([scalar], lambda c: {"y": one + 1}).code == "VALUE_MISMATCH"
    assert judged([none, scalar], lambda c: {"y": c.expected["y"][:1] if c.rows == 0 else one}).verdict == "pass"
    assert judged([none, scalar], lambda c: {"y": np.zeros((1, 3), np.float32)}).code == "SHAPE_MISMATCH"


def test_no_case_proves_nothing():
    report = conclude("onnx", CPU, Judge(Scale({}), budget_for("fp32", CPU)))
    assert (report.verdict, report.exit_code, report.code) == ("inconclusive", 3, "SAMPLE_SIZE")


# decisions


def labelled(signature, rows, seed=0):
    """Real samples whose labels are what eager says, for nine in ten of them."""
    x = np.random.default_rng(seed).standard_normal((rows, 5)).astype(np.float32)
    labels = linear(x, np.float32).argmax(axis=1).astype(np.int64)
    labels[::10] = (labels[::10] + 1) % 3
    given = Samples({"x": x}, labels, {"x": x[:4]})
    return [answered(question) for question in campaign(signature, EXAMPLE, given, 3)]


def flipped(count):
    """The float32 answer with the decision of the first `count` right samples turned."""

    def candidate(case):
        y = case.expected["output"].copy()
        if case.labels is not None:
            right = np.flatnonzero(y.argmax(axis=1) == case.labels)[:count]
            y[right] = -y[right]
        return y

    return candidate


@pytest.mark.parametrize(("rows", "verdict"), [(538, "inconclusive"), (539, "pass")])
def test_too_few_labels_are_inconclusive_and_the_number_that_decides_is_named(signature, rows, verdict):
    report = judged(labelled(signature, rows), flipped(0))
    (check,) = checks_of(report, id="top1-drop")
    assert report.verdict == check.verdict == verdict
    assert f"on {rows} labelled samples" in check.reason
    if verdict == "inconclusive":
        assert (report.code, report.exit_code) == ("SAMPLE_SIZE", 3)
        assert "about 539 samples like these would decide" in report.reason


def test_one_failure_outweighs_an_open_question(signature):
    report = judged(labelled(signature, 100), SABOTAGE["a weight x 1.01"][0])
    assert (report.verdict, report.code) == ("fail", "VALUE_MISMATCH")
    assert checks_of(report, verdict="inconclusive")


def test_lost_accuracy_fails_even_when_every_number_is_within_tolerance(signature):
    given = labelled(signature, 600)
    report = judged(given, flipped(12), changes={"max_r": 1e12})
    (check,) = checks_of(report, id="top1-drop")
    assert (check.verdict, check.code) == ("fail", "METRIC_INFERIOR")


def test_a_ratio_under_its_limit_fails_when_the_loss_is_real_and_stays_open_when_it_may_be_chance(signature):
    for lost, verdict, said in [(3, "fail", "under 0.999 of eager's"), (1, "inconclusive", "would")]:
        report = judged(labelled(signature, 900), flipped(lost), changes={"max_r": 1e12})
        (check,) = checks_of(report, id="top1-drop")
        assert (check.verdict, said in check.reason) == (verdict, True), check


def test_a_drop_that_is_certain_is_a_failure_and_no_open_question(signature):
    report = judged(labelled(signature, 600), flipped(12), changes={"max_r": 1e12, "min_ratio": 0.9})
    (check,) = checks_of(report, id="top1-drop")
    assert (check.verdict, check.code) == ("fail", "METRIC_INFERIOR")
    assert check.value > 0.005


def test_a_drop_near_the_margin_stays_open_and_more_of_the_same_would_not_help(signature):
    report = judged(labelled(signature, 600), flipped(4), changes={"max_r": 1e12, "min_ratio": 0.9})
    (check,) = checks_of(report, id="top1-drop")
    assert (check.verdict, check.code) == ("inconclusive", "SAMPLE_SIZE")
    assert "would not help" in check.reason


def test_agreement_is_shown_with_its_bound_and_never_gates(cases):
    report = judged(cases, on_x(reordered_sum))
    (check,) = checks_of(report, id="top1-agreement")
    assert (check.verdict, check.value) == ("pass", 1.0)
    assert "128 of 128 decisions alike, at most 2.31% differ (95 %)" in check.reason


def near_tie(margin, push):
    """1,200 elements, noise 1e-6; in row 0 the classes are `margin` apart, and the candidate pushes by `push`."""
    exact = np.random.default_rng(2).standard_normal((400, 3))
    exact[0] = [0.0, margin, -1.0]
    case = Case(
        "gaussian", "in range", "full", 400, 3, {}, {"output": exact.astype(np.float32)}, {"output": exact},
        {"output": Noise(1e-6)},
    )  # fmt: skip
    pushed = exact.copy()
    pushed[0, 0] += push
    return judged([case], lambda c: pushed.astype(np.float32))


def test_a_flip_within_the_allowed_error_is_a_tie():
    report = near_tie(20e-6, 30e-6)
    (check,) = checks_of(report, id="top1-flips")
    assert (check.verdict, check.value) == ("pass", 0)
    assert "tie" in check.reason
    assert checks_of(report, id="top1-agreement")[0].value == 399 / 400


def test_a_flip_that_no_allowed_error_explains_fails_though_the_average_is_fine():
    report = near_tie(60e-6, 100e-6)
    (values,) = checks_of(report, metric="R")
    assert values.verdict == "warn"  # one element in 1,200 does not move the average over its limit
    (check,) = checks_of(report, id="top1-flips")
    assert (report.verdict, check.verdict, check.code) == ("fail", "fail", "VALUE_MISMATCH")
    assert "gaussian, row 0: class 1 became 0" in report.reason


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ([(4, 2)], "y0"),
        ([(4, 1)], None),
        ([(4,)], None),
        ([(4, 3, 2)], None),
        ([(4, 3), (4, 3)], None),
    ],
)
def test_what_decides_is_a_lone_matrix_of_scores(shapes, found):
    outputs = {f"y{i}": np.zeros(shape, np.float32) for i, shape in enumerate(shapes)}
    assert classifier_output(Case("a", "real", "full", 4, 0, {}, outputs, {}, {})) == found
    whole = {name: array.astype(np.int64) for name, array in outputs.items()}
    assert classifier_output(Case("a", "real", "full", 4, 0, {}, whole, {}, {})) is None


def test_scales_come_from_the_judged_cases_of_the_reference_alone(cases):
    inside = [c for c in cases if c.input_class == "in range"]
    scale = Scale.of(cases)
    assert scale == Scale.of(inside)
    assert scale.classifier == "output"
    assert scale.signal["output"] == pytest.approx(np.sqrt((WEIGHT**2).sum() / 3), rel=0.3)
    assert 2**-26 < scale.noise["output"] < 2**-22
    assert Scale.of([]) == Scale({}, {}, None)


def test_clean_rows_of_an_ill_conditioned_model_are_held_to_its_own_noise(cases):
    """Eager's noise is far above a unit in the last place: an equally noisy answer beside a NaN row is no failure."""
    level = 3e-4
    wide = [
        replace(
            c,
            expected={"output": np.tile(c.expected["output"], (1, 400))},
            expected64=c.expected64 and {"output": np.tile(c.expected64["output"], (1, 400))},
            noise=c.noise and {"output": Noise(level)},
        )
        for c in cases
    ]

    def equally_noisy(case):
        exact = case.expected["output"]
        size = np.nanmean(np.abs(exact[np.isfinite(exact)])) if np.isfinite(exact).any() else 1.0
        noise = np.random.default_rng(case.inputs["x"].size)  # the same question gets the same answer
        return (exact + 0.5 * level * min(1.0, size) * noise.standard_normal(exact.shape)).astype(np.float32)

    assert judged(wide, equally_noisy).verdict == "pass"
