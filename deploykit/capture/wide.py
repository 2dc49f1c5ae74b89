"""Running a module in float64 although its code asks for float32: casts, constants and new tensors are widened.

`module.double()` alone is not enough for a module that says `x.float()`, `torch.arange(...)` or `dtype=torch.float32`
inside: what it computes there keeps float32's error, or is refused beside float64 weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

WIDER = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}

_COMPLEX_OF = {torch.float16: torch.complex32, torch.float32: torch.complex64}

_MAKERS = {torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor}
"""What turns Python numbers into tensors before any operator runs: with a narrow dtype it would round them."""


class Widening:
    """One run in float64.

    Args:
        narrow: the dtype that the module is written for. Code that asks a tensor for its dtype is told this one, so
            that a `torch.finfo(x.dtype).eps` keeps its value; None tells the truth.
    """

    def __init__(self, narrow: torch.dtype | None) -> None:
        self.told = {torch.float64: narrow, torch.complex128: _COMPLEX_OF.get(narrow)} if narrow else {}
        self.bits = narrow or torch.float32
        self._wide = WeakIdKeyDictionary()

    def tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` in float64; the same one gives the same one, so that writing into it is seen later."""
        wider = WIDER.get(tensor.dtype)
        if wider is None or tensor.layout != torch.strided:
            return tensor
        if tensor not in self._wide:
            self._wide[tensor] = tensor.detach().to(wider)
        wide: torch.Tensor = self._wide[tensor]
        return wide

    def leaf(self, value: Any) -> Any:
        """Any argument of an operator: tensors and dtypes are widened, the rest stays."""
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        return WIDER.get(value, value) if isinstance(value, torch.dtype) else value

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Everything torch computes inside is computed in float64; Python numbers become float64 tensors."""
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            with _Operators(self), _Functions(self):
                yield
        finally:
            torch.set_default_dtype(default)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Widens what operators get and give, however they came to be called."""

    def __init__(self, widening: Widening) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.widening = widening

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - else tensors here tell the narrow dtype; no public name
            if func is torch.ops.aten.view.dtype:
                return self._reinterpreted(func, *args)
            args, kwargs = pytree.tree_map(self.widening.leaf, (args, kwargs or {}))
            return pytree.tree_map_only(torch.Tensor, self.widening.tensor, func(*args, **kwargs))

    def _reinterpreted(self, func: Any, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Bits seen as another dtype: those of the dtype that the module is written for."""
        if tensor.is_floating_point():
            tensor = tensor.to(self.widening.bits)
        seen: torch.Tensor = func(tensor, dtype)
        return self.widening.tensor(seen)


class _Functions(TorchFunctionMode):
    """Widens constants before composite functions compare dtypes, and tells the narrow dtype to code that asks."""

    def __init__(self, widening: Widening) -> None:
        super().__init__()
        self.widening = widening

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__self__", None) is torch.Tensor.dtype:
            dtype = func(*args, **kwargs)
            return self.widening.told.get(dtype) or dtype
        if func in _MAKERS:
            kwargs = pytree.tree_map(self.widening.leaf, kwargs)
        args, kwargs = pytree.tree_map_only(torch.Tensor, self.widening.tensor, (args, kwargs))
        return func(*args, **kwargs)
