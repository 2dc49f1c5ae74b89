"""What a dozen mutants say about the gate: the arithmetic of budgets, and every verdict."""

import math
from dataclasses import replace

import numpy as np
import pytest

from deploykit.parity import selfcheck
from deploykit.parity.budget import FP16, FP32, INT8_DYNAMIC
from deploykit.parity.judge import Failure
from deploykit.parity.scale import Scale
from deploykit.parity.selfcheck import Probe, Unit, conclude, eager_sqnr_db, unit_budget
from deploykit.reference import Case, Noise
from deploykit.results import Mutant

GENERATOR = np.random.default_rng(3)
EXACT = GENERATOR.standard_normal((500, 4))
NOISE = 1e-6


def case(expected=None, input_class="in range", name="y", **more):
    array = EXACT.astype(np.float32) if expected is None else expected
    exact = {name: array.astype(np.float64)} if array.dtype.kind == "f" else {}
    return Case(
        "c", input_class, "full", len(array), 0, {"x": array}, {name: array}, exact, {name: Noise(NOISE, 1e-3)}, **more
    )


def unit(budget=FP32, indices=(), of=None):
    return Unit(Scale.of([of or case()]), budget, indices)


def test_one_budget_of_fp32_is_four_times_eagers_noise():
    subject = case()
    assert unit().of(subject, "y") == pytest.approx(4.0 * NOISE)
    moved = {"y": subject.expected["y"] + np.float32(0)}
    assert unit().moved(subject, subject.expected, moved) == 0.0
    wide = {"y": EXACT}
    far = {"y": EXACT + 12.0 * NOISE}
    assert unit().moved(replace(subject, expected=wide), wide, far) == pytest.approx(3.0, rel=1e-6)


def test_one_budget_of_reduced_precision_is_a_part_of_the_signal():
    subject = case()
    signal = float(np.sqrt(np.mean((EXACT - EXACT.mean(axis=0)) ** 2)))
    assert unit(FP16).of(subject, "y") == pytest.approx(signal * 10 ** (-45 / 20), rel=1e-5)
    assert unit(INT8_DYNAMIC).of(subject, "y") == pytest.approx(signal / 10, rel=1e-5)


def test_small_cases_have_the_doubled_limit_of_the_gate():
    subject = case(EXACT[:20].astype(np.float32))
    assert unit(of=subject).of(subject, "y") == pytest.approx(8.0 * NOISE)


@pytest.mark.parametrize(
    "mutant",
    [
        Failure("RUN_ERROR", "no"),
        {},
        {"z": EXACT.astype(np.float32)},
        {"y": EXACT[:3].astype(np.float32)},
        {"y": EXACT},
        {"y": np.where(EXACT.max() == EXACT, np.nan, EXACT).astype(np.float32)},
    ],
    ids=["failure", "missing", "other name", "shape", "dtype", "nan"],
)
def test_changes_of_form_are_infinite(mutant):
    subject = case()
    assert unit().moved(subject, subject.expected, mutant) == math.inf


def test_a_shape_that_changes_on_a_case_that_is_not_judged_is_infinite_too():
    subject = case(input_class="shapes")
    assert unit().moved(subject, subject.expected, Failure("RUN_ERROR", "no")) == math.inf
    assert unit().moved(subject, subject.expected, {"y": 2 * subject.expected["y"]}) == 0.0


def test_integers_are_exact_and_indices_may_be_reordered_a_little():
    whole = np.arange(1000, dtype=np.int64).reshape(100, 10)
    subject = case(whole)
    other = whole.copy()
    other[0, 0] += 1
    assert unit(of=subject).moved(subject, {"y": whole}, {"y": other}) == math.inf
    assert unit(indices=("y",), of=subject).moved(subject, {"y": whole}, {"y": other}) == pytest.approx(0.01)


def test_elements_on_a_step_count_for_nothing_as_in_the_gate():
    array = EXACT.astype(np.float32)
    near = np.stack([array, array])
    near[1, 0, 0] += 1.0
    subject = case(near={"y": near})
    crossed = array.copy()
    crossed[0, 0] += 1.0
    assert unit().moved(subject, {"y": array}, {"y": crossed}) == 0.0
    crossed[1, 1] += 1.0
    assert unit().moved(subject, {"y": array}, {"y": crossed}) > 100.0


