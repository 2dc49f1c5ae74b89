"""What a module remembers between calls: its tensors, and the plain values in its attributes."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

DEPTH = 4
"""Containers and objects are followed this deep: a counter hides in a list or in a settings object, not far below."""

ENTRIES = 1_000
"""Entries looked at in one container: a vocabulary that a module carries with it is not read through at every check."""


def digests(module: torch.nn.Module) -> dict[str, str]:
    """sha256 by full name of every parameter and buffer, over dtype, shape and bytes; non-persistent buffers count."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: _digest(tensor) for name, tensor in tensors.items()}


def digest(module: torch.nn.Module) -> str:
    """One sha256 over all names and `digests`."""
    whole = sha256()
    for name, value in sorted(digests(module).items()):
        whole.update(f"{name}:{value};".encode())
    return whole.hexdigest()


def attributes(module: torch.nn.Module) -> dict[str, str]:
    """The plain values that each part of the module and its classes hold, by full name, in a form that compares.

    Numbers, bools, strings, None, arrays, tensors that are no buffers, containers of those, and objects holding those.
    """
    found: dict[str, str] = {}
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in _OWN and (form := _form(value, DEPTH)) is not None:
                found[f"{path}.{name}" if path else name] = form
        for kind in type(part).__mro__:
            if kind.__module__.split(".")[0] in {"torch", "builtins"}:
                continue
            for name, value in vars(kind).items():
                if not name.startswith("__") and (form := _form(value, DEPTH)) is not None:
                    found[f"{kind.__name__}.{name}"] = form
    return found


_FOREIGN = sys.stdlib_module_names | {"torch", "numpy"}
"""Packages whose objects (loggers, locks, generators) are not looked into: what they hold is no state of the model."""

_OWN = frozenset(vars(torch.nn.Module()))
"""Attributes with which torch itself manages a module."""


def _form(value: Any, depth: int) -> str | None:
    """A text that is equal when the value is; None for what is no plain value."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic | torch.Size):
        return repr(value)
    if isinstance(value, itertools.count):
        return repr(value)
    if isinstance(value, torch.Tensor):
        return None if isinstance(value, torch.nn.Parameter) else _digest(value)
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if depth == 0 or isinstance(value, type | torch.nn.Module) or callable(value):
        return None
    return _joined(value, depth - 1)


def _joined(value: Any, depth: int) -> str | None:
    parts: list[str | None]
    if isinstance(value, list | tuple | deque):
        parts = [_form(item, depth) for item in list(value)[:ENTRIES]]
    elif isinstance(value, dict):
        parts = [f"{key!r}={_form(item, depth)}" for key, item in list(value.items())[:ENTRIES]]
    elif isinstance(value, set | frozenset):
        parts = [*sorted(str(_form(item, depth)) for item in value)] if len(value) <= ENTRIES else []
    elif isinstance(value, SimpleNamespace) or type(value).__module__.split(".")[0] not in _FOREIGN:
        parts = [f"{key}={_form(item, depth)}" for key, item in list(getattr(value, "__dict__", {}).items())[:ENTRIES]]
        return f"{type(value).__name__}({parts})"
    else:
        return None
    return f"{type(value).__name__}:{len(value)}{parts}"


def _digest(tensor: torch.Tensor) -> str:
    if tensor.layout != torch.strided or tensor.is_meta:
        return f"{tensor.layout}{tuple(tensor.shape)}"
    plain = tensor.detach().cpu().contiguous()
    whole = sha256(f"{plain.dtype}{tuple(plain.shape)};".encode())
    if plain.numel():
        whole.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
