"""Whether integers went through a type that is too small: wrong are exactly the rows that hold large ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from deploykit.reference import Case

HOLDS = {"int32": 1 << 31, "float32": 1 << 24}
"""First magnitude that the type cannot hold exactly."""


@dataclass
class Narrowing:
    """Collects rows over the cases of one variant.

    Attributes:
        possible: types that explain every wrong row so far.
        seen: whether a wrong row was seen at all, and a right one with small integers.
    """

    possible: set[str] = field(default_factory=lambda: set(HOLDS))
    seen: bool = False

    def add(self, case: Case, wrong: np.ndarray) -> None:
        """Count one output; `wrong` is bool of the output's shape."""
        wide = [array for array in case.inputs.values() if array.dtype.name in {"int64", "uint64"}]
        if not wide or not wrong.any():
            return
        if case.rows is None or wrong.shape[:1] != (case.rows,):
            self.possible.clear()
            return
        self.seen = True
        bad = wrong.reshape(case.rows, -1).any(axis=1)
        for name, limit in HOLDS.items():
            large = np.any([_magnitude(array, case.rows) >= limit for array in wide], axis=0)
            if (bad & ~large).any():
                self.possible.discard(name)

    @property
    def through(self) -> str:
        """The type that explains all of it, the larger range first; empty when none does, or nothing is wrong."""
        return next((name for name in HOLDS if self.seen and name in self.possible), "")


def _magnitude(array: np.ndarray, rows: int) -> np.ndarray:
    """The largest magnitude in each row, float64."""
    wide: np.ndarray = np.abs(array.astype(np.float64)).reshape(rows, -1).max(axis=1, initial=0.0)
    return wide
