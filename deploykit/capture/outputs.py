"""What comes out of a model: names, dtypes and shapes, with the axes that follow a symbolic dim."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch

from deploykit.capture.calling import call, first_line
from deploykit.errors import UsageError, WorkError
from deploykit.model import LoadedModel
from deploykit.signature import Dim, Signature, TensorSpec

_Shape: TypeAlias = "list[int | str]"
_Answer: TypeAlias = "list[tuple[str, torch.Tensor]]"


def with_outputs(model: LoadedModel) -> Signature:
    """The signature with its outputs: an axis is symbolic where it has the size of exactly one symbolic dim.

    The example's sizes can coincide with a fixed axis, so a second call with other sizes decides. An axis whose size
    hangs on values (what `nonzero` finds) is symbolic under a name of its own.

    Raises:
        WorkError: the model does not take another size along a dim that is declared symbolic.
        UsageError: BAD_OUTPUT, the number of outputs depends on a size.
    """
    signature = model.signature
    sizes = signature.sizes_of(model.example)
    first = call(model.module, model.example)
    shapes: list[_Shape] = [list(tensor.shape) for _, tensor in first]
    for dim in signature.dims:
        grown = dict(sizes)
        grown[dim.name] = sizes[dim.name] + (dim.step if sizes[dim.name] < dim.max else -dim.step)
        if grown[dim.name] not in dim:
            continue
        second = _answered(model, dim, grown)
        if [name for name, _ in second] != [name for name, _ in first]:
            message = f"forward gives {len(first)} outputs, and {len(second)} at {dim.name}={grown[dim.name]}"
            hint = "return a fixed number of tensors: stack what belongs together"
            raise UsageError("model", message, hint, "BAD_OUTPUT")
        for shape, axis, name, size in _other_sizes(shapes, second):
            follows = shape[axis] == sizes[dim.name] and size == grown[dim.name]
            shape[axis] = dim.name if follows else f"{dim.name}_{name}_{axis}"
    for answer in _of_other_values(model, first):
        for shape, axis, name, _ in _other_sizes(shapes, answer):
            shape[axis] = f"{name}_{axis}"
    outputs = tuple(
        TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(shape))
        for (name, tensor), shape in zip(first, shapes, strict=True)
    )
    return replace(signature, outputs=outputs)


def _other_sizes(shapes: list[_Shape], answer: _Answer) -> Iterator[tuple[_Shape, int, str, int]]:
    """The axes taken for fixed that have another size in `answer`: the shape to mend, axis, output, that size."""
    for shape, (name, tensor) in zip(shapes, answer, strict=True):
        for axis, size in enumerate(tensor.shape):
            if isinstance(shape[axis], int) and shape[axis] != size:
                yield shape, axis, name, size


def _of_other_values(model: LoadedModel, first: _Answer) -> Iterator[_Answer]:
    """Answers at the example's sizes to other values: floats negated and zero, the rest in another order.

    Left out where eager refuses them, or gives other outputs than `first`: nobody promised anything about these.
    """
    for sign in (-1, 0):
        feeds = {
            name: (sign * array if array.dtype.kind in "fc" else np.flip(array)).astype(array.dtype)
            for name, array in model.example.items()
        }
        with suppress(Exception):
            answer = call(model.module, feeds)
            if [(name, tensor.ndim) for name, tensor in answer] == [(name, tensor.ndim) for name, tensor in first]:
                yield answer


STEPS = (2, 4, 8, 16, 32, 64, 128)
"""Multiples that networks ask for: they halve their input a few times, or cut it into patches."""


def _answered(model: LoadedModel, dim: Dim, sizes: dict[str, int]) -> _Answer:
    try:
        return _at(model, sizes)
    except Exception as error:  # whatever a module raises: it does not take this size
        message = f"eager itself refuses {dim.name}={sizes[dim.name]}: {first_line(error)}"
        raise WorkError("signature", message, _proposal(model, dim), "DIM_REFUSED") from error


def _at(model: LoadedModel, sizes: dict[str, int]) -> _Answer:
    """What eager answers with its symbolic dims at `sizes`; the example repeated, so that integers stay in range."""
    feeds = {s.name: np.resize(model.example[s.name], s.concrete(sizes)) for s in model.signature.inputs}
    return call(model.module, feeds)


def _proposal(model: LoadedModel, dim: Dim) -> str:
    """What to declare instead: the smallest step in which eager takes sizes, else the size of the example."""
    sizes = model.signature.sizes_of(model.example)
    usual = sizes[dim.name]
    for step in STEPS:
        first = -(-usual // step) * step
        with suppress(Exception):  # a refusal again
            for size in (first, first + step, first + 2 * step):
                _at(model, {**sizes, dim.name: size})
            return f"declare the multiples that it takes: {dim.name}={step}..{max(usual, 8 * step)}/{step}"
    return f"declare a fixed size instead of {dim.name}"
