"""Which integers a model takes: an index that stays at 0 and 1 proves nothing about the rest of a table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deploykit.capture.calling import call
from deploykit.model import LoadedModel
from deploykit.signature import Feeds

MAX_PROBED = 1 << 20
"""Indices above this are not looked for: no vocabulary is larger."""

UNBOUNDED = 127
"""Highest value in the example of an integer that eager takes at any size: it is no index."""


def widened(model: LoadedModel) -> LoadedModel:
    """The model with an example whose integers span what eager takes, found by asking it.

    Only for inputs that the user described by name, dtype and shape: drawn examples hold 0 and 1.
    """
    example = dict(model.example)
    for name, array in model.example.items():
        if array.dtype.kind in "iu" and array.size and not _is_image(model, name):
            spread = np.linspace(0, _highest(model, name) or UNBOUNDED, array.size).astype(array.dtype)
            wider = {**example, name: spread.reshape(array.shape)}
            if _answers(model, wider):  # lengths and offsets, say, are taken in some combinations only
                example = wider
    return replace(model, example=example)


def limits(model: LoadedModel) -> dict[str, int]:
    """The highest value of each integer input that is an index: eager takes it and refuses the next one.

    Inputs of which the example holds only 0 and 1 and whose name says mask are left alone, and so is all on a device
    other than the CPU: an index out of range ends a CUDA context.
    """
    found: dict[str, int] = {}
    if any(parameter.device.type != "cpu" for parameter in model.module.parameters()):
        return found
    for name, array in model.example.items():
        if array.dtype.kind in "iu" and array.size and "mask" not in name.lower() and not _is_image(model, name):
            highest = _highest(model, name)
            if highest is not None:
                found[name] = highest
    return found


def _is_image(model: LoadedModel, name: str) -> bool:
    return model.preprocessing is not None and model.preprocessing.input == name


def _highest(model: LoadedModel, name: str) -> int | None:
    """The largest value that eager takes everywhere in `name`, by doubling and bisection; None where any will do."""
    limit = min(MAX_PROBED, int(np.iinfo(model.example[name].dtype).max))
    low, high = 1, 2
    while high <= limit and _takes(model, name, high):
        low, high = high, high * 2
    if high > limit:
        if _takes(model, name, limit):
            return None
        high = limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _takes(model, name, middle) else (low, middle)
    return low


def _takes(model: LoadedModel, name: str, value: int) -> bool:
    return _answers(model, {**model.example, name: np.full_like(model.example[name], value)})


def _answers(model: LoadedModel, feeds: Feeds) -> bool:
    try:
        call(model.module, feeds)
    except Exception:  # noqa: BLE001 - a module refuses an index in its own way
        return False
    return True
