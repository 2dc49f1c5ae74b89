"""Tensors inside lists, dicts and dataclasses: making torch look into all of them, and naming what is found.

A name is made of the keys on the way to a tensor, as ONNX takes names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from deploykit.errors import UsageError


def register_dataclasses(value: Any, code: str = "BAD_OUTPUT") -> None:
    """Make torch look into every dataclass inside `value`, as it does into dicts and named tuples.

    Raises:
        UsageError: `code`, a dataclass has a field that its constructor does not take: torch would lose it.
    """
    import torch
    from torch.utils import _pytree as pytree

    for leaf in pytree.tree_leaves(value):
        if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            lost = next((field.name for field in dataclasses.fields(leaf) if not field.init), None)
            if lost is not None:
                message = f"field {lost} of {type(leaf).__name__} is not taken by its constructor, and torch loses it"
                raise UsageError("model", message, "declare it without init=False", code)
            torch.export.register_dataclass(type(leaf))
            register_dataclasses(leaf, code)


def joined(parts: Iterable[str]) -> str:
    """`parts` with `_` between them, every character that is neither letter, digit nor `_` replaced by one."""
    return "".join(c if c.isalnum() or c == "_" else "_" for c in "_".join(parts))


def key(step: Any) -> str:
    """One step of a path of torch's pytree: the key of a dict, the index in a list, or the name of a field."""
    return next((str(getattr(step, name)) for name in ("key", "idx", "name") if hasattr(step, name)), str(step))


def unique(names: Iterable[str], taken: Iterable[str] = ()) -> tuple[str, ...]:
    """`names` made distinct from each other and from `taken`: inputs and outputs share one name space."""
    used = set(taken)
    found = []
    for name in names:
        free = name if name not in used else f"{name}_out"
        while free in used:
            free += "_"
        used.add(free)
        found.append(free)
    return tuple(found)
