"""Preprocessing in numpy alone: what `verify` and clients hold recorded preprocessing to.

The resize is Pillow's (`src/libImaging/Resample.c`, `precompute_coeffs`): every output pixel is a weighted mean over a
triangle, or Keys' cubic with a = -0.5, as wide as the image shrinks; columns, then rows, in float64 and without its
rounding to whole levels after each.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploykit.preprocessing import Preprocessing, margin

CUBIC = -0.5
"""Slope of Keys' cubic at 1: Pillow's, and torch's where it antialiases."""


def prepared(preprocessing: Preprocessing, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the model gets for raw images.

    Args:
        preprocessing: the steps.
        images: uint8, four axes in `preprocessing.layout`.

    Returns:
        float32[N, C, H, W].
    """
    wide: NDArray[Any] = images.astype(np.float64)
    if preprocessing.layout == "nhwc":
        wide = np.moveaxis(wide, 3, 1)
    if preprocessing.order == "bgr":
        wide = wide[:, ::-1]
    height, width = preprocessing.resized(*wide.shape[2:])
    wide = _clipped(preprocessing, wide @ resample(preprocessing.interpolation, wide.shape[3], width).T)
    wide = _clipped(preprocessing, resample(preprocessing.interpolation, wide.shape[2], height) @ wide)
    if preprocessing.crop is not None:
        top, left = margin(height, preprocessing.crop[0]), margin(width, preprocessing.crop[1])
        wide = wide[:, :, top : top + preprocessing.crop[0], left : left + preprocessing.crop[1]]
    mean, std = (np.asarray(values).reshape(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return np.ascontiguousarray((wide * preprocessing.scale - mean) / std, np.float32)


def _clipped(preprocessing: Preprocessing, wide: NDArray[Any]) -> NDArray[Any]:
    """What a pixel holds: the cubic overshoots at edges, and Pillow cuts it after each pass."""
    return wide.clip(0.0, 255.0) if preprocessing.interpolation == "bicubic" else wide


def resample(interpolation: str, size: int, wanted: int) -> NDArray[np.float64]:
    """float64[wanted, size]: row i says how much of each input pixel goes into output pixel i; rows sum to 1."""
    matrix = np.zeros((wanted, size))
    if size == wanted:
        np.fill_diagonal(matrix, 1.0)
        return matrix
    step = size / wanted
    stretch = max(step, 1.0)
    reach = stretch * (2.0 if interpolation == "bicubic" else 1.0)
    for row in range(wanted):
        centre = (row + 0.5) * step
        first, end = max(0, int(centre - reach + 0.5)), min(size, int(centre + reach + 0.5))
        weights = [_weight(interpolation, (pixel - centre + 0.5) / stretch) for pixel in range(first, end)]
        matrix[row, first:end] = np.asarray(weights) / math.fsum(weights)
    return matrix


def _weight(interpolation: str, distance: float) -> float:
    x = abs(distance)
    if interpolation == "bilinear":
        return max(0.0, 1.0 - x)
    if x < 1.0:
        return ((CUBIC + 2.0) * x - (CUBIC + 3.0)) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * CUBIC if x < 2.0 else 0.0
