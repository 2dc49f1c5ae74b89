"""What comes out of a model: names, dtypes and shapes, with the axes that follow a symbolic dim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from deploykit.capture.calling import call, first_line
from deploykit.errors import UsageError, WorkError
from deploykit.model import LoadedModel
from deploykit.signature import Feeds, Signature, TensorSpec


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
        grown[dim.name] = sizes[dim.name] + 1 if sizes[dim.name] < dim.max else sizes[dim.name] - 1
        if grown[dim.name] < dim.min:
            continue
        feeds = {s.name: _resized(model.example[s.name], s.concrete(grown)) for s in signature.inputs}
        second = _answered(model, feeds, f"{dim.name}={grown[dim.name]}")
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


def _answered(model: LoadedModel, feeds: Feeds, what: str) -> list[tuple[str, torch.Tensor]]:
    try:
        return call(model.module, feeds)
    except Exception as error:  # whatever a module raises: it does not take this size
        message = f"eager itself refuses {what}: {first_line(error)}"
        hint = f"declare a fixed size instead of {what.partition('=')[0]}"
        raise WorkError("signature", message, hint, "DIM_REFUSED") from error


def _resized(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.resize(array, shape)  # repeats what is there: integers stay in range
