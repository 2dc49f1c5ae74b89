"""Tensors inside lists, dicts and dataclasses: making torch look into all of them, and naming what is found.

A name is made of the keys on the way to a tensor, as ONNX takes names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any


def register_dataclasses(value: Any) -> None:
    """Make torch look into every dataclass inside `value`, as it does into dicts and named tuples."""
    import torch
    from torch.utils import _pytree as pytree

    for leaf in pytree.tree_leaves(value):
        if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            torch.export.register_dataclass(type(leaf))
            register_dataclasses(leaf)


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
