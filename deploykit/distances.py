"""How far apart arrays are, pure: RMS values in float64, decibels, and which elements are not the same.

Every function takes expected before actual. Elements that are not finite are left to whoever compares patterns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def rms(array: Array, *, everything: bool = False) -> float:
    """Root mean square of the finite elements, in float64; 0.0 when there are none.

    Args:
        array: of any shape; complex numbers count by their magnitude.
        everything: elements that are not finite count as well, and so does the result stop being finite.
    """
    kept = array if everything else array[np.isfinite(array)]
    return float(np.sqrt(np.mean(np.abs(kept).astype(np.float64) ** 2))) if kept.size else 0.0


def rmse(expected: Array, actual: Array) -> float:
    """Root mean square difference, in float64, over the elements that are finite in `expected` (0.0 without any).

    Not finite when `actual` is not finite where `expected` is.
    """
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    finite = np.isfinite(expected)
    difference = actual[finite].astype(wide) - expected[finite].astype(wide)
    return float(np.sqrt(np.mean(np.abs(difference) ** 2))) if difference.size else 0.0


def centred_rms(array: Array, rows: int | None) -> float:
    """RMS of what depends on the input: the batch mean is taken off first (the overall mean where there is no batch).

    A network with a large constant part would hide a drowned signal behind a good plain SQNR. Elements that are not
    finite count neither in a mean nor in the RMS.
    """
    per_row = rows is not None and rows > 1 and array.shape[:1] == (rows,)
    axis, finite = (0 if per_row else None), np.isfinite(array)
    wide = np.where(finite, array, 0).astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    mean = wide.sum(axis, keepdims=True) / np.maximum(finite.sum(axis, keepdims=True), 1)
    return rms((wide - mean)[finite])


def sqnr_db(signal: float, error: float) -> float:
    """20·log10(signal/error) of two RMS values; infinite for no error, minus infinity for no signal."""
    if error == 0.0:
        return float("inf")
    return float(20.0 * np.log10(signal / error)) if signal > 0.0 else float("-inf")


def unequal(expected: Array, actual: Array) -> Array:
    """Where two arrays of one shape differ, as bools; NaN equals NaN, and -0.0 equals 0.0."""
    wrong: Array = np.asarray(expected != actual)
    if expected.dtype.kind == "f" and actual.dtype.kind == "f":
        wrong &= ~(np.isnan(expected) & np.isnan(actual))
    return wrong
