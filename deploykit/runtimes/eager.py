"""The eager module itself, the base line of bench; its artifact is a JSON file naming the source and the weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from deploykit import registry
from deploykit.model import LoadedModel, SourceSpec
from deploykit.session import Session, SessionSettings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Runtime:
    """Loads `{"source": fields of a SourceSpec, "weights": path relative to the file}` through the source's plugin."""

    stack: ClassVar[str] = "torch"
    runs_code: ClassVar[bool] = True

    def unavailable(self) -> str | None:
        """Why this engine cannot be used here; None when it can."""
        missing = [name for name in ("torch", "safetensors") if not find_spec(name)]
        return f"the package {missing[0]} is not installed" if missing else None

    def providers(self) -> tuple[str, ...]:
        """The devices that torch has here."""
        from deploykit.runtimes import _torch

        return _torch.providers()

    def open(self, artifact: Path, output_names: tuple[str, ...], settings: SessionSettings) -> Session:
        """Build the module, give it the recorded weights, and move it to the wanted device.

        Raises:
            WorkError: PROVIDER_FALLBACK; LOAD_ERROR when the file, the weights or the source do not fit each other.
        """
        from deploykit.runtimes import _torch

        return _torch.open_session(artifact, output_names, settings, lambda device: _load(artifact, device))


def _load(artifact: Path, device: torch.device) -> torch.nn.Module:
    from safetensors.torch import load_file

    record = json.loads(artifact.read_text(encoding="utf-8"))
    fields = record["source"] | {"inputs": tuple(record["source"].get("inputs", ()))}
    spec = SourceSpec(**fields)
    model: LoadedModel = registry.load("sources", spec.kind)().load(spec)
    module = model.module
    module.load_state_dict(load_file(artifact.parent / record["weights"]), strict=True)
    return module.eval().to(device)
