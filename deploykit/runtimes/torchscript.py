"""TorchScript archives, opened by torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit.runtimes._torch_engine import TorchEngine

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Runtime(TorchEngine):
    """`torch.jit.load`: it builds and runs the program in the archive."""

    def load(self, artifact: Path, device: torch.device) -> Callable[..., Any]:
        """The module in the archive, on `device`."""
        import torch

        from deploykit.runtimes._operators import register

        register(artifact)
        module: torch.nn.Module = torch.jit.load(str(artifact), map_location=device)  # type: ignore[no-untyped-call]
        return module
