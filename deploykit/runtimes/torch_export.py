"""`.pt2` programs, opened by torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from deploykit.runtimes._torch_engine import TorchEngine

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Runtime(TorchEngine):
    """`torch.export.load` and its `.module()`, uncompiled: the exported graph as it is."""

    imports: ClassVar[tuple[str, ...]] = (
        *TorchEngine.imports,
        "torch.export.pt2_archive._package",
        "torch.export._trace",
        "torch.export._unlift",
    )

    def load(self, artifact: Path, device: torch.device) -> Callable[..., Any]:
        """The program's module, moved to `device`."""
        import torch

        from deploykit.runtimes._operators import register

        register(artifact)
        program = torch.export.load(str(artifact))
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        return program.module()
