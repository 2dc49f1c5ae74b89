"""The eager module itself, the base line of bench; its artifact is a JSON file naming the source and the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit import preprocessed
from deploykit.model import SourceSpec
from deploykit.runtimes._torch_engine import TorchEngine

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Runtime(TorchEngine):
    """Loads `{"source": fields of a SourceSpec, "weights": path}`; a relative path is beside the file."""

    def load(self, artifact: Path, device: torch.device) -> Callable[..., Any]:
        """The module that the source builds, with the recorded weights, in eval mode on `device`."""
        import torch
        from safetensors.torch import load_file

        record = json.loads(artifact.read_text(encoding="utf-8"))
        fields = record["source"] | {"inputs": tuple(record["source"].get("inputs", ()))}
        spec = SourceSpec(**fields)
        model = preprocessed.load(spec)
        stored = load_file(artifact.parent / record["weights"])
        rest = {name: value for name, value in model.module.state_dict().items() if not isinstance(value, torch.Tensor)}
        model.module.load_state_dict({**rest, **stored}, strict=True)
        return model.module.eval().to(device)
