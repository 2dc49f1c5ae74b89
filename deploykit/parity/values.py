"""Grading floating-point values: R for full precision, centred SQNR and eager half's own error for reduced ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from deploykit.distances import rms, rmse, sqnr_db
from deploykit.parity.budget import FP32, Budget
from deploykit.parity.ledger import Ledger, grade, point_at
from deploykit.parity.scale import IN_DISTRIBUTION, Scale, is_small, truth
from deploykit.reference import Case, Noise
from deploykit.results import CheckVerdict

ORDINARY = {*IN_DISTRIBUTION, "shapes", "sequence", "layout", "masks"}
"""Input classes made of ordinary values: every kind of variant answers for its values there."""

SIGMAS = 4.0
"""One element may be this many RMSE off when the whole output is within its budget."""


@dataclass
class Values:
    """Grades one float output of one case.

    Attributes:
        exactness: SQNR of every judged answer with a signal in it: what `check_applied` looks at.
    """

    scale: Scale
    ledger: Ledger
    exactness: list[tuple[float, Case, str]] = field(default_factory=list)

    def grade(self, case: Case, name: str, actual: np.ndarray, budget: Budget) -> None:
        """Mark `actual` against the truth of `case`; forms and non-finite patterns agree already."""
        if budget.max_r is not None:
            self._relative_noise(case, name, actual, budget)
        else:
            self._signal_to_noise(case, name, actual, budget)

    def allowed(self, case: Case, name: str, budget: Budget) -> float:
        """The largest error of one element that the budget excuses, in units of the output; infinite where unknown."""
        if budget.max_r is not None:
            return SIGMAS * budget.max_r * self.scale.noise_of(case, name)
        half = case.noise.get(name, Noise(None)).half
        if budget.max_half_ratio is not None and half:
            return SIGMAS * budget.max_half_ratio * half
        return math.inf

    def rms_budget(self, case: Case, name: str, budget: Budget) -> float:
        """The RMSE that the budget allows on this case, in units of the output."""
        if budget.max_r is not None:
            return budget.max_r * self.scale.noise_of(case, name)
        return float(self.scale.signal_of(case, name) * 10.0 ** (-(budget.min_sqnr_db or 0.0) / 20.0))

    def most(self, case: Case, name: str, budget: Budget) -> float:
        """The largest RMSE to `truth` at which `grade` does not fail; infinite where no value fails it.

        For those who hold answers to a limit without the rest of the gate: the check that travels with a handoff.
        """
        full = float(FP32.max_r or 0.0) * self.scale.noise_of(case, name)
        if budget.max_r is not None:
            factor = budget.small_factor if is_small(case, truth(case, name).size) else 1.0
            return float(factor * budget.max_r * self.scale.noise_of(case, name))
        own = case.noise.get(name, Noise(None)).half
        half = math.inf if budget.max_half_ratio is None or not own else budget.max_half_ratio * own
        if case.input_class not in ORDINARY and math.isfinite(half):
            return half
        if case.input_class not in ORDINARY and not (budget.values_everywhere and case.input_class == "constant"):
            return math.inf
        signal = self.scale.signal_of(case, name) or rms(truth(case, name))
        floor = float(signal) * 10.0 ** (-(budget.min_sqnr_db or 0.0) / 20.0)
        return float(max(full, min(floor, half) if case.input_class in IN_DISTRIBUTION else floor))

    def _relative_noise(self, case: Case, name: str, actual: np.ndarray, budget: Budget) -> None:
        """R against float64; against eager fp32 with a fixed floor where the reference is weak."""
        target = truth(case, name)
        base, error = self.scale.noise_of(case, name), rmse(target, actual)
        value = error / base if base else (0.0 if error == 0.0 else math.inf)
        factor = budget.small_factor if is_small(case, target.size) else 1.0
        limit = (budget.max_r or 0.0) * factor
        reason = budget.reason + ("; small case, limit doubled" if factor != 1.0 else "")
        if name not in case.expected64 and case.input_class != "non-finite":
            reason = f"weak reference: no float64 answer, compared with eager fp32; {reason}"
        verdict, code = grade(value, limit, (budget.warn_r or limit) * factor)
        if verdict == "fail":
            reason = point_at(name, target, actual)
        self.ledger.mark(case, name, verdict, code, "R", value, limit, reason)

    def _signal_to_noise(self, case: Case, name: str, actual: np.ndarray, budget: Budget) -> None:
        """Centred SQNR, and eager half's own error where the budget knows it."""
        target = truth(case, name)
        ordinary = case.input_class in ORDINARY
        if not ordinary and self._half(case, name, target, actual, budget):
            return  # off the distribution a fixed number of decibels says little; eager's own half precision says it
        error = rmse(target, actual)
        signal = self.scale.signal_of(case, name)
        value = sqnr_db(signal or rms(target), error)  # a constant output has no centred signal
        floor, warn = budget.min_sqnr_db or 0.0, budget.warn_sqnr_db or 0.0
        if case.input_class in IN_DISTRIBUTION and signal:
            self.exactness.append((value, case, name))
        if value < warn and self._as_exact_as_eager(case, name, error):
            return  # what depends on the input is smaller here than eager's own rounding
        held = ordinary or (budget.values_everywhere and case.input_class == "constant")
        reason, code = f"little room: {warn:g} dB would be comfortable; {budget.reason}", "SQNR_LOW"
        verdict: CheckVerdict = "warn"
        if not value >= floor:
            verdict = "fail" if held else "warn"
            reason = point_at(name, target, actual) if held else "unlike the inputs it is made for"
        elif value >= warn:
            verdict, code, reason = "pass", "", budget.reason
        self.ledger.mark(case, name, verdict, code, "centred_sqnr_db", value, floor, reason, at_least=True)
        if case.input_class in IN_DISTRIBUTION:
            self._half(case, name, target, actual, budget)

    def _as_exact_as_eager(self, case: Case, name: str, error: float) -> bool:
        """Whether the error is within the budget of full precision, and a check that says so."""
        base, limit = self.scale.noise_of(case, name), FP32.max_r or 0.0
        value = error / base if base else (0.0 if error == 0.0 else math.inf)
        if value > limit:
            return False
        self.ledger.mark(case, name, "pass", "", "R", value, limit, "as exact as eager's own fp32")
        return True

    def _half(self, case: Case, name: str, target: np.ndarray, actual: np.ndarray, budget: Budget) -> bool:
        """Hold the error to eager's own in half precision; False where the budget or the case does not have that."""
        own, limit = case.noise.get(name, Noise(None)).half, budget.max_half_ratio
        if limit is None or not own:
            return False
        value = rmse(target, actual) / own
        verdict, code = grade(value, limit, limit)
        reason = "times the error of eager in half precision"
        if verdict == "fail":
            reason = point_at(name, target, actual)
        self.ledger.mark(case, name, verdict, code, "half_ratio", value, limit, reason)
        return True

    def check_applied(self, budget: Budget) -> None:
        """Fail when no output shows the precision change: each answer with a signal in it is too exact for that."""
        ceiling = budget.not_applied_db
        if ceiling is None or not self.exactness:
            return
        value, case, name = min(self.exactness, key=lambda entry: entry[0])
        if value > ceiling:
            reason = "too exact for this precision: the change did not happen"
            self.ledger.mark(case, name, "fail", "VARIANT_NOT_APPLIED", "centred_sqnr_db", value, ceiling, reason)
