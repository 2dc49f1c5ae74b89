"""Cases about form: sizes of symbolic dims and one step outside, memory layout, masks, neighbours and repetition."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploykit.campaign.draw import MAX_ELEMENTS, Draw, take
from deploykit.campaign.values import scaled_rest
from deploykit.inputs import CaseInputs
from deploykit.signature import MAX_DIM, Dim, Feeds

BATCHES = (1, 2, 3, 7, 64)
"""Batch sizes tried: one, two, odd ones, and one that is larger than any vector register."""

MANY = 257
"""More rows than kernels take in one block; tried up to an eighth of the largest case, for eager takes long."""

LARGE = 4
"""A dim without a stated end is tried at this multiple of the example's size."""

OUTLIER = 10.0
"""Factor on the mates of a sample that must not feel them: what one bad sensor or one loud voice does."""


def shapes(source: Draw) -> Iterator[CaseInputs]:
    """Every batch size in `BATCHES` that fits, of small rows also `MANY` and the largest; other dims likewise.

    They are tried at both ends, at an odd size and at a large one.
    """
    if source.signature.batch_dim is not None:
        dim = source.dim(source.signature.batch_dim)
        counts = {dim.nearest(min(batch, source.cap)) for batch in BATCHES}
        counts |= {n for n in (MANY, dim.max) if n in dim and 8 * n * source.row <= MAX_ELEMENTS}
        for count in sorted(counts):
            yield source.case(f"batch-{count}", "shapes", "full", source.rows(count, source.generator()))
    for dim in _inner(source):
        usual = source.sizes[dim.name]
        odd = usual + dim.step * (1 if usual // dim.step % 2 == 0 else 2)
        ends = {dim.min, dim.max} if dim.stated else {dim.min}
        for size in sorted({*ends, dim.min + dim.step, odd, dim.nearest(usual * LARGE)} - {usual}):
            if size in dim and (inputs := _resized(source, dim.name, size)):
                # where nobody stated the ends, eager may refuse a size that the default range holds
                yield source.case(f"{dim.name}-{size}", "shapes", "full", inputs, optional=not dim.stated)


def outside(source: Draw) -> Iterator[CaseInputs]:
    """One step below and above the range of every dim: to be refused, or right. An empty batch is below 1."""
    if source.signature.batch_dim is not None:
        dim = source.dim(source.signature.batch_dim)
        for count in (dim.min - 1, dim.max + 1):
            if 0 <= count <= 4 * source.cap and count * source.row <= MAX_ELEMENTS:
                yield source.case(f"batch-{count}", "outside", "outside", source.rows(count, source.generator()))
    for dim in _inner(source):
        between = {source.sizes[dim.name] + 1} if dim.step > 1 else set()
        for size in sorted({(dim.min - 1) if dim.min > 1 else 0, dim.max + 1} | between):
            if 0 < size < MAX_DIM and (inputs := _resized(source, dim.name, size)):
                yield source.case(f"{dim.name}-{size}", "outside", "outside", inputs)


def layouts(source: Draw) -> Iterator[CaseInputs]:
    """The same values transposed, strided, channels last, and one row expanded over the batch."""
    base = source.some()
    rank = max((array.ndim for array in base.values()), default=0)
    for layout in ("transposed", "strided", *(("channels_last",) if rank == 4 else ())):
        if rank >= 2 or layout == "strided":
            yield source.case(f"layout-{layout}", "layout", "full", base, layout=layout)
    if source.signature.batch_dim is not None:
        repeated = take(base, np.zeros(source.few, np.intp))
        yield source.case("layout-expanded", "layout", "full", repeated, layout="expanded")


def masks(source: Draw, names: tuple[str, ...]) -> Iterator[CaseInputs]:
    """Nothing masked, padding left and right, and one row masked whole; valid positions are judged."""
    for name in names:
        base = source.some()
        if base[name].ndim < 2:
            continue
        for kind in ("none", "right", "left", "row"):
            masked = {**base, name: _mask(base[name], kind)}
            case = f"mask-{kind}" if len(names) == 1 else f"mask-{kind}-{name}"
            yield source.case(case, "masks", "full", masked, relation=f"mask:{name}", optional=True)


def neighbours(source: Draw) -> Iterator[CaseInputs]:
    """One sample alone, in ordinary company, and beside samples ten times as large; and a batch in another order."""
    if source.signature.batch_dim is None or source.cap < 2:
        return
    base = source.some()  # two rows at least, since there is room for two
    order = source.generator().permutation(len(next(iter(base.values()))))
    # the first real sample was asked among all others already
    real = "" if source.samples is None else f"first-row-of:{source.first_real}"
    if source.dim(source.signature.batch_dim).min <= 1:
        yield source.case("alone", "sequence", "full", take(base, slice(0, 1)), relation=real)
    yield source.case("beside-mates", "sequence", "full", base, relation="first-row-of:alone")
    yield source.case("permuted", "sequence", "full", take(base, order), relation="permutes:beside-mates")
    if source.has_floats:
        loud = scaled_rest(base, OUTLIER)
        yield source.case("beside-outlier", "outlier", "accurate", loud, relation="first-row-of:alone")


def again(source: Draw) -> CaseInputs:
    """The example, which came first, once more after all others: a session must not remember."""
    return source.case("again", "sequence", "full", dict(source.example), relation="repeats:example")


def mask_names(source: Draw) -> tuple[str, ...]:
    """Inputs that hide positions: called `…mask…`, bools or integers of which the example holds only 0 and 1."""
    found = []
    for spec in source.signature.inputs:
        array = source.example[spec.name]
        binary = array.dtype.kind == "b" or (array.dtype.kind in "iu" and set(np.unique(array).tolist()) <= {0, 1})
        if binary and "mask" in spec.name.lower():
            found.append(spec.name)
    return tuple(found)


def _inner(source: Draw) -> Iterator[Dim]:
    """Symbolic dims other than the batch."""
    for dim in source.signature.dims:
        if dim.name != source.signature.batch_dim and dim.name in source.sizes:
            yield dim


def _resized(source: Draw, name: str, size: int) -> Feeds | None:
    """A few rows with dim `name` at `size`; real rows are cut or repeated along it, so that they stay valid.

    None where the arrays would be larger than a case may be.
    """
    base = source.some()
    sizes = {**source.signature.sizes_of(base), name: size}
    if sum(math.prod(spec.concrete(sizes)) for spec in source.signature.inputs) > MAX_ELEMENTS:
        return None
    changed = {}
    for spec in source.signature.inputs:
        if spec.name in source.own:  # a piece of a picture is hardly one
            changed[spec.name] = source.own[spec.name](spec.concrete(sizes), source.generator())
            continue
        array = base[spec.name]
        for axis in (axis for axis, dim in enumerate(spec.shape) if dim == name):
            array = np.take(array, np.arange(size) % max(1, array.shape[axis]), axis=axis)
        changed[spec.name] = array
    return changed


def _mask(array: NDArray[Any], kind: str) -> NDArray[Any]:
    """Ones, and zeros where `kind` hides: the last or first third along the last axis, or all of the last row."""
    mask = np.ones_like(array)
    hidden = max(1, array.shape[-1] // 3)
    if kind == "right":
        mask[..., -hidden:] = 0
    elif kind == "left":
        mask[..., :hidden] = 0
    elif kind == "row":
        mask[-1] = 0
    return mask
