"""What comes out of a model: names, dtypes and shapes, with the axes that follow a symbolic dim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deploykit.capture.calling import call
from deploykit.errors import WorkError
from deploykit.model import LoadedModel
from deploykit.signature import Signature, TensorSpec


def with_outputs(model: LoadedModel) -> Signature:
    """The signature with its outputs: an axis is symbolic where it has the size of exactly one symbolic dim.

    The example's sizes can coincide with a fixed axis, so a second call with other sizes decides.

    Raises:
        WorkError: the model does not take another size along a dim that is declared symbolic.
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
        try:
            second = call(model.module, feeds)
        except (RuntimeError, ValueError, IndexError) as error:
            first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
            message = f"eager itself refuses {dim.name}={grown[dim.name]}: {first_line}"
            raise WorkError(
                "signature", message, f"declare a fixed size instead of {dim.name}", "DIM_REFUSED"
            ) from error
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


def _resized(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.resize(array, shape)  # repeats what is there: integers stay in range
