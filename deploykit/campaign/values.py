"""Cases about values: inside the distribution, around it, constant, extreme, not finite, integers, ties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploykit.campaign.draw import MAX_ELEMENTS, Draw, batches, floats, take
from deploykit.inputs import MAX_REAL, CaseInputs
from deploykit.signature import Feeds

STRADDLE = (-1.0, 0.5, 3.0, 10.0)
"""Factors on real rows: the other side of zero, smaller, and beyond the observed range (zero is a constant case)."""

WIDE = (1 << 31) + 12_345
"""An int64 that no 32-bit integer holds."""


def judged(source: Draw) -> Iterator[CaseInputs]:
    """Real samples where given, then Gaussian and uniform rows inside the observed range per feature."""
    if source.samples is not None:
        yield from _real(source)
    generator = source.generator()
    base = source.rows(source.cap if source.signature.batch_dim else source.batch, generator)
    if source.samples is None:
        yield source.case("pictures" if source.own else "gaussian", "in range", "full", base)
    elif source.has_floats:
        yield source.case("gaussian", "in range", "full", {n: _gaussian(a, generator) for n, a in base.items()})
    yield source.case("uniform", "in range", "full", {n: _uniform(a, generator) for n, a in base.items()})


def example(source: Draw) -> CaseInputs:
    """The very inputs that the capture saw: what is right here and wrong elsewhere was baked in."""
    return source.case("example", "example", "full", dict(source.example))


def _real(source: Draw) -> Iterator[CaseInputs]:
    """Real samples, in parts that stay below `MAX_ELEMENTS` and inside the range of the batch dim."""
    assert source.samples is not None
    whole, labels = take(source.samples.real, slice(0, MAX_REAL)), source.samples.labels
    rows = max(1, MAX_ELEMENTS // max(1, sum(a[:1].size for a in whole.values())))
    step, least = source.batch, source.batch
    if source.signature.batch_dim is not None:
        dim = source.dim(source.signature.batch_dim)
        step, least = max(dim.min, min(rows, dim.max)), dim.min
    parts = [part for part in batches(whole, step) if len(next(iter(part.values()))) >= least]
    source.first_real = "real" if len(parts) == 1 else "real-0"
    for index, part in enumerate(parts):
        size = len(next(iter(part.values())))
        cut = None if labels is None else labels[index * step : index * step + size]
        yield source.case("real" if len(parts) == 1 else f"real-{index}", "real", "full", part, labels=cut)


def straddle(source: Draw) -> Iterator[CaseInputs]:
    """Real rows times each factor of `STRADDLE`."""
    if source.has_floats:
        base = source.some()
        for factor in STRADDLE:
            scaled = floats(base, lambda array, factor=factor: array * factor)  # type: ignore[misc]
            yield source.case(f"times{factor:g}", "straddle", "accurate", scaled)
        # at the example's own sizes, so that a baked value and a baked size can be told apart
        for factor in (STRADDLE[0], STRADDLE[-1]):
            scaled = floats(source.example, lambda array, factor=factor: array * factor)  # type: ignore[misc]
            yield source.case(f"example-times{factor:g}", "straddle", "accurate", scaled)


def constants(source: Draw, masks: tuple[str, ...]) -> Iterator[CaseInputs]:
    """Zeros, ones, one constant per sample across the range of the base, and one-hot rows; masks hide nothing."""
    base = source.rows(source.batch, source.generator())
    base.update({name: np.ones_like(base[name]) for name in masks})
    zeros = {n: a if n in masks else np.zeros_like(a) for n, a in base.items()}
    yield source.case("zeros", "constant", "full", zeros)
    if any(array.dtype.kind in "fc" for array in base.values()):
        ones = {n: np.ones_like(a) if a.dtype.kind in "fc" else zeros[n] for n, a in base.items()}
        yield source.case("ones", "constant", "full", ones)
        yield source.case("constants", "constant", "full", {n: _ramp(a) for n, a in base.items()})
        yield source.case("one-hot", "constant", "full", {n: _one_hot(a) for n, a in base.items()})


def extreme(source: Draw) -> Iterator[CaseInputs]:
    """The observed minimum and maximum everywhere, ten thousand times and a millionth of it, and subnormals."""
    if not source.has_floats:
        return
    base = source.some()
    yield source.case("min-max", "extreme", "accurate", floats(base, _min_max))
    for name, factor in (("times1e4", 1e4), ("times1e-6", 1e-6)):
        scaled = floats(base, lambda array, factor=factor: array * factor)  # type: ignore[misc]
        yield source.case(name, "extreme", "accurate", scaled)
    yield source.case("subnormal", "extreme", "accurate", floats(base, _subnormal))


def non_finite(source: Draw) -> Iterator[CaseInputs]:
    """NaN and infinity in one element and in one whole row of a small batch, for floating-point inputs."""
    count = source.batch
    if source.signature.batch_dim is not None:
        count = min(max(4, source.dim(source.signature.batch_dim).min), source.cap)
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        for extent in ("element", "row"):
            base = source.rows(count, source.generator())
            poisoned = {n: _poison(a, value, extent) if a.dtype.kind == "f" else a for n, a in base.items()}
            if source.has_floats:
                yield source.case(f"{name}-{extent}", "non-finite", "pattern", poisoned)


def integers(source: Draw, limits: Mapping[str, int], masks: tuple[str, ...]) -> Iterator[CaseInputs]:
    """Every integer input at its lowest and highest, below zero, and beyond 32 bits; eager may refuse any of them.

    Args:
        source: draws the other inputs.
        limits: highest value that eager takes, where it was asked (an index ends at its table's size).
        masks: inputs that are masks and have cases of their own.
    """
    kinds = {s.name: np.dtype(s.dtype) for s in source.signature.inputs if np.dtype(s.dtype).kind in "iu"}
    whole = [name for name in kinds if name not in masks]
    if not whole:
        return
    base = source.some()

    def filled(name: str, values: Mapping[str, int]) -> Iterator[CaseInputs]:
        inputs = {n: np.full_like(a, values[n]) if n in values else a for n, a in base.items()}
        yield source.case(name, "integers", "full", inputs, optional=True)

    if highest := {n: limits[n] for n in whole if n in limits}:
        yield from filled("int-highest", highest)
    if signed := {n: -1 for n in whole if kinds[n].kind == "i"}:
        yield from filled("int-negative", signed)
    free = [n for n in whole if n not in limits]
    if free:
        yield from filled("int-max", {n: int(np.iinfo(kinds[n]).max) for n in free})
        if wide := {n: WIDE for n in free if kinds[n].itemsize == 8}:
            yield from filled("int-wide", wide)


def ties(source: Draw) -> Iterator[CaseInputs]:
    """Inputs of few distinct values, where the model gives indices: scores behind them come out equal."""
    outputs = source.signature.outputs
    if source.has_floats and any(spec.dtype.startswith(("int", "uint")) for spec in outputs):
        yield source.case("ties", "ties", "full", floats(source.some(), np.sign))


def _gaussian(array: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    """Gaussian with each feature's own mean and spread, kept inside its range; other kinds are permuted."""
    if array.dtype.kind != "f" or array.ndim == 0:
        return generator.permutation(array) if array.ndim else array
    wide = array.astype(np.float64)  # a spread overflows float16
    drawn = wide.mean(axis=0) + wide.std(axis=0) * generator.standard_normal(array.shape)
    clipped: NDArray[Any] = np.clip(drawn, wide.min(axis=0), wide.max(axis=0))
    return clipped.astype(array.dtype)


def _uniform(array: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    """Uniform between the smallest and largest value that each feature takes in `array`; other kinds are permuted."""
    if array.dtype.kind != "f" or array.ndim == 0:
        return generator.permutation(array) if array.ndim else array
    wide = array.astype(np.float64)
    low, high = wide.min(axis=0, keepdims=True), wide.max(axis=0, keepdims=True)
    drawn: NDArray[Any] = low + (high - low) * generator.random(array.shape)
    return drawn.astype(array.dtype)


def _ramp(array: NDArray[Any]) -> NDArray[Any]:
    """Row i is one value: the i-th of evenly spaced ones over the range of `array`."""
    if array.dtype.kind != "f" or array.ndim == 0:
        return array
    steps = np.linspace(float(array.min()), float(array.max()), len(array), dtype=array.dtype)
    return np.broadcast_to(steps.reshape(-1, *([1] * (array.ndim - 1))), array.shape).copy()


def _one_hot(array: NDArray[Any]) -> NDArray[Any]:
    """Row i is zero but for a one, whose places are spread over the features; other kinds stay."""
    if array.dtype.kind != "f" or array.ndim < 2 or not array.size:
        return array
    hot = np.zeros((len(array), array[0].size), array.dtype)
    hot[np.arange(len(array)), np.linspace(0, hot.shape[1] - 1, len(array)).astype(int)] = 1.0
    return hot.reshape(array.shape)


def _min_max(array: NDArray[Any]) -> NDArray[Any]:
    """Even rows hold the smallest value of the whole, odd rows the largest."""
    if array.ndim == 0:
        return array
    extremes = np.where(np.arange(len(array)) % 2 == 0, array.min(), array.max())
    return np.broadcast_to(extremes.reshape(-1, *([1] * (array.ndim - 1))), array.shape)


def _subnormal(array: NDArray[Any]) -> NDArray[Any]:
    """The signs of `array` at half the smallest normal number of its dtype."""
    signed: NDArray[Any] = np.copysign(np.asarray(np.finfo(array.dtype).tiny / 2, array.dtype), array)
    return signed


def _poison(array: NDArray[Any], value: float, extent: str) -> NDArray[Any]:
    """One row, or one element inside it: not the first of its row, since engines that compare pairwise start there."""
    spoiled = array.copy()
    if spoiled.ndim == 0:
        spoiled[...] = value
    elif extent == "row":
        spoiled[len(spoiled) // 2] = value
    else:
        row = spoiled[len(spoiled) // 2 : len(spoiled) // 2 + 1].reshape(-1)  # a view: the copy is contiguous
        row[row.size * 2 // 3] = value
    return spoiled


def scaled_rest(feeds: Feeds, factor: float) -> Feeds:
    """All rows but the first times `factor`: the mates of a sample that should not feel them."""

    def change(array: NDArray[Any]) -> NDArray[Any]:
        out = array.copy()
        out[1:] *= factor
        return out

    return floats(feeds, change)
