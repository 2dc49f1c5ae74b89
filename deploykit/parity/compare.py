"""Comparing outputs, pure: structure, dtype, shape, non-finite pattern, exact kinds, and which element is worst.

Every function takes expected before actual. Nothing broadcasts, nothing wraps, and a NaN in a statistic is a failure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deploykit.distances import Array
from deploykit.signature import Feeds


@dataclass(frozen=True)
class Mismatch:
    """A difference that no tolerance excuses.

    Attributes:
        output: the output's name; empty when the outputs as a whole differ.
        code: stable diagnosis code.
        reason: what differs, in one line.
        metric, value: what was counted, and how much of it; the limit is 0.
    """

    output: str
    code: str
    reason: str
    metric: str
    value: float


def structure(expected: tuple[str, ...], actual: tuple[str, ...]) -> Mismatch | None:
    """Names, order and count of the outputs."""
    if missing := [name for name in expected if name not in actual]:
        return Mismatch("", "OUTPUT_MISSING", f"no output {', '.join(missing)}", "missing", len(missing))
    if extra := [name for name in actual if name not in expected]:
        return Mismatch("", "OUTPUT_MISSING", f"unknown output {', '.join(extra)}", "extra", len(extra))
    if expected != actual:
        moved = sum(a != b for a, b in zip(expected, actual, strict=True))
        return Mismatch("", "OUTPUT_ORDER", f"outputs come as {', '.join(actual)}", "moved", moved)
    return None


def form(name: str, expected: Array, actual: Array) -> Mismatch | None:
    """Dtype, then shape, both exactly."""
    if expected.dtype != actual.dtype:
        reason = f"dtype {actual.dtype} where eager gives {expected.dtype}"
        return Mismatch(name, "DTYPE_MISMATCH", reason, "dtype", 1)
    if expected.shape != actual.shape:
        reason = f"shape {list(actual.shape)} where eager gives {list(expected.shape)}"
        return Mismatch(name, "SHAPE_MISMATCH", reason, "shape", 1)
    return None


def pattern(name: str, expected: Array, actual: Array) -> Mismatch | None:
    """NaN, +Inf and -Inf exactly where eager has them."""
    if expected.dtype.kind not in "fc":
        return None
    wrong = np.zeros(expected.shape, dtype=bool)
    for mask in (np.isnan, np.isposinf, np.isneginf) if expected.dtype.kind == "f" else (np.isnan, np.isinf):
        wrong |= mask(expected) != mask(actual)
    count = int(wrong.sum())
    if not count:
        return None
    return Mismatch(name, "NAN_PATTERN", _first(wrong, expected, actual), "non_finite_differences", count)


def _first(wrong: Array, expected: Array, actual: Array) -> str:
    """How many elements are wrong, and the first of them."""
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    where = f"at {list(index)} eager gives {expected[index]}, the variant {actual[index]}"
    return f"{int(np.count_nonzero(wrong))} of {wrong.size} elements: {where}"


def spoiled_rows(expected: Array, actual: Array) -> int:
    """Rows that eager keeps finite and the variant does not."""
    if expected.dtype.kind not in "fc" or expected.ndim == 0:
        return 0
    within = tuple(range(1, expected.ndim))
    return int((np.isfinite(expected).all(axis=within) & ~np.isfinite(actual).all(axis=within)).sum())


def exact(name: str, expected: Array, actual: Array) -> Mismatch | None:
    """Integers and bools, equal; the difference is counted, not subtracted, so that uint8 cannot wrap."""
    if expected.dtype.kind in "fc":
        return None
    wrong = expected != actual
    count = int(np.count_nonzero(wrong))
    if not count:
        return None
    return Mismatch(name, "VALUE_MISMATCH", _first(wrong, expected, actual), "different", count)


def distance(expected: Array, actual: Array) -> Array:
    """Absolute difference of each element, in float64; 0 where both are the same infinity or both NaN."""
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    with np.errstate(invalid="ignore"):  # what is left of inf - inf has other signs, or is no number anyway
        found: Array = np.where(same, 0.0, np.abs(actual.astype(wide) - expected.astype(wide)))
    return found


def worst(expected: Array, actual: Array) -> tuple[tuple[int, ...], float]:
    """Index and size of the largest absolute difference; NaN counts as largest, the same infinity as none."""
    difference = distance(expected, actual)
    flat = int(np.argmax(np.where(np.isnan(difference), np.inf, difference)))
    index = tuple(int(i) for i in np.unravel_index(flat, expected.shape))
    return index, float(difference[index])


def ordered(outputs: Feeds, order: list[str]) -> Feeds:
    """`outputs` in the order in which the session gave them (a stored file has none)."""
    return {name: outputs[name] for name in order}
