"""Modules whose forward takes more than tensors by position: lists, dicts, keywords and constants.

Everything behind the sources calls a module with named tensors in order. `flattened` gives a module that can be called
so and shares every weight, name and submodule with the one it was made from, which stays as it is.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from deploykit import nested
from deploykit.errors import UsageError
from deploykit.twin import twin

_CONSTANTS = (type(None), bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device, torch.Size)
"""What may stand beside tensors in example inputs; it is kept as it is and becomes part of the exported model."""


@dataclass(frozen=True)
class Arguments:
    """How tensors become forward's arguments.

    Attributes:
        names: one per tensor, from the parameter and the keys on the way to it.
        tree: the nesting of `(args, kwargs)`.
        constants: every leaf that is no tensor, by its place among the leaves.
        told: those of them that are not None, by name.
    """

    names: tuple[str, ...]
    tree: pytree.TreeSpec
    constants: Mapping[int, Any]
    told: Mapping[str, Any]

    def rebuilt(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`args` and `kwargs` of forward with `tensors` in their places."""
        given = iter(tensors)
        count = len(self.names) + len(self.constants)
        leaves = [self.constants[i] if i in self.constants else next(given) for i in range(count)]
        args, kwargs = pytree.tree_unflatten(leaves, self.tree)
        return tuple(args), kwargs


def taken_apart(
    parameters: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Arguments, list[torch.Tensor]]:
    """The tensors inside `args` and `kwargs`, with names, and how to put them back.

    Args:
        parameters: a name for each of `args`.
        args: by position. Lists, tuples, dicts and dataclasses are looked into.
        kwargs: by keyword, likewise.

    Raises:
        UsageError: BAD_EXAMPLE, an object that is neither a tensor nor a plain value, or no tensor at all.
    """
    nested.register_dataclasses((args, dict(kwargs)), "BAD_EXAMPLE")
    leaves, tree = pytree.tree_flatten_with_path((tuple(args), dict(kwargs)))
    constants: dict[int, Any] = {}
    told: dict[str, Any] = {}
    names: list[str] = []
    tensors: list[torch.Tensor] = []
    for index, (path, leaf) in enumerate(leaves):
        name = _named(parameters, path)
        if isinstance(leaf, torch.Tensor):
            names.append(name)
            tensors.append(leaf)
        elif isinstance(leaf, _CONSTANTS):
            constants[index] = leaf
            told |= {name: leaf} if leaf is not None else {}
        else:
            what = f"the example is a {type(leaf).__name__}"
            hint = "give tensors, plain values, and lists, tuples, dicts or dataclasses of them"
            raise UsageError(f"input {name}", what, hint, "BAD_EXAMPLE")
    if not tensors:
        raise UsageError("inputs", "the example inputs hold no tensor", "give a tensor per input", "BAD_EXAMPLE")
    return Arguments(nested.unique(names), tree, constants, told), tensors


def flattened(module: nn.Module, arguments: Arguments) -> nn.Module:
    """A module that takes the tensors of `arguments` by position and calls forward as `arguments` says."""

    def rebuilt(forward: Callable[..., Any], tensors: tuple[torch.Tensor, ...]) -> Any:
        args, kwargs = arguments.rebuilt(tensors)
        return forward(*args, **kwargs)

    return twin(module, rebuilt)


def _named(parameters: Sequence[str], path: tuple[Any, ...]) -> str:
    """`batch_image` for the key `image` of the parameter `batch`, by position or by keyword."""
    by_keyword, first, *rest = (nested.key(step) for step in path)
    text = nested.joined([first if by_keyword == "1" else parameters[int(first)], *rest])
    return text if text.isidentifier() else f"input_{text}"
