"""The list of checks of one variant, and where it first parted from eager."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from deploykit.parity import compare
from deploykit.reference import Case
from deploykit.results import Check, CheckVerdict

ANSWERS = {"VALUE_MISMATCH", "NAN_PATTERN", "SHAPE_MISMATCH", "DTYPE_MISMATCH"}
"""Codes of wrong answers; where nothing was promised, each of them is OUT_OF_RANGE."""


@dataclass
class Ledger:
    """Collects checks.

    Attributes:
        checks: in the order in which they were made.
        seeds: seed of every case that was judged.
    """

    checks: list[Check] = field(default_factory=list)
    seeds: dict[str, int] = field(default_factory=dict)

    def mark(
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
        """Add a check; the code is dropped when it passed, but for TIE."""
        self.seeds[case.id] = case.seed
        kept = "" if verdict == "pass" and code != "TIE" else code  # a tie is explained, and worth counting
        if case.gate == "outside" and verdict == "fail" and code in ANSWERS:
            # nobody promised an answer to an empty batch
            kept, verdict = "OUT_OF_RANGE", "warn" if case.rows == 0 else "fail"
        self.checks.append(
            Check(case.id, case.input_class, output, verdict, kept, metric, value, limit, reason, at_least)
        )

    def fail(self, case: Case, mismatch: compare.Mismatch) -> None:
        """Add a difference that no tolerance excuses."""
        self.differ(case, mismatch, "fail", mismatch.reason)

    def differ(self, case: Case, mismatch: compare.Mismatch, verdict: CheckVerdict, reason: str) -> None:
        """Add a counted difference under another verdict."""
        self.mark(case, mismatch.output, verdict, mismatch.code, mismatch.metric, mismatch.value, 0.0, reason)

    @property
    def worst(self) -> Check | None:
        """The failure to start from: on ordinary inputs where there is one, and the furthest over its limit there."""
        failed = [check for check in self.checks if check.verdict == "fail"]
        return max(failed, key=_gravity, default=None)

    @property
    def divergence(self) -> str | None:
        """The worst failure with its class and seed, in words; None while there is none."""
        if (check := self.worst) is None:
            return None
        where = f", output {check.output}" if check.output else ""
        return f"{check.id} ({check.input_class}, seed {self.seeds[check.id]}){where}: {check.reason}"


RANK = {"real": 2, "in range": 2, "example": 1}
"""Input classes whose failures concern everybody come first; an example may be all zeros."""


def _gravity(check: Check) -> tuple[int, bool, float]:
    # decibels say more about a reduced precision than how it compares with eager's own
    return RANK.get(check.input_class, 0), check.metric != "half_ratio", _excess(check)


def _excess(check: Check) -> float:
    """How far over its limit, as a ratio; infinite for what has no limit to be near to."""
    room = check.headroom
    if room is None or math.isnan(room):
        return math.inf
    if check.metric.endswith("_db"):
        return float(10.0 ** (-room / 20.0))
    return 1.0 / room if room > 0.0 else math.inf


def grade(value: float, limit: float, warn: float) -> tuple[CheckVerdict, str]:
    """Verdict and code for a value that must not exceed `limit`; NaN fails."""
    if not value <= limit:
        return "fail", "VALUE_MISMATCH"
    return ("warn", "VALUE_MISMATCH") if value > warn else ("pass", "")


def point_at(name: str, target: np.ndarray, actual: np.ndarray) -> str:
    """The worst element, and whether the error sits in few columns: that names the unit to look at."""
    if not target.size:
        return f"{name} is empty"
    index, size = compare.worst(target, actual)
    text = (
        f"largest difference {size:.3g} at {name}{list(index)}: expected {target[index]:.6g}, got {actual[index]:.6g}"
    )
    if target.ndim == 2 and target.shape[1] > 1:
        error = np.mean(compare.distance(target, actual) ** 2, axis=0)
        share = float(error[index[1]] / max(float(error.sum()), 1e-300))
        if share > 0.9:
            text += f"; {share:.0%} of the error is in column {index[1]}"
    return text
