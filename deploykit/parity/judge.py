"""Judging one variant's answers against the reference: cases in, checks and a verdict out. Pure numpy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from deploykit.parity import compare, statistics
from deploykit.parity.budget import ULP32, Budget
from deploykit.reference import Case, Noise
from deploykit.results import EXIT_OF, Check, CheckVerdict, VariantReport, VariantVerdict
from deploykit.signature import Feeds

IN_DISTRIBUTION = ("real", "in range")
"""Input classes on which every kind of variant answers for its values."""

MIN_ROWS = 8
"""A batch mean over fewer rows is mostly the rows themselves: such cases use the scale of the judged ones."""


@dataclass(frozen=True)
class Failure:
    """A case that the session could not answer: code and message of its error."""

    code: str
    message: str


@dataclass
class Tally:
    """Decisions counted over the judged cases, for one variant."""

    n: int = 0
    lost: int = 0
    won: int = 0
    right: int = 0
    compared: int = 0
    flips: int = 0
    unexplained: int = 0
    where: str = ""


@dataclass
class Judge:
    """Collects the checks of one variant, case by case.

    Attributes:
        scale: centred RMS of the float64 reference over the judged cases, by output: what a signal is here.
        budget: the limits.
        classifier: name of the output whose largest element is the decision; None where there is none.
        relative_noise: eager's own noise over the judged cases, relative to the RMS, by output. A handful of elements
            can come out exact by luck: small cases are held to the larger of their own noise and this one.
    """

    scale: dict[str, float]
    budget: Budget
    classifier: str | None
    checks: list[Check] = field(default_factory=list)
    relative_noise: dict[str, float] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    divergence: str | None = None

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
        if self.classifier in answer and case.input_class in IN_DISTRIBUTION:
            self._decide(case, answer[self.classifier])

    def _output(self, case: Case, name: str, actual: np.ndarray) -> None:
        expected = case.expected[name]
        if mismatch := compare.form(name, expected, actual) or compare.exact(name, expected, actual):
            self._fail(case, mismatch)
            return
        if mismatch := compare.pattern(name, expected, actual):
            self._pattern(case, mismatch, compare.spoiled_rows(expected, actual))
            return
        if case.gate == "pattern" or expected.dtype.kind not in "fc":
            reason = "same non-finite pattern" if case.gate == "pattern" else "exact"
            self._mark(case, name, "pass", "", "different", 0.0, 0.0, reason)
            return
        if self.budget.max_r is not None:
            self._relative_noise(case, name, actual)
        else:
            self._signal_to_noise(case, name, actual)

    def _relative_noise(self, case: Case, name: str, actual: np.ndarray) -> None:
        """R against float64; against eager fp32 with a fixed floor where the reference is weak."""
        target = _truth(case, name)
        base, error = self._own_noise(case, name, target), compare.rmse(target, actual)
        value = error / base if base else (0.0 if error == 0.0 else math.inf)
        factor = self.budget.small_factor if target.size < self.budget.small else 1.0
        limit = (self.budget.max_r or 0.0) * factor
        reason = self.budget.reason
        if name not in case.expected64:
            reason = f"weak reference: no float64 answer, compared with eager fp32; {reason}"
        verdict, code = self._grade(value, limit, (self.budget.warn_r or limit) * factor)
        if verdict == "fail":
            reason = self._point_at(name, target, actual)
        self._mark(case, name, verdict, code, "R", value, limit, reason)

    def _own_noise(self, case: Case, name: str, target: np.ndarray) -> float:
        """The error that is one R; without a float64 answer four times the floor, since eager's own is not known."""
        small = target.size < self.budget.small
        floor = max(ULP32, self.relative_noise.get(name, 0.0) if small else 0.0) * compare.rms(target)
        own = case.noise.get(name, Noise(None)).fp32 or 0.0
        return max(own, floor) if name in case.expected64 else 4.0 * floor

    def _signal_to_noise(self, case: Case, name: str, actual: np.ndarray) -> None:
        """Centred SQNR, and eager half's own error where the budget knows it."""
        target = _truth(case, name)
        if case.input_class == "constant" and self._half(case, name, target, actual):
            return  # off the distribution a fixed number of decibels says little; eager's own half precision says it
        error = compare.rmse(target, actual)
        own = compare.centred_rms(target, case.rows) if (case.rows or MIN_ROWS) >= MIN_ROWS else 0.0
        value = compare.sqnr_db(max(own, self.scale.get(name, 0.0)), error)
        floor, warn = self.budget.min_sqnr_db or 0.0, self.budget.warn_sqnr_db or 0.0
        judged = self.budget.values_everywhere or case.input_class in {*IN_DISTRIBUTION, "shapes"}
        reason, verdict, code = self.budget.reason, "pass", ""
        if math.isnan(value) or value < floor:
            verdict, code = ("fail", "SQNR_LOW") if judged else ("warn", "SQNR_LOW")
            reason = self._point_at(name, target, actual) if judged else "outside the calibrated range"
        elif value < warn:
            verdict, code = "warn", "SQNR_LOW"
        self._mark(case, name, _as_verdict(verdict), code, "centred_sqnr_db", value, floor, reason, at_least=True)
        if case.input_class in IN_DISTRIBUTION:
            self._applied(case, name, value)
            self._half(case, name, target, actual)

    def _applied(self, case: Case, name: str, value: float) -> None:
        ceiling = self.budget.not_applied_db
        if ceiling is not None and value > ceiling:
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

    def _decide(self, case: Case, actual: np.ndarray) -> None:
        name = self.classifier or ""
        expected = case.expected[name]
        if expected.shape != actual.shape or np.isnan(actual).any():
            return  # already a failure above, or eager does not decide either
        before, after = expected.argmax(axis=-1), actual.argmax(axis=-1)
        self.tally.compared += len(before)
        flipped = np.flatnonzero(before != after)
        self.tally.flips += len(flipped)
        exact = _truth(case, name).astype(np.float64)
        allowed = 2.0 * float(compare.distance(exact, actual).max(initial=0.0))
        if self.budget.max_r is not None:
            # explained only by an error that the budget allows, with 4 sigma for one element
            allowed = min(allowed, 2.0 * 4.0 * self.budget.max_r * self._own_noise(case, name, exact))
        for row in flipped:
            if exact[row, before[row]] - exact[row, after[row]] > allowed:
                self.tally.unexplained += 1
                self.tally.where = self.tally.where or f"{case.id}, row {row}: class {before[row]} became {after[row]}"
        if case.labels is not None:
            right, kept = before == case.labels, after == case.labels
            self.tally.n += len(right)
            self.tally.right += int(right.sum())
            self.tally.lost += int((right & ~kept).sum())
            self.tally.won += int((~right & kept).sum())

    def finish(self) -> None:
        """Add the checks over all cases: top-1 agreement, and accuracy where there are labels."""
        tally = self.tally
        if not tally.compared:
            return
        agreement = 1.0 - tally.flips / tally.compared
        bound = statistics.proportion_upper(tally.flips, tally.compared)
        text = f"{tally.compared - tally.flips} of {tally.compared} decisions alike, at most {bound:.2%} differ (95 %)"
        self._task("top1-agreement", "pass", "", "agreement", agreement, None, text)
        if self.budget.max_r is not None:
            verdict: CheckVerdict = "fail" if tally.unexplained else "pass"
            reason = (
                tally.where or "every flip is a tie within the allowed error" if tally.flips else "no decision changed"
            )
            self._task(
                "top1-flips",
                verdict,
                "VALUE_MISMATCH" if tally.unexplained else "",
                "unexplained_flips",
                tally.unexplained,
                0.0,
                reason,
            )
        if tally.n:
            self._accuracy(statistics.Paired(tally.n, tally.lost, tally.won, tally.right))

    def _accuracy(self, pair: statistics.Paired) -> None:
        lower, upper = statistics.drop_bounds(pair)
        before = pair.expected_right / pair.n
        reason = f"accuracy {before:.2%} → {before - pair.drop:.2%} on {pair.n} labelled samples"
        verdict: CheckVerdict = "pass"
        code = ""
        if pair.ratio < self.budget.min_ratio:
            verdict, code, reason = "fail", "METRIC_INFERIOR", f"{reason}, under {self.budget.min_ratio:g} of eager's"
        elif lower >= self.budget.max_drop:
            verdict, code, reason = "fail", "METRIC_INFERIOR", f"{reason}, surely a drop of {lower:.2%} or more"
        elif upper >= self.budget.max_drop:
            needed = statistics.samples_needed(pair, self.budget.max_drop)
            more = (
                f"about {needed} samples like these would decide"
                if needed
                else "more samples like these would not help"
            )
            verdict, code, reason = "inconclusive", "SAMPLE_SIZE", f"{reason}; {more}"
        self._task("top1-drop", verdict, code, "accuracy_drop_upper", upper, self.budget.max_drop, reason)

    def _task(
        self, name: str, verdict: CheckVerdict, code: str, metric: str, value: float, limit: float | None, reason: str
    ) -> None:
        self.checks.append(Check(name, "task", self.classifier or "", verdict, code, metric, value, limit, reason))

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


