"""What the runtimes on top of torch share; each adds how its artifact becomes something to call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from deploykit.session import Session, SessionSettings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TorchEngine(ABC):
    """An engine of the `torch` stack. Importing this is cheap; `_torch.py`, which is not, is imported on use."""

    stack: ClassVar[str] = "torch"
    runs_code: ClassVar[bool] = True
    imports: ClassVar[tuple[str, ...]] = ("deploykit.runtimes._torch",)
    builds: ClassVar[bool] = False
    """The first call of every shape compiles something."""

    @abstractmethod
    def load(self, artifact: Path, device: torch.device) -> Callable[..., Any]:
        """What takes tensors on `device` and gives any nest of tensors; it may raise anything."""

    def unavailable(self) -> str | None:
        """Why this engine cannot be used here; None when it can."""
        return None if find_spec("torch") else "the package torch is not installed"

    def providers(self) -> tuple[str, ...]:
        """The devices that torch has here."""
        from deploykit.runtimes import _torch

        return _torch.providers()

    def open(self, artifact: Path, output_names: tuple[str, ...], settings: SessionSettings) -> Session:
        """Open the artifact on the wanted device.

        Raises:
            WorkError: PROVIDER_FALLBACK when torch has no such device; LOAD_ERROR when it cannot be opened.
        """
        from deploykit.runtimes import _torch

        def load(device: torch.device) -> Callable[..., Any]:
            return self.load(artifact, device)

        return _torch.open_session(artifact, output_names, settings, load, builds=self.builds)

    def profile(
        self,
        artifact: Path,
        output_names: tuple[str, ...],
        settings: SessionSettings,
        trace: Path,
        plan: Callable[[Session], Callable[[], object]],
    ) -> None:
        """Open, warm up by `plan`, make the calls that it gives under torch's profiler, write the Chrome trace.

        Raises:
            WorkError: as `open`.
        """
        from deploykit.runtimes import _torch

        session = self.open(artifact, output_names, settings)
        _torch.profiled(plan(session), trace, session.provider)
