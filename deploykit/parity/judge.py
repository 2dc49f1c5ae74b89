"""Judging one variant's answers against the reference: cases in, checks and a verdict out. Pure numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from deploykit.parity import compare
from deploykit.parity.budget import Budget
from deploykit.parity.decisions import Decisions
from deploykit.parity.scale import IN_DISTRIBUTION, SMALL, Scale, truth
from deploykit.reference import Case, Noise
from deploykit.results import EXIT_OF, Check, CheckVerdict, VariantReport, VariantVerdict
from deploykit.signature import Feeds


@dataclass(frozen=True)
class Failure:
    """A case that the session could not answer: code and message of its error."""

    code: str
    message: str


@dataclass
class Judge:
    """Collects the checks of one variant, case by case.

    Attributes:
        scale: sizes that the reference alone gives.
        budget: the limits.
        decisions: counted where the model is a classifier.
        divergence: the first failure, in words; None while there is none.
    """

    scale: Scale
    budget: Budget
    checks: list[Check] = field(default_factory=list)
    decisions: Decisions | None = None
    divergence: str | None = None
    exactness: list[tuple[float, Case, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.scale.classifier is not None:
            self.decisions = Decisions(self.scale.classifier, self.budget, self.scale)

    def add(self, case: Case, answer: Feeds | Failure) -> None:
        """Judge one case; `answer` holds the outputs in the order in which the session gave them."""
        if isinstance(answer, Failure):
            self._mark(case, "", "fail", answer.code, "runs", None, None, answer.message)
            return
        if mismatch := compare.structure(tuple(case.expected), tuple(answer)):
            self._fail(case, mismatch)
            answer = {name: array for name, array in answer.items() if name in case.expected}
        for name, actual in answer.items():
            self._output(case, name, actual)
        if self.decisions and self.decisions.output in answer and case.input_class in IN_DISTRIBUTION:
            self.decisions.add(case, answer[self.decisions.output])

    def _output(self, case: Case, name: str, actual: np.ndarray) -> None:
        expected = case.expected[name]
        if mismatch := compare.form(name, expected, actual) or compare.exact(name, expected, actual):
            self._fail(case, mismatch)
            return
        if mismatch := compare.pattern(name, expected, actual):
            self._pattern(case, mismatch, compare.spoiled_rows(expected, actual))
            return
        if expected.dtype.kind not in "fc":
            self._mark(case, name, "pass", "", "different", 0.0, 0.0, "exact")
            return
        if case.gate == "pattern":
            self._clean_rows(case, name, actual)
            return
        if self.budget.max_r is not None:
            self._relative_noise(case, name, actual)
        else:
            self._signal_to_noise(case, name, actual)

    def _clean_rows(self, case: Case, name: str, actual: np.ndarray) -> None:
        """Same non-finite pattern; now the rows that eager keeps finite must not have felt their neighbours."""
        expected = case.expected[name]
        clean = np.isfinite(expected).reshape(len(expected), -1).all(axis=1) if expected.ndim else np.array(False)
        if not clean.any():
            self._mark(case, name, "pass", "", "different", 0.0, 0.0, "same non-finite pattern")
            return
        left = replace(case, gate="full", expected={name: expected[clean]}, expected64={}, rows=None, noise={})
        if self.budget.max_r is not None:
            self._relative_noise(left, name, actual[clean])
        elif self.budget.strict_pattern:
            self._signal_to_noise(left, name, actual[clean])

    def _relative_noise(self, case: Case, name: str, actual: np.ndarray) -> None:
        """R against float64; against eager fp32 with a fixed floor where the reference is weak."""
        target = truth(case, name)
        base, error = self.scale.noise_of(case, name), compare.rmse(target, actual)
        value = error / base if base else (0.0 if error == 0.0 else math.inf)
        factor = self.budget.small_factor if target.size < SMALL else 1.0
        limit = (self.budget.max_r or 0.0) * factor
        reason = self.budget.reason + ("; small case, limit doubled" if factor != 1.0 else "")
        if name not in case.expected64 and case.input_class != "non-finite":
            reason = f"weak reference: no float64 answer, compared with eager fp32; {reason}"
        verdict, code = self._grade(value, limit, (self.budget.warn_r or limit) * factor)
        if verdict == "fail":
            reason = self._point_at(name, target, actual)
        self._mark(case, name, verdict, code, "R", value, limit, reason)

    def _signal_to_noise(self, case: Case, name: str, actual: np.ndarray) -> None:
        """Centred SQNR, and eager half's own error where the budget knows it."""
        target = truth(case, name)
        if case.input_class == "constant" and self._half(case, name, target, actual):
            return  # off the distribution a fixed number of decibels says little; eager's own half precision says it
        error = compare.rmse(target, actual)
        signal = self.scale.signal_of(case, name)
        value = compare.sqnr_db(signal or compare.rms(target), error)  # a constant output has no centred signal
        floor, warn = self.budget.min_sqnr_db or 0.0, self.budget.warn_sqnr_db or 0.0
        judged = self.budget.values_everywhere or case.input_class in {*IN_DISTRIBUTION, "shapes"}
        reason, code = self.budget.reason, "SQNR_LOW"
        verdict: CheckVerdict = "warn"
        if math.isnan(value) or value < floor:
            verdict = "fail" if judged else "warn"
            reason = self._point_at(name, target, actual) if judged else "outside the calibrated range"
        elif value >= warn:
            verdict, code = "pass", ""
        self._mark(case, name, verdict, code, "centred_sqnr_db", value, floor, reason, at_least=True)
        if case.input_class in IN_DISTRIBUTION:
            self._half(case, name, target, actual)
            if signal:
                self.exactness.append((value, case, name))

    def check_applied(self) -> None:
        """Fail when no output shows the precision change: each answer with a signal in it is too exact for that."""
        ceiling = self.budget.not_applied_db
        if ceiling is None or not self.exactness:
            return
        value, case, name = min(self.exactness, key=lambda entry: entry[0])
        if value > ceiling:
            reason = "too exact for this precision: the change did not happen"
            self._mark(case, name, "fail", "VARIANT_NOT_APPLIED", "centred_sqnr_db", value, ceiling, reason)

    def _half(self, case: Case, name: str, target: np.ndarray, actual: np.ndarray) -> bool:
        """Hold the error to eager's own in half precision; False where the budget or the case does not have that."""
        own, limit = case.noise.get(name, Noise(None)).half, self.budget.max_half_ratio
        if limit is None or not own:
            return False
        value = compare.rmse(target, actual) / own
        verdict, code = self._grade(value, limit, limit)
        reason = "times the error of eager in half precision"
        if verdict == "fail":
            reason = self._point_at(name, target, actual)
        self._mark(case, name, verdict, code, "half_ratio", value, limit, reason)
        return True

    def _grade(self, value: float, limit: float, warn: float) -> tuple[CheckVerdict, str]:
        if math.isnan(value) or value > limit:
            return "fail", "VALUE_MISMATCH"
        return ("warn", "VALUE_MISMATCH") if value > warn else ("pass", "")

    def _pattern(self, case: Case, mismatch: compare.Mismatch, spoiled: int) -> None:
        """A wrong non-finite pattern fails; quantized arithmetic has no NaN, so it only warns there."""
        if case.input_class != "non-finite" or self.budget.strict_pattern:
            self._fail(case, mismatch)
            return
        reason = "integer arithmetic has no NaN: screen inputs before the model"
        if spoiled:
            reason = f"one bad sample spoils {spoiled} good ones in its batch: screen inputs before the model"
        self._mark(case, mismatch.output, "warn", mismatch.code, mismatch.metric, mismatch.value, 0.0, reason)

    def _fail(self, case: Case, mismatch: compare.Mismatch) -> None:
        self._mark(case, mismatch.output, "fail", mismatch.code, mismatch.metric, mismatch.value, 0.0, mismatch.reason)

    def _mark(
        self,
        case: Case,
        output: str,
        verdict: CheckVerdict,
        code: str,
        metric: str,
        value: float | None,
        limit: float | None,
        reason: str,
        *,
        at_least: bool = False,
    ) -> None:
        if verdict == "fail" and self.divergence is None:
            self.divergence = f"{case.id} (seed {case.seed}){f', output {output}' if output else ''}: {reason}"
        self.checks.append(
            Check(case.id, case.input_class, output, verdict, code, metric, value, limit, reason, at_least)
        )

    def _point_at(self, name: str, target: np.ndarray, actual: np.ndarray) -> str:
        """The worst element, and whether the error sits in few columns: that names the unit to look at."""
        index, size = compare.worst(target, actual)
        values = f"expected {target[index]:.6g}, got {actual[index]:.6g}"
        text = f"largest difference {size:.3g} at {name}{list(index)}: {values}"
        if target.ndim == 2 and target.shape[1] > 1:
            error = np.mean(compare.distance(target, actual) ** 2, axis=0)
            share = float(error[index[1]] / max(float(error.sum()), 1e-300))
            if share > 0.9:
                text += f"; {share:.0%} of the error is in column {index[1]}"
        return text


def conclude(name: str, provider: str | None, judge: Judge) -> VariantReport:
    """The variant's verdict: one failure fails it, else one open question leaves it open."""
    judge.check_applied()
    checks = [*judge.checks, *(judge.decisions.checks() if judge.decisions else [])]
    failed = [check for check in checks if check.verdict == "fail"]
    open_ = [check for check in checks if check.verdict == "inconclusive"]
    verdict: VariantVerdict = "fail" if failed else "inconclusive" if open_ else "pass"
    warned = sum(check.verdict == "warn" for check in checks)
    code, reason = "", f"{len(checks)} checks" + (f", {warned} with a warning" if warned else "")
    for first in (*failed, *open_)[:1]:
        code, reason = first.code, f"{first.id}: {first.reason}"
    exit_code = EXIT_OF[verdict]
    if checks and all(check.metric == "runs" for check in checks):
        verdict, exit_code = "error", 4
    if not checks:
        verdict, code, reason, exit_code = "inconclusive", "SAMPLE_SIZE", "no case was compared", 3
    if judge.budget.loosened:
        reason += f" (loosened: {', '.join(judge.budget.loosened)})"
    return VariantReport(name, verdict, provider, tuple(checks), code, reason, judge.divergence, exit_code)
