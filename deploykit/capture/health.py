"""Is eager itself fit to be a reference? Checked before anything is exported."""

from __future__ import annotations

import numpy as np
import torch

from deploykit.capture import state
from deploykit.capture.blame import line_of, writer
from deploykit.capture.calling import arrays, call, device_of, first_line
from deploykit.capture.watch import Watch
from deploykit.errors import DeploykitError, WorkError
from deploykit.model import LoadedModel

REPEAT_TOLERANCE = 2.0**-20
"""Two calls may differ by this share of the output's RMS: threads sum in another order, dropout moves whole units."""


def check(model: LoadedModel) -> None:
    """Raise unless the module is in eval mode, answers twice alike, and leaves its inputs and its state alone.

    Buffers and parameters must survive every call. Plain attributes may change in the first calls, as a cache does that
    is filled when it is first needed; one that goes on changing is state that no exported graph keeps.

    Raises:
        WorkError: TRAIN_MODE, REFERENCE_ERROR, INPUT_MUTATED, STATEFUL_REFERENCE or REFERENCE_NONDETERMINISTIC, naming
            the culprit.
    """
    _in_eval_mode(model.module)
    tensors = state.digests(model.module)
    _answers(model)
    _leaves_inputs(model)
    first = arrays(call(model.module, model.example))
    _leaves_tensors(model, tensors)
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
        if getattr(part, "training", False):  # a frozen TorchScript program has no such switch
            where = f"{name or 'the model'} ({type(part).__name__})"
            raise WorkError(where, "is in train mode", "call model.eval() before exporting", "TRAIN_MODE")


def _answers(model: LoadedModel) -> None:
    """The first call of all: nothing else is of use where it fails."""
    try:
        call(model.module, model.example)
    except DeploykitError:
        raise
    except Exception as error:
        given = ", ".join(map(str, model.signature.inputs))
        message = f"eager refuses the example inputs: {type(error).__name__}: {first_line(error)}{line_of(error)}"
        hint = f"forward was given {given}: describe what it takes"
        if "example" in model.notes:
            hint += " with --input (leading dims of 1 were taken for one batch, and its row repeated)"
        raise WorkError("model", message, hint, "REFERENCE_ERROR") from error


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


def _leaves_tensors(model: LoadedModel, before: dict[str, str]) -> None:
    module, after = model.module, state.digests(model.module)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            kind = "parameter" if name in dict(module.named_parameters()) else "buffer"
            line = writer(model, name)
            message = f"forward changes this {kind}" + (f" at {line}" if line else "")
            hint = "make forward free of side effects (an exported graph has none): count outside of it"
            raise WorkError(f"{kind} {name}", message, hint, "STATEFUL_REFERENCE")


def _leaves_attributes(module: torch.nn.Module, before: dict[str, str]) -> None:
    after = state.attributes(module)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            hint = "keep counters and caches out of forward: an exported graph repeats what it saw once"
            raise WorkError(f"attribute {name}", "forward changes it at every call", hint, "STATEFUL_REFERENCE")


def _random_place(model: LoadedModel) -> str | None:
    """The module and the line that draw random numbers: `head.1 (aten.bernoulli_) at net.py:12`."""
    watch = Watch()
    call(model.module, model.example, within=lambda tensors: watch.over(model.module, tensors))
    return f"{watch.random} at {watch.random_line}" if watch.random and watch.random_line else watch.random


def _same(expected: np.ndarray, actual: np.ndarray) -> bool:
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return False
    if expected.dtype.kind not in "fc":
        return bool(np.array_equal(expected, actual))
    finite = np.abs(expected[np.isfinite(expected)]).astype(np.float64)
    scale = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
    return bool(np.allclose(expected, actual, rtol=0.0, atol=REPEAT_TOLERANCE * scale, equal_nan=True))