def _truth(case: Case, name: str) -> np.ndarray:
    """The float64 answer; eager's own where there is none, and where eager overflows: its pattern is what counts."""
    expected, exact = case.expected[name], case.expected64.get(name)
    return expected if exact is None else np.where(np.isfinite(expected), exact, expected)


def signal_scale(cases: Iterable[Case]) -> dict[str, float]:
    """Centred RMS of each float output over the judged cases (the largest), from the reference alone."""
    scale: dict[str, float] = {}
    for case in cases:
        if case.input_class in IN_DISTRIBUTION:
            for name, expected in case.expected.items():
                if expected.dtype.kind == "f":
                    own = compare.centred_rms(_truth(case, name), case.rows)
                    scale[name] = max(scale.get(name, 0.0), own)
    return scale


def noise_scale(cases: Iterable[Case]) -> dict[str, float]:
    """Eager's own fp32 noise relative to the RMS of its answer, by output, the largest over the judged cases."""
    scale: dict[str, float] = {}
    for case in cases:
        if case.input_class in IN_DISTRIBUTION:
            for name in case.expected64:
                own, level = case.noise.get(name, Noise(None)).fp32 or 0.0, compare.rms(_truth(case, name))
                scale[name] = max(scale.get(name, 0.0), own / level if level else 0.0)
    return scale