def test_a_loosened_limit_is_taken_at_its_word_up_to_ten_times():
    assert unit_budget(replace(FP32, max_r=20.0), FP32).max_r == 20.0
    assert unit_budget(replace(FP32, max_r=1e9), FP32).max_r == 40.0
    assert unit_budget(replace(FP32, max_r=1.0), FP32).max_r == 1.0
    assert unit_budget(replace(FP16, min_sqnr_db=35.0), FP16).min_sqnr_db == 35.0
    assert unit_budget(replace(FP16, min_sqnr_db=-300.0), FP16).min_sqnr_db == 25.0


def test_eagers_own_decibels():
    value, needed = eager_sqnr_db(unit().scale, [case()])
    assert value == pytest.approx(20 * math.log10(np.sqrt(np.mean((EXACT - EXACT.mean(0)) ** 2)) / NOISE), abs=1e-3)
    assert needed == 60.0
    whole = case(np.arange(8).reshape(4, 2))
    assert eager_sqnr_db(unit(of=whole).scale, [whole])[0] is None


def mutants(*kinds):
    """`c`aught and killable, `m`issed and killable, `s`een and small, `u`nseen, `e`quivalent."""
    made = {
        "c": ("weight x 1.01", 9.0, 0.01, True, "VALUE_MISMATCH", False),
        "m": ("bias dropped", 3.0, 1.0, False, "", False),
        "s": ("rounded to fp16", 0.2, 0.0002, True, "WEIGHT_INTEGRITY", False),
        "u": ("channel zeroed", 2.9, 0.1, False, "", False),
        "e": ("activation removed", 0.1, None, False, "", True),
    }
    return [
        Mutant(fault, "fc", moved, change, caught, code, same)
        for fault, moved, change, caught, code, same in (made[kind] for kind in "".join(kinds))
    ]


GOOD = Probe(120.0, 60.0)


@pytest.mark.parametrize(
    ("kinds", "probe", "verdict", "code"),
    [
        ("c" * 12, GOOD, "pass", ""),
        ("c" * 6 + "e" * 6, GOOD, "pass", ""),
        ("c" * 11 + "m", GOOD, "fail", "GATE_BLIND"),
        ("m", Probe(10.0, 60.0), "fail", "GATE_BLIND"),
        ("c" * 6 + "u" * 4, GOOD, "pass", ""),
        ("c" * 5 + "u" * 4, GOOD, "inconclusive", "PROBE_POWER"),
        ("s" * 6 + "u" * 4, GOOD, "pass", ""),
        ("c" * 12, Probe(59.9, 60.0), "inconclusive", "PROBE_POWER"),
        ("c" * 12, Probe(59.9, 30.0), "pass", ""),
        ("c" * 12, Probe(None, 60.0), "pass", ""),
        ("c" * 5 + "e" * 7, replace(GOOD, silent=7), "inconclusive", "PROBE_POWER"),
        ("c" * 5 + "e" * 7, replace(GOOD, silent=2), "pass", ""),
        ("cc" + "e" * 4, replace(GOOD, silent=2), "inconclusive", "PROBE_POWER"),
        ("c", GOOD, "pass", ""),
        ("", GOOD, "inconclusive", "PROBE_POWER"),
    ],
)
def test_the_verdict(kinds, probe, verdict, code):
    found = conclude("onnx", mutants(kinds), probe)
    assert (found.verdict, found.code) == (verdict, code)
    assert found.reason
    assert (found.tried, found.equivalent) == (len(kinds), kinds.count("e"))
    assert found.seen == kinds.count("c") + kinds.count("s")
    assert (found.killable, found.killed) == (kinds.count("c") + kinds.count("m"), kinds.count("c"))


def test_a_hole_is_named_with_the_limits_that_were_loosened():
    found = conclude("onnx", mutants("ccm"), replace(GOOD, loosened=("max_r 4 → 1e+09",)))
    assert "bias dropped at fc moves the answers by 3 budgets and passes the gate" in found.reason
    assert found.reason.endswith("loosened: max_r 4 → 1e+09")


def test_what_was_caught_is_never_equivalent():
    assert selfcheck.is_equivalent(0.2, caught=False)
    assert not selfcheck.is_equivalent(0.2, caught=True)
    assert not selfcheck.is_equivalent(0.25, caught=False)
