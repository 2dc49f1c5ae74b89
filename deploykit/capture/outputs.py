"""What comes out of a model: names, dtypes and shapes, with the axes that follow a symbolic dim."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch

from deploykit.capture.calling import call, first_line
from deploykit.errors import UsageError, WorkError
from deploykit.model import LoadedModel
from deploykit.signature import Dim, Signature, TensorSpec


def with_outputs(model: LoadedModel) -> Signature:
    """The signature with its outputs: an axis is symbolic where it has the size of exactly one symbolic dim.

    The example's sizes can coincide with a fixed axis, so a second call with other sizes decides.

    Raises:
        WorkError: the model does not take another size along a dim that is declared symbolic.
        UsageError: BAD_OUTPUT, the number of outputs depends on a size.
    """
    signature = model.signature
    sizes = signature.sizes_of(model.example)
    first = call(model.module, model.example)
    shapes: list[list[int | str]] = [list(tensor.shape) for _, tensor in first]
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
        for shape, (name, tensor) in zip(shapes, second, strict=True):
            for axis, size in enumerate(tensor.shape):
                if shape[axis] != size and isinstance(shape[axis], int):
                    follows = shape[axis] == sizes[dim.name] and size == grown[dim.name]
                    shape[axis] = dim.name if follows else f"{dim.name}_{name}_{axis}"
    outputs = tuple(
        TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(shape))
        for (name, tensor), shape in zip(first, shapes, strict=True)
    )
    return replace(signature, outputs=outputs)


STEPS = (2, 4, 8, 16, 32, 64, 128)
"""Multiples that networks ask for: they halve their input a few times, or cut it into patches."""


def _answered(model: LoadedModel, dim: Dim, sizes: dict[str, int]) -> list[tuple[str, torch.Tensor]]:
    try:
        return _at(model, sizes)
    except Exception as error:  # whatever a module raises: it does not take this size
        message = f"eager itself refuses {dim.name}={sizes[dim.name]}: {first_line(error)}"
        raise WorkError("signature", message, _proposal(model, dim), "DIM_REFUSED") from error


def _at(model: LoadedModel, sizes: dict[str, int]) -> list[tuple[str, torch.Tensor]]:
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