def classifier_output(case: Case) -> str | None:
    """The output that decides: the only output, when it is a float matrix [rows, classes ≥ 2]; else None."""
    if len(case.expected) != 1:
        return None
    ((name, array),) = case.expected.items()
    return name if array.dtype.kind == "f" and array.ndim == 2 and array.shape[1] >= 2 else None


def conclude(name: str, provider: str | None, judge: Judge) -> VariantReport:
    """The variant's verdict: one failure fails it, else one open question leaves it open."""
    judge.finish()
    graded = [
        (verdict, check) for verdict in ("fail", "inconclusive") for check in judge.checks if check.verdict == verdict
    ]
    verdict: VariantVerdict = "pass"
    code, reason = "", _tightest(judge.checks)
    if graded:
        first = graded[0][1]
        verdict = "fail" if graded[0][0] == "fail" else "inconclusive"
        code, reason = first.code, f"{first.id}: {first.reason}"
    if not judge.checks:
        verdict, code, reason = "inconclusive", "SAMPLE_SIZE", "no case was compared"
    if judge.budget.loosened:
        reason += f" (loosened: {', '.join(judge.budget.loosened)})"
    return VariantReport(name, verdict, provider, tuple(judge.checks), code, reason, judge.divergence, EXIT_OF[verdict])


def _tightest(checks: list[Check]) -> str:
    """The check with the least head-room of those that passed, with its numbers."""
    measured: list[tuple[float, Check]] = [
        (_relative(check), check)
        for check in checks
        if check.value is not None and check.limit and check.verdict != "skipped"
    ]
    if not measured:
        return f"{len(checks)} checks, all exact"
    share, check = max(measured, key=lambda item: item[0])
    del share
    sign = "≥" if check.at_least else "≤"
    warned = sum(c.verdict == "warn" for c in checks)
    tail = f", {warned} warnings" if warned > 1 else ", 1 warning" if warned else ""
    return f"tightest of {len(checks)}: {check.id} {check.metric} {check.value:.4g} {sign} {check.limit:g}{tail}"


def _relative(check: Check) -> float:
    """Nearness to the limit: 1 is on it."""
    value, limit = check.value or 0.0, check.limit or 1.0
    return limit / value if check.at_least and value > 0 else (math.inf if check.at_least else value / limit)


def _as_verdict(text: str) -> CheckVerdict:
    chosen: dict[str, CheckVerdict] = {"pass": "pass", "warn": "warn", "fail": "fail"}
    return chosen[text]
