"""A loop that ends in float32 need not end in float16: `while step > 1e-4` with a step that rounds to itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deploykit.capture.calling import call
from deploykit.signature import Feeds

TIMES = 50
"""Operators that another evaluation may take, in those of eager on the example: rows and lengths differ by less."""

LEAST = 10_000
"""Operators that any evaluation may take: a tenth of a second of the smallest ones."""


class Bound:
    """Lets no evaluation of a module call many times the operators of the given one."""

    def __init__(self, module: torch.nn.Module, example: Feeds) -> None:
        count = _Count(None)
        try:
            call(module, example, within=lambda _: count)
        except Exception:  # noqa: BLE001 - control flow operators take no mode; their loops are torch's, and are left alone
            self._limit = None
        else:
            self._limit = max(LEAST, TIMES * count.seen)

    def __call__(self, tensors: Sequence[torch.Tensor]) -> AbstractContextManager[object]:  # noqa: ARG002 - of no use here
        """The context of one run. Raises RuntimeError inside, where it calls too many."""
        return nullcontext() if self._limit is None else _Count(self._limit)


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    def __init__(self, limit: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.seen = 0
        self._limit = limit

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen += 1
        if self._limit is not None and self.seen > self._limit:
            raise RuntimeError(f"more than {self._limit} operators")
        return func(*args, **(kwargs or {}))
