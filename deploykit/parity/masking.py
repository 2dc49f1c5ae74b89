"""Which positions of an output a mask hides."""

from __future__ import annotations

import numpy as np

from deploykit.parity import compare


def valid(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Positions of an output that belong to what the mask shows: by position where the axes agree, else by row.

    Args:
        mask: bool; True where something is shown.
        shape: of the output.
    """
    by_position = shape[: mask.ndim] == mask.shape
    if not by_position and shape[:1] != mask.shape[:1]:
        return np.ones(shape, bool)
    return _spread(mask if by_position else _shows_anything(mask), shape)


def hidden_rows(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Positions of an output that belong to rows of which nothing is shown."""
    if shape[:1] != mask.shape[:1]:
        return np.zeros(shape, bool)
    return _spread(~_shows_anything(mask), shape)


def differences(expected: np.ndarray, actual: np.ndarray, limit: float) -> int:
    """Elements that differ by more than `limit`, or in being finite."""
    if expected.dtype.kind not in "fc":
        return int(np.count_nonzero(expected != actual))
    apart = compare.distance(expected, actual) > limit
    return int(np.count_nonzero(apart | (np.isfinite(expected) != np.isfinite(actual))))


def breaks(expected: np.ndarray, actual: np.ndarray) -> bool:
    """Whether NaN or infinity comes out where eager has a number, or the other way round."""
    return expected.dtype.kind in "fc" and not np.array_equal(np.isfinite(expected), np.isfinite(actual))


def _shows_anything(mask: np.ndarray) -> np.ndarray:
    return np.asarray(mask.astype(bool).any(axis=tuple(range(1, mask.ndim))))


def _spread(shown: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`shown` over the leading axes, the same along all others."""
    return np.broadcast_to(shown.reshape(*shown.shape, *([1] * (len(shape) - shown.ndim))), shape)
