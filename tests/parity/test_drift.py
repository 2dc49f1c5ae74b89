"""What counts as worse than a baseline: every rule from both sides of its limit."""

import math
from dataclasses import replace

import numpy as np
import pytest

from deploykit.parity.baseline import Baseline, Value, VariantValues
from deploykit.parity.drift import against
from deploykit.parity.scale import Scale
from deploykit.parity.sketch import sketches
from deploykit.reference import Case


def value(metric="R", number=1.0, verdict="pass", name="real", limit=4.0, at_least=False):
    return Value(name, "output", metric, verdict, number, limit, at_least)


def record(*checks, verdict="pass", name="onnx", reference=(), **more):
    variants = (VariantValues(name, verdict, more.pop("code", ""), tuple(checks)),)
    packages = more.pop("packages", {"torch": "2.14.0", "numpy": "2.4.0", "absent": None})
    return Baseline("mlp", "0" * 64, packages, more.pop("made_with", {}), "cpu", variants, tuple(reference))


def compared(before, after):
    """Verdict of the comparison and the verdicts of its rows, for one check then and now."""
    found = against(record(before), record(after))
    return found.verdict, [drift.verdict for drift in found.drifts]


LIMITS = {
    "R": {"limit": 4.0},
    "half_ratio": {"limit": 3.0},
    "centred_sqnr_db": {"limit": 20.0, "at_least": True},
    "different": {"limit": 0.0},
    "agreement": {"limit": None},
    "accuracy_drop_upper": {"limit": 0.005},
    "covered": {"limit": 0.8, "at_least": True},
    "unjudged": {"limit": None},
}


@pytest.mark.parametrize(
    ("metric", "before", "same", "worse"),
    [
        ("R", 1.0, 1.99, 2.01),  # one eager noise more, and 1.63 times
        ("R", 3.0, 4.88, 4.91),
        ("R", 0.0, 1.0, 1.01),
        ("R", 1.0, 1.0, math.nan),
        ("R", 1.0, 1.0, math.inf),
        ("half_ratio", 0.7, 1.69, 1.71),
        ("centred_sqnr_db", 45.0, 40.8, 40.7),  # 20·log10(1.63) = 4.24 dB
        ("centred_sqnr_db", math.inf, 116.0, 115.0),  # above 120 dB it is luck
        ("centred_sqnr_db", 45.0, 45.0, -math.inf),
        ("different", 0.0, 0.0, 1.0),
        ("different", 8.0, 8.0, 9.0),
        ("agreement", 1.0, 0.9951, 0.9949),
        ("accuracy_drop_upper", 0.001, 0.00224, 0.00226),
        ("covered", 1.0, 0.951, 0.949),
    ],
)
def test_the_border_between_the_same_and_worse(metric, before, same, worse):
    old = value(metric, before, **LIMITS[metric])
    assert compared(old, replace(old, value=same)) == ("pass", [])
    assert compared(old, replace(old, value=worse)) == ("fail", ["fail"])
    if math.isfinite(worse) and math.isfinite(before):  # the way back is an improvement and never fails
        assert compared(replace(old, value=worse), old) == ("pass", ["pass"])


def test_a_value_without_a_limit_has_no_direction():
    old = value("unjudged", 1.0, limit=None)
    assert compared(old, replace(old, value=1e9)) == ("pass", [])


@pytest.mark.parametrize(
    ("before", "after", "rows"),
    [
        ("pass", "warn", "warn"),
        ("pass", "fail", "fail"),
        ("pass", "inconclusive", "fail"),
        ("pass", "skipped", "fail"),
        ("warn", "fail", "fail"),
        ("warn", "inconclusive", "fail"),
        ("inconclusive", "fail", "fail"),
        ("warn", "pass", "pass"),
        ("inconclusive", "pass", "pass"),
        ("fail", "warn", "pass"),
    ],
)
def test_a_worse_verdict_fails_but_a_new_warning_is_only_told(before, after, rows):
    found = against(record(value(verdict=before)), record(value(verdict=after)))
    assert [drift.verdict for drift in found.drifts] == [rows]
    assert found.verdict == ("fail" if rows == "fail" else "pass")
    assert found.exit_code == (1 if rows == "fail" else 0)
    assert found.code == ("BASELINE_DRIFT" if rows == "fail" else "")
    assert found.drifts[0].reason == f"{before} → {after}"


