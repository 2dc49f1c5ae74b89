"""Example inputs: the one set of feeds with which exporters trace a module."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploykit.errors import UsageError
from deploykit.signature import Dim, Feeds, Signature, TensorSpec

BATCH = 2
"""Size of a symbolic leading dim: exporters specialise a batch of 1 away."""

_OTHER, _STEP = 32, 16
"""Sizes of other symbolic dims, 32, 48, 64 …: enough for a convolution stack, and no two alike, since torch.export may
take two dims of one size for the same dim."""


def dims_of(specs: Iterable[TensorSpec], stated: Iterable[Dim] = ()) -> tuple[Dim, ...]:
    """The symbolic dims of `specs` in order of first appearance, with the ranges in `stated`.

    Raises:
        UsageError: BAD_INPUT, the batch is to go in steps.
    """
    specs = tuple(specs)
    names = dict.fromkeys(dim for spec in specs for dim in spec.shape if isinstance(dim, str))
    ranges = {dim.name: dim for dim in stated}
    batch = ranges.get(Signature(specs).batch_dim or "")
    if batch is not None and batch.step > 1:
        hint = f"{batch.name}={batch.min}..{batch.max}; split it into two dims where the model groups its rows"
        raise UsageError(f"dim {batch.name}", "a batch goes in steps of 1", hint, "BAD_INPUT")
    return tuple(ranges.get(name, Dim(name)) for name in names)


def example_sizes(specs: Iterable[TensorSpec], dims: Iterable[Dim]) -> dict[str, int]:
    """A size for each of `dims`: `BATCH` where it leads an input, distinct sizes from 32 up elsewhere.

    Sizes are moved into the promised ranges, where two may become one.
    """
    leading = {spec.shape[0] for spec in specs if spec.shape}
    sizes: dict[str, int] = {}
    other = 0
    for dim in dims:
        if dim.name in leading:
            wanted = BATCH
        else:
            wanted, other = _OTHER + _STEP * other, other + 1
        size = dim.nearest(wanted)
        while size in sizes.values() and size + dim.step in dim and dim.name not in leading:
            size += dim.step
        sizes[dim.name] = size
    return sizes


def draw(specs: Iterable[TensorSpec], seed: int, dims: Iterable[Dim] = ()) -> Feeds:
    """Seeded inputs for `specs`: floats standard normal, integers 0 or 1 (valid as any index), bools even."""
    specs = tuple(specs)
    rng = np.random.default_rng(seed)
    sizes = example_sizes(specs, dims_of(specs, dims))
    return {spec.name: _draw_one(spec.dtype, spec.concrete(sizes), rng) for spec in specs}


def _draw_one(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    kind = np.dtype(dtype).kind
    if kind == "b":
        return np.asarray(rng.random(shape) < 0.5)
    if kind in "iu":
        return rng.integers(0, 2, shape).astype(dtype)
    values: NDArray[Any] = rng.standard_normal(shape)
    if kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return np.asarray(values, dtype=dtype)


def resized(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """`array` cut or repeated along each axis to `shape`, so that integers stay in range."""
    for axis, size in enumerate(shape):
        if array.shape[axis] != size:
            array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return np.asarray(array, order="C")
