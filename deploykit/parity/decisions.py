"""Decisions of a classifier: agreement with eager, flips that no allowed error explains, and accuracy with labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deploykit.parity import compare, statistics
from deploykit.parity.budget import Budget
from deploykit.parity.scale import Scale, truth
from deploykit.parity.values import Values
from deploykit.reference import Case
from deploykit.results import Check, CheckVerdict


@dataclass
class Decisions:
    """Counts over the judged cases of one variant.

    Attributes:
        output: the output whose largest element decides.
        compared: decisions of eager and the variant side by side; `flips` of them differ, and `unexplained` of those
            have float64 scores further apart than the budget's error could move them.
        real, real_flips: the same counts over real samples only: what drawn inputs decide is nobody's task.
        labelled: decisions with a label; eager gets `right` of them, `lost` only eager does, `won` only the variant.
    """

    output: str
    budget: Budget
    scale: Scale
    values: Values
    compared: int = 0
    flips: int = 0
    real: int = 0
    real_flips: int = 0
    unexplained: int = 0
    where: str = ""
    labelled: int = 0
    right: int = 0
    lost: int = 0
    won: int = 0

    def add(self, case: Case, actual: np.ndarray) -> None:
        """Count one case; NaN scores and wrong shapes decide nothing, and are failures elsewhere."""
        expected = case.expected[self.output]
        if expected.shape != actual.shape or np.isnan(actual).any():
            return
        before, after = expected.argmax(axis=-1), actual.argmax(axis=-1)
        flipped = np.flatnonzero(before != after)
        self.compared += len(before)
        self.flips += len(flipped)
        if case.input_class == "real":
            self.real += len(before)
            self.real_flips += len(flipped)
        exact = truth(case, self.output).astype(np.float64)
        allowed = self._allowed(case, exact, actual)
        for row in flipped:
            if exact[row, before[row]] - exact[row, after[row]] > allowed:
                self.unexplained += 1
                self.where = self.where or f"{case.id}, row {row}: class {before[row]} became {after[row]}"
        if case.labels is not None:
            right, kept = before == case.labels, after == case.labels
            self.labelled += len(right)
            self.right += int(right.sum())
            self.lost += int((right & ~kept).sum())
            self.won += int((~right & kept).sum())

    def _allowed(self, case: Case, exact: np.ndarray, actual: np.ndarray) -> float:
        """The margin that errors close: each of two scores moves by the largest one, or by what the budget allows."""
        largest = float(compare.distance(exact, actual).max(initial=0.0))
        return 2.0 * min(largest, self.values.allowed(case, self.output, self.budget))

    def checks(self) -> list[Check]:
        """What all cases together say; nothing when no decision was compared."""
        if not self.compared:
            return []
        bound = statistics.proportion_upper(self.flips, self.compared)
        alike = f"{self.compared - self.flips} of {self.compared} decisions alike, at most {bound:.2%} differ (95 %)"
        agreement = 1.0 - self.flips / self.compared
        found = [self._check("top1-agreement", "pass", "", "agreement", agreement, None, alike)]
        if self.budget.max_disagreement is None:
            found.append(self._flips())
        if self.labelled:
            found.append(self._accuracy(statistics.Paired(self.labelled, self.lost, self.won, self.right)))
        elif self.real and self.budget.max_disagreement is not None:
            found.append(self._disagreement(self.budget.max_disagreement))
        return found

    def _flips(self) -> Check:
        reason = "every flip is a tie within the allowed error" if self.flips else "no decision changed"
        if not self.unexplained:
            return self._check("top1-flips", "pass", "", "unexplained_flips", 0, 0.0, reason)
        return self._check(
            "top1-flips", "fail", "VALUE_MISMATCH", "unexplained_flips", self.unexplained, 0.0, self.where
        )

    def _disagreement(self, limit: float) -> Check:
        """Without labels: how often the variant decides otherwise on real samples, at 95 % confidence."""
        low, high = statistics.proportion_bounds(self.real_flips, self.real)
        reason = f"{self.real_flips} of {self.real} decisions on real samples differ"
        verdict: CheckVerdict = "pass"
        code = ""
        if low > limit:
            verdict, code, reason = "fail", "METRIC_INFERIOR", f"{reason}, surely more than {limit:.1%}"
        elif high > limit:
            needed = statistics.rows_needed(self.real_flips, self.real, limit)
            advice = f"about {needed} samples like these would decide" if needed else "labels would say what it costs"
            verdict, code, reason = "inconclusive", "SAMPLE_SIZE", f"{reason}, at most {high:.2%} (95 %); {advice}"
        return self._check("top1-disagreement", verdict, code, "disagreement_upper", high, limit, reason)

    def _accuracy(self, pair: statistics.Paired) -> Check:
        """Fails when the loss is real and too large, stays open when the sample cannot exclude that."""
        lower, upper = statistics.drop_bounds(pair)
        margin, least = self.budget.max_drop, self.budget.min_ratio
        before = pair.expected_right / pair.n
        reason = f"accuracy {before:.2%} → {before - pair.drop:.2%} on {pair.n} labelled samples"
        if pair.lost + pair.won:
            reason += f" (McNemar p = {statistics.mcnemar_p(pair):.2g}, for information)"
        verdict: CheckVerdict = "pass"
        code = ""
        if lower >= margin:
            verdict, code, reason = "fail", "METRIC_INFERIOR", f"{reason}, surely a drop of {lower:.2%} or more"
        elif pair.ratio < least and lower > 0.0:
            verdict, code, reason = "fail", "METRIC_INFERIOR", f"{reason}, under {least:g} of eager's"
        elif upper >= margin or pair.ratio < least:
            verdict, code, reason = "inconclusive", "SAMPLE_SIZE", f"{reason}; {_advice(pair, margin)}"
        return self._check("top1-drop", verdict, code, "accuracy_drop_upper", upper, margin, reason)

    def _check(
        self, name: str, verdict: CheckVerdict, code: str, metric: str, value: float, limit: float | None, reason: str
    ) -> Check:
        return Check(name, "task", self.output, verdict, code, metric, value, limit, reason)


def _advice(pair: statistics.Paired, margin: float) -> str:
    needed = statistics.samples_needed(pair, margin)
    return f"about {needed} samples like these would decide" if needed else "more samples like these would not help"
