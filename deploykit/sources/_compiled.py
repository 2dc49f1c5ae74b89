"""Modules under `torch.compile`: what the wrapper holds is what can be exported, and what eager is."""

from __future__ import annotations

import sys
from typing import cast

from torch import nn

from deploykit.twin import twin


def taken_off(module: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """`module` without any wrapper, its parts changed in place; and a note where there was one."""
    wrapped = [name for name, part in module.named_modules() if _is_wrapper(part)]
    for name in filter(None, reversed(wrapped)):  # parts before what they are part of
        module.set_submodule(name, _inside(module.get_submodule(name)))
    module = _inside(module) if "" in wrapped else module
    in_place = [part for part in module.modules() if vars(part).get("_compiled_call_impl") is not None]
    for part in in_place:  # `part.compile()`
        vars(part)["_compiled_call_impl"] = None
    return module, {"compiled": "torch.compile's wrapper was taken off"} if wrapped or in_place else {}


def bare(module: nn.Module) -> nn.Module:
    """A caller's module without the wrapper around it; the caller's own stays as it is, and so do its parts."""
    module = _inside(module) if _is_wrapper(module) else module
    if vars(module).get("_compiled_call_impl") is None:
        return module
    return twin(module, lambda forward, inputs: forward(*inputs))


def _is_wrapper(module: nn.Module) -> bool:
    dynamo = sys.modules.get("torch._dynamo")  # slow to import, and without it nothing was compiled
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def _inside(wrapper: nn.Module) -> nn.Module:
    return cast("nn.Module", wrapper._orig_mod)  # noqa: SLF001 - torch has no public name for it
