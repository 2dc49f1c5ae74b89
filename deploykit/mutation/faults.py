"""Faults of one tensor, pure numpy, and the records that name a fault and what was made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SCALED, STEPS, WIDER_SCALE = "weight x 1.01", "weight + 3 steps", "scale x 1.1"
FLIPPED, ZEROED, SWAPPED = "channel sign flipped", "channel zeroed", "class rows swapped"
ROUNDED, TRANSPOSED, HALVES = "rounded to fp16", "square weight transposed", "halves swapped"
UNBIASED, EPSILON, ACTIVATION, TANH = "bias dropped", "epsilon x 1000", "activation removed", "relu -> tanh"
CONSTANT, OUTPUTS, DIM, ZERO_POINT = "small constant deleted", "outputs swapped", "dim fixed", "zero point + 1"
PROBE = "weight scaled"
"""Not one of the dozen: a change by `Site.amount`, for finding the smallest one that is seen."""

_FACTORS = {SCALED: 1.01, WIDER_SCALE: 1.1}
_STEPS = 3


@dataclass(frozen=True)
class Site:
    """A fault and where it goes.

    Attributes:
        fault: one of the names above.
        place: the tensor, or the value that a node computes.
        seed: chooses the channel, where the fault is in one.
        amount: relative change for `PROBE`; the batch that `DIM` bakes in.
    """

    fault: str
    place: str
    seed: int = 0
    amount: float | None = None


@dataclass(frozen=True)
class Made:
    """A mutant on disk.

    Attributes:
        place: as people know it: the layer's name where the tensor has only a number.
        path: the mutated artifact.
        change: RMS of the change relative to the RMS of the tensor; None for changes of structure.
    """

    fault: str
    place: str
    path: Path
    change: float | None


def changed(array: Array, site: Site, axis: int) -> Array:
    """`array` with the fault of `site` in it: same dtype, and same shape but for what `TRANSPOSED` does.

    Args:
        array: a float or 8-bit integer weight.
        site: one of the tensor faults.
        axis: of the output channels.
    """
    if site.fault in {SCALED, WIDER_SCALE, PROBE}:
        factor = _FACTORS.get(site.fault, 1.0 + (site.amount or 0.0))
        return _cast(array.astype(np.float64) * factor, array)
    return _CHANGES[site.fault](array, axis, np.random.default_rng(site.seed))


def relative_change(before: Array, after: Array) -> float:
    """‖after − before‖ / ‖before‖ in float64; infinite when only `before` is zero. Shapes are the same."""
    wide = before.astype(np.float64)
    size = float(np.linalg.norm(wide))
    moved = float(np.linalg.norm(after.astype(np.float64) - wide))
    return moved / size if size else (float("inf") if moved else 0.0)


def is_square(shape: tuple[int, ...]) -> bool:
    """Whether transposing the matrix, or the kernels of a convolution, keeps the shape."""
    return len(shape) in {2, 4} and shape[-1] == shape[-2] > 1


def swap_channels(array: Array, axis: int, first: int, second: int) -> Array:
    """Two slices along `axis` exchanged."""
    order = np.arange(array.shape[axis])
    order[[first, second]] = [second, first]
    return np.take(array, order, axis=axis)


def classes(count: int, seed: int) -> tuple[int, int]:
    """Two different ones of `count` classes."""
    return _two(count, np.random.default_rng(seed))


def _two(count: int, generator: np.random.Generator) -> tuple[int, int]:
    first, second = generator.choice(count, 2, replace=False)
    return int(first), int(second)


def _channel(wide: Array, axis: int, generator: np.random.Generator) -> int:
    """One of the larger half of the channels: a dead one would be no fault."""
    sizes = np.abs(np.moveaxis(wide, axis, 0).reshape(wide.shape[axis], -1)).sum(axis=1)
    larger = np.argsort(sizes)[len(sizes) // 2 :]
    return int(generator.choice(larger))


def _flipped(array: Array, axis: int, generator: np.random.Generator) -> Array:
    return _times(array, -1.0, axis, generator)


def _zeroed(array: Array, axis: int, generator: np.random.Generator) -> Array:
    return _times(array, 0.0, axis, generator)


def _times(array: Array, factor: float, axis: int, generator: np.random.Generator) -> Array:
    wide = array.astype(np.float64) - _zero(array)
    np.moveaxis(wide, axis, 0)[_channel(wide, axis, generator)] *= factor
    return _cast(wide + _zero(array), array)


def _stepped(array: Array, axis: int, generator: np.random.Generator) -> Array:
    del axis, generator
    return _cast(array.astype(np.float64) + _STEPS, array)


def _swapped(array: Array, axis: int, generator: np.random.Generator) -> Array:
    return swap_channels(array, axis, *_two(array.shape[axis], generator))


def _rounded(array: Array, axis: int, generator: np.random.Generator) -> Array:
    del axis, generator
    with np.errstate(over="ignore"):  # beyond 65,504 float16 is infinite: that is the fault
        return array.astype(np.float16).astype(array.dtype)


def _transposed(array: Array, axis: int, generator: np.random.Generator) -> Array:
    del axis, generator
    return np.ascontiguousarray(np.swapaxes(array, -1, -2))


def _halves(array: Array, axis: int, generator: np.random.Generator) -> Array:
    del axis, generator
    return np.roll(array.reshape(-1), array.size // 2).reshape(array.shape)


def _nothing(array: Array, axis: int, generator: np.random.Generator) -> Array:
    del axis, generator
    return np.zeros_like(array)


def _zero(array: Array) -> int:
    """The integer that means 0: symmetric int8 has it at 0, uint8 in the middle."""
    return 128 if array.dtype == np.uint8 else 0


def _cast(wide: Array, like: Array) -> Array:
    if like.dtype.kind in "iu":
        limits = np.iinfo(like.dtype)
        wide = np.clip(np.rint(wide), limits.min, limits.max)
    return wide.astype(like.dtype)


_CHANGES: dict[str, Callable[[Array, int, np.random.Generator], Array]] = {
    FLIPPED: _flipped,
    ZEROED: _zeroed,
    SWAPPED: _swapped,
    STEPS: _stepped,
    ROUNDED: _rounded,
    TRANSPOSED: _transposed,
    HALVES: _halves,
    UNBIASED: _nothing,
}