def test_a_check_that_is_not_made_any_more_fails():
    other = value(name="batch-7")
    found = against(record(value(), other), record(value()))
    assert (found.verdict, found.drifts[0].check, found.drifts[0].reason) == (
        "fail",
        "batch-7",
        "the check has vanished",
    )
    assert against(record(value()), record(value(), other)).drifts == ()  # more is no drift


def test_a_value_that_cannot_be_had_any_more_is_told():
    assert compared(value(), value(number=None)) == ("pass", ["warn"])


def test_a_place_that_is_judged_by_something_else_now_is_one_row():
    """A wrong shape ends the comparison before R and half_ratio are measured: that is one fact."""
    before = record(value("centred_sqnr_db", 60.0, limit=45.0, at_least=True), value("half_ratio", 0.7, limit=3.0))
    after = record(value("shape", 1.0, "fail", limit=0.0), verdict="fail", code="SHAPE_MISMATCH")
    found = against(before, after)
    assert [(drift.verdict, drift.reason) for drift in found.drifts] == [
        ("fail", "centred_sqnr_db pass → shape fail"),
    ]


def test_a_finding_that_went_away_is_no_drift():
    before = record(value("non_finite_differences", 8.0, "warn", "nan-row", limit=0.0))
    assert against(before, record(value("R", 1.0, "pass", "nan-row"))).drifts == ()
    assert against(before, record(value("R", 1.0, "pass", "other"))).verdict == "fail"


@pytest.mark.parametrize("verdict", ["error", "refused", "skipped"])
def test_a_variant_that_did_not_run_is_one_row(verdict):
    found = against(record(value(), value(name="zeros")), record(verdict=verdict, code="LOAD_ERROR"))
    assert [(drift.verdict, drift.reason) for drift in found.drifts] == [
        ("fail", f"pass → {verdict}, LOAD_ERROR: nothing was compared"),
    ]


def test_a_variant_can_be_worse_than_all_its_checks():
    found = against(record(value()), record(value(), verdict="fail", code="WEIGHT_INTEGRITY"))
    assert [(drift.verdict, drift.reason) for drift in found.drifts] == [("fail", "pass → fail, WEIGHT_INTEGRITY")]


def test_only_a_variant_that_was_asked_for_can_have_vanished():
    before, after = record(value(), name="onnx"), record(value(), name="torchscript")
    found = against(before, after)
    assert (found.verdict, found.drifts[0].variant, found.drifts[0].reason) == (
        "fail",
        "onnx",
        "the variant has vanished",
    )
    assert against(before, after, ("torchscript",)).drifts == ()
    assert against(before, after, ("onnx",)).verdict == "fail"


def test_packages_that_changed_are_named_and_alone_are_no_drift():
    after = record(value(), packages={"torch": "2.15.0", "numpy": "2.4.0", "new": "1"}, made_with={"onnx": "1.23"})
    found = against(record(value()), replace(after, cpu="other"))
    assert found.verdict == "pass"
    assert found.changed_packages == (
        "new absent → 1",
        "torch 2.14.0 → 2.15.0",
        "onnx absent → 1.23 (at export)",
        "cpu cpu → other",
    )


# --- eager itself -----------------------------------------------------------------------------------------------------


def eager(cases: list[Case], change=lambda exact, noise: exact, grow: float = 1.0):
    """Sketches of a reference whose float64 answers are changed, by a function of them and of eager's noise."""
    scale = Scale.of(cases)
    moved = []
    for case in cases:
        exact = {name: change(array, scale.noise_of(case, name)) for name, array in case.expected64.items()}
        noise = {name: replace(item, fp32=item.fp32 and item.fp32 * grow) for name, item in case.noise.items()}
        moved.append(replace(case, expected64=exact, noise=noise))
    return sketches(moved, Scale.of(moved))


