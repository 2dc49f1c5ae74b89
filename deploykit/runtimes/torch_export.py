"""`.pt2` programs, opened by torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from deploykit.session import Session, SessionSettings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Runtime:
    """`torch.export.load` and its `.module()`, uncompiled: the exported graph as it is."""

    stack: ClassVar[str] = "torch"
    runs_code: ClassVar[bool] = True

    def unavailable(self) -> str | None:
        """Why this engine cannot be used here; None when it can."""
        return None if find_spec("torch") else "the package torch is not installed"

    def providers(self) -> tuple[str, ...]:
        """The devices that torch has here."""
        from deploykit.runtimes import _torch

        return _torch.providers()

    def open(self, artifact: Path, output_names: tuple[str, ...], settings: SessionSettings) -> Session:
        """Open the program on the wanted device.

        Raises:
            WorkError: PROVIDER_FALLBACK, LOAD_ERROR.
        """
        from deploykit.runtimes import _torch

        return _torch.open_session(artifact, output_names, settings, lambda device: _load(artifact, device))


def _load(artifact: Path, device: torch.device) -> torch.nn.Module:
    import torch

    program = torch.export.load(str(artifact))
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program.module()
