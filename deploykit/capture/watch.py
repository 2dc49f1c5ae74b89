"""Watching a run of the module: how large its intermediates get, what draws random numbers, what indices come from."""

from __future__ import annotations

import math
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from deploykit.capture.blame import line_now
from deploykit.capture.choices import Choices, operator
from deploykit.finished import Finished

FILL = -9_000.0
"""Constants from here down are masks (BERT adds -10,000, others -1e9 or the dtype's minimum), no magnitudes."""

MULTIPLES = 4
"""Masks add up: a causal and a padding mask on the same score make twice the constant."""

_CONTENTLESS = {
    "aten::empty_like", "aten::new_empty", "aten::new_empty_strided", "aten::zeros_like", "aten::ones_like",
    "aten::full_like", "aten::new_zeros", "aten::new_ones", "aten::new_full", "aten::rand_like", "aten::randn_like",
    "aten::randint_like",
}  # fmt: skip
"""Operators that take of a tensor its form only."""


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Sees every operator of one run.

    Attributes:
        places: largest finite magnitude by place, `layer2.0.conv1 (aten.convolution)`; filled where `magnitudes`.
        least: the same of the tensor in which it is smallest, where a place makes several; zeros left out.
        random: the first place that draws random numbers, or None; `random_line` is its line of the model's code.
        choices: where index outputs come from.
    """

    def __init__(self, *, magnitudes: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.places: dict[str, float] = {}
        self.least: dict[str, float] = {}
        self.random: str | None = None
        self.random_line = ""
        self.choices = Choices()
        self._magnitudes = magnitudes
        self._path: list[str] = []
        self._fills: set[float] = set()
        self._derived: MutableMapping[torch.Tensor, bool] = WeakIdKeyDictionary()
        self._roots: MutableMapping[torch.Tensor, torch.Tensor] = WeakIdKeyDictionary()

    @contextmanager
    def over(self, module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> Iterator[None]:
        """Watch what runs inside; hooks on `module`, removed at the end, tell whose forward it is."""
        for tensor in inputs:
            self._derived[tensor] = True
        handles = []
        for name, part in module.named_modules():
            if name and not isinstance(part, torch.jit.ScriptModule):  # a scripted one takes no Python hooks
                handles.append(part.register_forward_pre_hook(self._entering(name)))
                handles.append(part.register_forward_hook(self._leaving, always_call=True))
        try:
            with self, self._of_file(module):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _of_file(self, module: torch.nn.Module) -> AbstractContextManager[None]:
        """A finished file shows its values itself: no operator of torch's makes them."""
        if not isinstance(module, Finished):
            return nullcontext()
        self._fills.update(value for value in module.constants if -math.inf < value <= FILL)
        return module.watched(self._measure)

    def _entering(self, name: str) -> Any:
        def enter(_module: torch.nn.Module, _args: Any) -> None:
            self._path.append(name)

        return enter

    def _leaving(self, _module: torch.nn.Module, _args: Any, _output: Any) -> None:
        self._path.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - it has no public name
            kwargs = kwargs or {}
            may_draw = self.random is None and torch.Tag.nondeterministic_seeded in func.tags
            before = _generators() if may_draw else []
            result = func(*args, **kwargs)
            if may_draw and (kwargs.get("generator") is not None or not _equal(before, _generators())):
                self.random, self.random_line = self._place(func), line_now()
            self.choices.follow(func, args, kwargs, result)
            if self._magnitudes:
                self._trace(func, args, kwargs, result)
            return result

    def _place(self, func: Any) -> str:
        where = self._path[-1] if self._path else "the model"
        return f"{where} ({operator(func).replace('::', '.')})"

    def _trace(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Follow what comes from the inputs, and measure it where an operator made new values."""
        given = pytree.tree_leaves((args, kwargs))
        tensors = [value for value in given if isinstance(value, torch.Tensor)]
        self._note_fills(given)
        made = [value for value in pytree.tree_leaves(result) if isinstance(value, torch.Tensor)]
        if "_norm" in operator(func):
            made = made[:1]  # the rest is 1/σ kept for a gradient: no value of a graph for inference
        derived = operator(func) not in _CONTENTLESS and any(map(self._comes_from_inputs, tensors))
        for tensor in made:
            if func.is_view and tensors:
                self._roots[tensor] = self._roots.get(tensors[0], tensors[0])
            if derived:
                self._derived[self._roots.get(tensor, tensor)] = True
                if not func.is_view:
                    self._measure(self._place(func), tensor)

    def _comes_from_inputs(self, tensor: torch.Tensor) -> bool:
        return self._roots.get(tensor, tensor) in self._derived

    def _note_fills(self, given: list[Any]) -> None:
        for value in given:
            if isinstance(value, torch.Tensor):
                if value.ndim or not value.is_floating_point() or self._comes_from_inputs(value):
                    continue
                value = value.item()  # noqa: PLW2901 - a constant is a constant, in whichever form
            if isinstance(value, float | int) and -math.inf < value <= FILL:
                self._fills.add(float(value))

    def _measure(self, place: str, tensor: torch.Tensor) -> None:
        if not self._magnitudes or not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
            return
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        low, high = (float(bound) for bound in torch.aminmax(real))
        if not math.isfinite(low) or not math.isfinite(high) or (self._fills and low <= FILL):
            low, high = self._cleaned(real)
        size = max(-low, high)
        self.places[place] = max(self.places.get(place, 0.0), size)
        if size > 0.0:
            self.least[place] = min(self.least.get(place, math.inf), size)

    def _cleaned(self, tensor: torch.Tensor) -> tuple[float, float]:
        """Smallest and largest finite value that is no mask."""
        kept = torch.isfinite(tensor)
        for fill in self._fills:
            times = tensor / fill
            nearest = times.round()
            kept &= ((times - nearest).abs() > 0.01) | (nearest < 1) | (nearest > MULTIPLES)
        left = tensor[kept]
        return (float(left.min()), float(left.max())) if left.numel() else (0.0, 0.0)


def _generators() -> list[torch.Tensor]:
    """State of the default generators: attention without dropout is marked as random, and draws nothing."""
    states = [torch.get_rng_state()]
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch has no types here
    return states + torch.cuda.get_rng_state_all() if used else states


def _equal(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    return all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
