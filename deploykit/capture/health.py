"""Is eager itself fit to be a reference? Checked before anything is exported."""

from __future__ import annotations

import numpy as np
import torch

from deploykit.capture import state
from deploykit.capture.calling import arrays, call, device_of
from deploykit.capture.watch import Watch
from deploykit.errors import WorkError
from deploykit.model import LoadedModel

REPEAT_TOLERANCE = 2.0**-20
"""Two calls may differ by this share of the output's RMS: threads sum in another order, dropout moves whole units."""


def check(model: LoadedModel) -> None:
    """Raise unless the module is in eval mode, answers twice alike, and leaves its inputs and its state alone.

    Buffers and parameters must survive every call. Plain attributes may change in the first calls, as a cache does that
    is filled when it is first needed; one that goes on changing is state that no exported graph keeps.

    Raises:
        WorkError: TRAIN_MODE, INPUT_MUTATED, STATEFUL_REFERENCE or REFERENCE_NONDETERMINISTIC, naming the culprit.
    """
    _in_eval_mode(model.module)
    tensors = state.digests(model.module)
    _leaves_inputs(model)
    first = arrays(call(model.module, model.example))
    _leaves_tensors(model.module, tensors)
    settled = state.attributes(model.module)
    second = arrays(call(model.module, model.example))
    _leaves_attributes(model.module, settled)
    for name, array in first.items():
        if not _same(array, second[name]):
            where = _random_place(model)
            message = "two calls with the same input differ" + (f": {where} draws random numbers" if where else "")
            hint = "remove randomness and counters from forward (F.dropout needs training=self.training)"
            raise WorkError(f"output {name}", message, hint, "REFERENCE_NONDETERMINISTIC")


def _in_eval_mode(module: torch.nn.Module) -> None:
    for name, part in module.named_modules():
        if part.training:
            where = f"{name or 'the model'} ({type(part).__name__})"
            raise WorkError(where, "is in train mode", "call model.eval() before exporting", "TRAIN_MODE")


def _leaves_inputs(model: LoadedModel) -> None:
    if device_of(model.module).type != "cpu":  # elsewhere the model sees a copy anyway
        return
    inputs = {name: torch.from_numpy(array.copy()) for name, array in model.example.items()}
    with torch.no_grad():
        model.module(*inputs.values())
    for name, tensor in inputs.items():
        if not np.array_equal(model.example[name], tensor.numpy(), equal_nan=True):
            hint = "work on a copy: x = x + 1 instead of x += 1"
            raise WorkError(f"input {name}", "forward changes it in place", hint, "INPUT_MUTATED")


def _leaves_tensors(module: torch.nn.Module, before: dict[str, str]) -> None:
    after = state.digests(module)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            kind = "parameter" if name in dict(module.named_parameters()) else "buffer"
            hint = "make forward free of side effects: an exported graph has none"
            raise WorkError(f"{kind} {name}", f"forward changes this {kind}", hint, "STATEFUL_REFERENCE")


def _leaves_attributes(module: torch.nn.Module, before: dict[str, str]) -> None:
    after = state.attributes(module)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            hint = "keep counters and caches out of forward: an exported graph repeats what it saw once"
            raise WorkError(f"attribute {name}", "forward changes it at every call", hint, "STATEFUL_REFERENCE")


def _random_place(model: LoadedModel) -> str | None:
    watch = Watch()
    call(model.module, model.example, within=lambda tensors: watch.over(model.module, tensors))
    return watch.random


def _same(expected: np.ndarray, actual: np.ndarray) -> bool:
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return False
    if expected.dtype.kind not in "fc":
        return bool(np.array_equal(expected, actual))
    finite = np.abs(expected[np.isfinite(expected)]).astype(np.float64)
    scale = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
    return bool(np.allclose(expected, actual, rtol=0.0, atol=REPEAT_TOLERANCE * scale, equal_nan=True))
