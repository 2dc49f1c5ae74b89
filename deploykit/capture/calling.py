"""Calling an eager module with named arrays and naming what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from deploykit import nested
from deploykit.errors import UsageError
from deploykit.finished import Finished
from deploykit.signature import Feeds

Within = Callable[[Sequence[torch.Tensor]], AbstractContextManager[object]]
"""Gives the context in which forward runs, from the tensors that it will get."""


def call(
    module: torch.nn.Module,
    feeds: Feeds,
    dtype: torch.dtype | None = None,
    *,
    channels_last: bool = False,
    within: Within | None = None,
) -> list[tuple[str, torch.Tensor]]:
    """Outputs of `module` with their names, flattened in pytree order; `None` leaves are skipped.

    Args:
        module: called under `no_grad` with the feeds as positional arguments, in their order.
        feeds: inputs in call order; every call gets fresh copies.
        dtype: floating-point inputs are converted to it; None leaves them.
        channels_last: whether 4-d floating-point inputs lie in memory with their second axis last.
        within: only forward runs inside its context, not the making of the inputs.
    """
    device = device_of(module)
    inputs = [_tensor(array, dtype).to(device) for array in feeds.values()]
    if channels_last:
        inputs = [_channels_last(tensor) for tensor in inputs]
    with torch.no_grad(), within(inputs) if within else nullcontext():
        value = module(*inputs)
    nested.register_dataclasses(value)
    leaves, _ = pytree.tree_flatten_with_path(value)
    found = [(_name(path), leaf) for path, leaf in leaves if leaf is not None]
    wrong = next((leaf for _, leaf in found if not isinstance(leaf, torch.Tensor)), None)
    if wrong is not None or not found:
        what = type(wrong).__name__ if found else "nothing"
        raise UsageError("model", f"forward returns {what} where a tensor is expected", "return tensors", "BAD_OUTPUT")
    # a file keeps the names that its users know, whatever they look like
    own = module.output_names if isinstance(module, Finished) else None
    names = own or nested.unique((name for name, _ in found), taken=feeds)
    return list(zip(names, (leaf for _, leaf in found), strict=True))


def device_of(module: torch.nn.Module) -> torch.device:
    """Where the module's first parameter is; the CPU for a module without any."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def arrays(outputs: list[tuple[str, torch.Tensor]]) -> Feeds:
    """The outputs as numpy arrays; bfloat16, which numpy lacks, as float32."""
    return {name: _array(tensor) for name, tensor in outputs}


def _tensor(array: np.ndarray[Any, Any], dtype: torch.dtype | None) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(array))  # arithmetic on an array without dims gives a number
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    image = tensor.ndim == 4 and tensor.is_floating_point()
    return tensor.contiguous(memory_format=torch.channels_last) if image else tensor


def _array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    plain = tensor.detach().cpu()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).contiguous().numpy().copy()


def _name(path: tuple[Any, ...]) -> str:
    parts = [nested.key(step) for step in path]
    if parts and parts[0].isdecimal():
        parts[0] = f"output_{parts[0]}"
    return nested.joined(parts) or "output"
