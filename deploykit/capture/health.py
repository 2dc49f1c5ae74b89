"""Is eager itself fit to be a reference? Checked before anything is exported."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import torch

from deploykit.capture.calling import arrays, call
from deploykit.errors import WorkError
from deploykit.model import LoadedModel
from deploykit.signature import Feeds

REPEAT_TOLERANCE = 2.0**-20
"""Two calls may differ by this share of the output's RMS: threads sum in another order, dropout moves whole units."""


def check(model: LoadedModel) -> None:
    """Raise unless the module is in eval mode, answers twice alike, and leaves its inputs and buffers alone.

    Raises:
        WorkError: TRAIN_MODE, INPUT_MUTATED, STATEFUL_REFERENCE or REFERENCE_NONDETERMINISTIC, naming the culprit.
    """
    _in_eval_mode(model.module)
    before = state_digest(model.module)
    first = _call_unchanged(model)
    if state_digest(model.module) != before:
        changed = _first_changed(model)
        hint = "make forward free of side effects: an exported graph has none"
        raise WorkError(changed, "forward changes this buffer", hint, "STATEFUL_REFERENCE")
    second = arrays(call(model.module, model.example))
    for name, array in first.items():
        if not _same(array, second[name]):
            hint = "remove randomness and counters from forward (F.dropout needs training=self.training)"
            raise WorkError(
                f"output {name}", "two calls with the same input differ", hint, "REFERENCE_NONDETERMINISTIC"
            )


def state_digest(module: torch.nn.Module) -> str:
    """sha256 over name, dtype, shape and bytes of every parameter and buffer."""
    digest = sha256()
    for name, tensor in sorted(_state(module).items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{array.dtype}:{tuple(array.shape)};".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b"")
    return digest.hexdigest()


def _state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and all buffers: non-persistent ones are state, too."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _in_eval_mode(module: torch.nn.Module) -> None:
    for name, part in module.named_modules():
        if part.training:
            where = f"{name or 'the model'} ({type(part).__name__})"
            raise WorkError(where, "is in train mode", "call model.eval() before exporting", "TRAIN_MODE")


def _call_unchanged(model: LoadedModel) -> Feeds:
    inputs = {name: torch.from_numpy(array.copy()) for name, array in model.example.items()}
    device = next((p.device for p in model.module.parameters()), torch.device("cpu"))
    if device.type == "cpu":  # elsewhere the model sees a copy anyway
        with torch.no_grad():
            model.module(*inputs.values())
        for name, tensor in inputs.items():
            if not np.array_equal(model.example[name], tensor.numpy(), equal_nan=True):
                hint = "work on a copy: x = x + 1 instead of x += 1"
                raise WorkError(f"input {name}", "forward changes it in place", hint, "INPUT_MUTATED")
    return arrays(call(model.module, model.example))


def _first_changed(model: LoadedModel) -> str:
    before = {name: tensor.clone() for name, tensor in _state(model.module).items()}
    call(model.module, model.example)
    changed = (name for name, tensor in _state(model.module).items() if not torch.equal(tensor, before[name]))
    return f"buffer {next(changed, '(unknown)')}"


def _same(expected: np.ndarray, actual: np.ndarray) -> bool:
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return False
    if expected.dtype.kind not in "fc":
        return bool(np.array_equal(expected, actual))
    finite = np.abs(expected[np.isfinite(expected)]).astype(np.float64)
    scale = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
    return bool(np.allclose(expected, actual, rtol=0.0, atol=REPEAT_TOLERANCE * scale, equal_nan=True))
