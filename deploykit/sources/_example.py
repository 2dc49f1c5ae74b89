"""Example inputs: the one set of feeds with which exporters trace a module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploykit.signature import Dim, Feeds, TensorSpec

BATCH = 2
"""Size of a symbolic leading dim: exporters specialise a batch of 1 away."""

_OTHER, _STEP = 32, 16
"""Sizes of other symbolic dims, 32, 48, 64 …: enough for a convolution stack, and no two alike, since torch.export may
take two dims of one size for the same dim."""


def dims_of(specs: Iterable[TensorSpec]) -> tuple[Dim, ...]:
    """The symbolic dims of `specs` in order of first appearance."""
    names = dict.fromkeys(dim for spec in specs for dim in spec.shape if isinstance(dim, str))
    return tuple(Dim(name) for name in names)


def example_sizes(specs: Iterable[TensorSpec]) -> dict[str, int]:
    """A size for each symbolic dim: `BATCH` where it leads an input, distinct sizes from 32 up elsewhere."""
    specs = tuple(specs)
    leading = {spec.shape[0] for spec in specs if spec.shape}
    others = [dim.name for dim in dims_of(specs) if dim.name not in leading]
    sizes = {dim.name: BATCH for dim in dims_of(specs)}
    return sizes | {name: _OTHER + _STEP * i for i, name in enumerate(others)}


def draw(specs: Iterable[TensorSpec], seed: int) -> Feeds:
    """Seeded inputs for `specs`: floats standard normal, integers 0 or 1 (valid as any index), bools even."""
    specs = tuple(specs)
    rng = np.random.default_rng(seed)
    sizes = example_sizes(specs)
    return {spec.name: _draw_one(spec.dtype, spec.concrete(sizes), rng) for spec in specs}


def _draw_one(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    kind = np.dtype(dtype).kind
    if kind == "b":
        return rng.random(shape) < 0.5
    if kind in "iu":
        return rng.integers(0, 2, shape).astype(dtype)
    values: NDArray[Any] = rng.standard_normal(shape)
    if kind == "c":
        values = values + 1j * rng.standard_normal(shape)
    return np.asarray(values, dtype=dtype)


def with_batch(array: NDArray[Any]) -> NDArray[Any]:
    """`array` cut or repeated to `BATCH` rows."""
    return np.ascontiguousarray(array[np.arange(BATCH) % len(array)])


def batched(feeds: Mapping[str, NDArray[Any]]) -> Feeds:
    """Every array with `BATCH` rows."""
    return {name: with_batch(array) for name, array in feeds.items()}
