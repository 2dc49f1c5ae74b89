"""What is odd about a model and will be asked about later: said in one line each before anything is exported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from deploykit.capture.calling import call
from deploykit.finished import Finished
from deploykit.model import LoadedModel

KNOWN = frozenset({"aten", "prim", "prims", "profiler", "torchvision", "inductor"})
"""Namespaces of operators for which exporters have forms, or that leave no trace in a graph."""


def findings(model: LoadedModel) -> dict[str, str]:
    """One line with a remedy each, by what it is about: for the notes of the manifest.

    `unused NAME`: forward computes nothing from an input. `custom NAME`: an operator of the model's own. `tied NAME`:
    weights that are one tensor under several names.
    """
    return dict(_found(model))


def _found(model: LoadedModel) -> Iterator[tuple[str, str]]:
    if isinstance(model.module, Finished):  # no operator of torch's reads its inputs
        return
    used = _Use()
    try:
        call(model.module, model.example, within=used.over)
    except Exception:  # noqa: BLE001 - control flow operators take no mode that watches; nothing is said then
        return
    for name, place in zip(model.example, used.given, strict=True):
        if place not in used.taken:
            yield f"unused {name}", "forward computes nothing from it: leave it out, or check that it should"
    for name in sorted(used.operators):
        yield f"custom {name}", "an operator of its own: exporters need a form of it, servers the library that has it"
    for first, others in _tied(model.module).items():
        yield f"tied {first}", f"one tensor with {', '.join(others)}: stored once where the format can"


class _Use(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Sees which inputs operators read, and which operators are not torch's.

    Attributes:
        given: the storage of each input, in order.
        taken: the storages that operators read.
        operators: `namespace::name` of operators from elsewhere.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.given: list[int] = []
        self.taken: set[int] = set()
        self.operators: set[str] = set()

    def over(self, inputs: Any) -> _Use:
        """The context in which forward runs on `inputs`."""
        self.given = [_storage(tensor) for tensor in inputs]
        return self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - it has no public name
            for value in pytree.tree_leaves((args, kwargs or {})):
                if isinstance(value, torch.Tensor):
                    self.taken.add(_storage(value))
            if func.namespace not in KNOWN:
                self.operators.add(f"{func.namespace}::{func.__name__.partition('.')[0]}")
            return func(*args, **(kwargs or {}))


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else id(tensor)


def _tied(module: torch.nn.Module) -> dict[str, list[str]]:
    """Further names of each parameter that has several, by its first."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {found[0]: found[1:] for found in names.values() if len(found) > 1}
