"""Answers that must agree with other answers of the same variant: asked twice, and alone beside neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from deploykit.distances import rms, rmse
from deploykit.parity.budget import Budget
from deploykit.parity.ledger import Ledger
from deploykit.parity.scale import Scale, truth
from deploykit.reference import Case
from deploykit.results import CheckVerdict
from deploykit.signature import Feeds

REPEATS = 2.0**-20
"""Share of the output's RMS by which two calls with the same input may differ: threads sum in another order."""

OWN_MOVE = 1e-3
"""Share of the output's spread by which eager's own answer moves with its batch before it counts as batch-dependent."""

EQUIVARIANT = 0.02
"""Share of the output's spread by which answers may differ when the batch comes in another order."""


@dataclass
class Relations:
    """Remembers the answers that later cases refer to.

    Attributes:
        wanted: ids of the cases that some other case is related to.
        equivariant: whether a batch in another order gives the same answers in that order; True until one does not.
    """

    scale: Scale
    ledger: Ledger
    wanted: frozenset[str]
    equivariant: bool = True
    _kept: dict[str, tuple[Case, Feeds]] = field(default_factory=dict)

    def add(self, case: Case, answer: Feeds, budget_of: Callable[[str], Budget]) -> None:
        """Judge what `case` says about an earlier one, and keep its answer where a later one will ask."""
        kind, _, other = case.relation.partition(":")
        if other in self._kept:
            before, earlier = self._kept[other]
            for name, actual in answer.items():
                if name not in earlier or name not in case.expected:
                    continue
                if kind == "repeats":
                    self._repeats(case, name, earlier[name], actual)
                elif kind == "first-row-of":
                    self._first_row(before, case, name, (earlier[name], actual), budget_of(name))
                elif kind == "permutes":
                    self._permutes(before, case, name, (earlier[name], actual))
        if case.id in self.wanted:
            self._kept[case.id] = (case, answer)

    def _repeats(self, case: Case, name: str, earlier: np.ndarray, actual: np.ndarray) -> None:
        if earlier.shape != actual.shape or earlier.dtype.kind not in "fiub":
            return
        error = rmse(earlier.astype(np.float64), actual.astype(np.float64))
        level = rms(earlier.astype(np.float64))
        value = error / level if level else error
        verdict: CheckVerdict = "pass" if value <= REPEATS else "fail"
        reason = "the same input again gives the same answer" if verdict == "pass" else "the session remembers calls"
        self.ledger.mark(case, name, verdict, "STATE_LOST", "repeat_difference", value, REPEATS, reason)

    def _permutes(self, before: Case, case: Case, name: str, answers: tuple[np.ndarray, np.ndarray]) -> None:
        """Rows found again by their inputs must have their answers: else neighbours are mixed up, not felt."""
        plain, mixed = answers
        spread = self.scale.spread.get(name, 0.0)
        if plain.shape != mixed.shape or plain.shape[:1] != (before.rows,) or plain.dtype.kind != "f":
            return
        place = {_row(before, row): row for row in range(before.rows or 0)}
        order = [place.get(_row(case, row), row) for row in range(before.rows or 0)]
        with np.errstate(invalid="ignore"):
            moved = rms(mixed.astype(np.float64) - plain[order])
        self.equivariant = self.equivariant and moved <= EQUIVARIANT * spread

    def _first_row(
        self, before: Case, case: Case, name: str, answers: tuple[np.ndarray, np.ndarray], budget: Budget
    ) -> None:
        """How far the first row moved with its company, beyond what eager's does, in parts of the output's spread."""
        alone, company = answers
        spread = self.scale.spread.get(name, 0.0)
        rows_fit = alone.shape[:1] == (before.rows,) and company.shape[:1] == (case.rows,)
        if not rows_fit or alone.dtype.kind != "f" or alone.shape[1:] != company.shape[1:] or not spread:
            return
        if not (np.isfinite(alone[0]).all() and np.isfinite(company[0]).all()):
            return
        eager = truth(case, name)[0] - truth(before, name)[0]
        if rms(eager) > OWN_MOVE * spread:  # eager mixes its batch itself: values say whether that is kept
            return
        moved = (company[0].astype(np.float64) - alone[0]) - eager
        value = rms(moved) / spread
        verdict: CheckVerdict = "pass"
        reason = "a sample does not feel the rest of its batch"
        noise = 0.0 if budget.max_r is None else max(self.scale.noise_of(one, name) for one in (before, case))
        if not value <= budget.max_mates and rms(moved) <= 2 * (budget.max_r or 0.0) * noise:
            reason = f"it moves by {value:.1%} of the output's spread: no more than two answers may that are both right"
        elif not value <= budget.max_mates:
            # one loud neighbour widens the range of a quantizer that looks at the whole batch: true, and by design
            loud = case.input_class == "outlier" and not budget.values_everywhere
            verdict = "warn" if loud else "fail"
            reason = f"the first sample's answer moves by {value:.1%} of the output's spread with its neighbours"
        self.ledger.mark(case, name, verdict, "BATCH_DEPENDENCE", "moves_with_batch", value, budget.max_mates, reason)


def _row(case: Case, row: int) -> bytes:
    return b"".join(array[row : row + 1].tobytes() for array in case.inputs.values())