def reference(before, after):
    return against(record(value(), reference=before), record(value(), reference=after))


def test_the_same_answer_and_one_that_is_rounded_otherwise_are_no_drift(cases):
    before = eager(cases)
    assert reference(before, before).drifts == ()
    generator = np.random.default_rng(1)
    rounded = eager(cases, lambda exact, noise: exact + noise * generator.standard_normal(exact.shape))
    assert reference(before, rounded).verdict == "pass"


@pytest.mark.parametrize(
    "change",
    [
        lambda exact, noise: exact * (1 + 1e-5),
        lambda exact, noise: exact + 10 * noise,
        lambda exact, noise: np.where(np.arange(exact.size).reshape(exact.shape) == 3, exact + 1e-2, exact),
        lambda exact, noise: exact[::-1],
    ],
)
def test_eager_that_answers_differently_is_found_out(cases, change):
    found = reference(eager(cases), eager(cases, change))
    assert (found.verdict, found.exit_code, found.code) == ("fail", 1, "REFERENCE_DRIFT")
    assert {drift.variant for drift in found.drifts} == {""}
    assert all(drift.after > 1.63 for drift in found.drifts if drift.verdict == "fail")


def test_a_noisier_eager_loosens_every_r_and_is_told_or_fails(cases):
    before = eager(cases)
    assert reference(before, eager(cases, grow=1.5)).drifts == ()
    warned = reference(before, [replace(item, noise=item.noise * 3) for item in before])
    assert (warned.verdict, {drift.verdict for drift in warned.drifts}) == ("pass", {"warn"})
    failed = reference(before, [replace(item, noise=item.noise * 5) for item in before])
    assert (failed.verdict, failed.code) == ("fail", "REFERENCE_DRIFT")


def test_a_reference_that_lost_its_float64_answer_or_has_more_nan_fails(cases):
    before = eager(cases)
    weak = [replace(item, strong=False) for item in before]
    assert "no float64 answer" in reference(before, weak).drifts[0].reason
    assert reference(weak, before).drifts == ()  # nothing to compare with, and nothing lost
    assert reference(before, [replace(item, finite=item.finite - 1) for item in before]).verdict == "fail"


def test_other_inputs_are_not_compared_and_that_is_said(cases):
    before = eager(cases)
    other = [replace(item, inputs="1" * 64, projections=(9.0,) * 16) for item in before]
    found = reference(before, other)
    assert (found.verdict, found.exit_code, found.code) == ("inconclusive", 3, "BASELINE_INPUTS")
    some = reference(before, [other[0], *before[1:]])
    assert (some.verdict, [drift.verdict for drift in some.drifts]) == ("pass", ["warn"])
    assert before[0].case in some.drifts[0].reason


def test_a_case_that_left_the_reference_fails(cases):
    before = eager(cases)
    found = reference(before, before[1:])
    assert (found.verdict, found.drifts[0].check) == ("fail", before[0].case)


def test_an_answer_of_zeros_has_no_noise_and_any_change_of_it_counts(cases):
    zero = [replace(item, noise=0.0, projections=(0.0,) * 16) for item in eager(cases)]
    assert reference(zero, zero).drifts == ()
    assert reference(zero, [replace(item, projections=(1e-30,) * 16) for item in zero]).verdict == "fail"


def test_the_gravest_comes_first(cases):
    before = record(value(number=1.0), value(name="zeros", number=9.0), value(name="ones"), reference=eager(cases))
    after = record(value(number=3.0), value(name="zeros", number=1.0), value(name="ones", verdict="warn"))
    found = against(before, replace(after, reference=before.reference))
    assert [drift.verdict for drift in found.drifts] == ["fail", "warn", "pass"]
    assert found.reason == "1 worse than the baseline"
