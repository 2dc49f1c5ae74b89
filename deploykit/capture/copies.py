"""Copies of the module in another dtype or memory format: made once, or one at a time when they are large."""

from __future__ import annotations

import copy

import torch

LARGE = 500 << 20
"""Bytes of weights above which only one copy is alive at a time: beside the module itself, at most its float64 form."""


class Copies:
    """Converted copies of one module; the module itself is never touched."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.original = module
        tensors = [*module.parameters(), *module.buffers()]
        self._large = sum(tensor.numel() * tensor.element_size() for tensor in tensors) > LARGE
        self._kept: dict[torch.dtype | torch.memory_format, torch.nn.Module] = {}

    def get(self, form: torch.dtype | torch.memory_format) -> torch.nn.Module:
        """The copy in `form`. Raises whatever the module raises when it is copied or converted."""
        if form not in self._kept:
            if self._large:
                self._kept.clear()
            made = copy.deepcopy(self.original)
            if isinstance(form, torch.memory_format):
                self._kept[form] = made.to(memory_format=form)
            else:
                self._kept[form] = made.to(form)
        return self._kept[form]
