"""Which line of the model's own code is to blame: the model runs once more, and is caught in the act."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from deploykit.capture.calling import call
from deploykit.model import LoadedModel

_OWN = str(Path(__file__).parents[1])
_TORCH = str(Path(torch.__file__).parent)


def line_now() -> str:
    """`net.py:12` of the innermost running frame that is neither torch's nor ours; empty where there is none."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - traceback reads every source line of the stack
    while frame is not None and frame.f_code.co_filename.startswith(_OWN):  # the mode that asks
        frame = frame.f_back
    while frame is not None and not frame.f_code.co_filename.startswith(_OWN):  # beyond us is who called us
        if not frame.f_code.co_filename.startswith((_TORCH, "<")):
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def line_of(error: BaseException) -> str:
    """` (net.py:12)`: the innermost line of the user's code that `error` came through; empty where there is none."""
    frames = [(frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(error.__traceback__)]
    found = [entry for entry in frames if not entry[0].startswith((_OWN, _TORCH, "<"))]
    return f" ({Path(found[-1][0]).name}:{found[-1][1]})" if found else ""


def writer(model: LoadedModel, name: str) -> str:
    """The line that writes to the parameter or buffer `name`; empty when no operator does so in place."""
    tensors = {**dict(model.module.named_parameters()), **dict(model.module.named_buffers())}
    if name not in tensors or tensors[name].layout != torch.strided:
        return ""
    writes = _Writes(tensors[name].untyped_storage().data_ptr())
    call(model.module, model.example, within=lambda _: writes)
    return writes.line


class _Writes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Notes the line of the first operator that changes what lies at `storage`."""

    def __init__(self, storage: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._storage = storage
        self.line = ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunction():  # noqa: SLF001 - it has no public name
            if not self.line and func._schema.is_mutable and self._reached(args, kwargs):  # noqa: SLF001 - likewise
                self.line = line_now()
            return func(*args, **(kwargs or {}))

    def _reached(self, args: Any, kwargs: Any) -> bool:
        tensors = (value for value in pytree.tree_leaves((args, kwargs or {})) if isinstance(value, torch.Tensor))
        return any(
            tensor.layout == torch.strided and tensor.untyped_storage().data_ptr() == self._storage
            for tensor in tensors
        )
