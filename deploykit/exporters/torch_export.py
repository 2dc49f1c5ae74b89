"""torch.export: the program as a graph of ATen operators, saved as `.pt2`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from deploykit.model import LoadedModel


@dataclass(frozen=True)
class Exporter:
    """`torch.export.save`; loading it unpickles and evaluates expressions, so it counts as code."""

    core: ClassVar[bool] = True
    file_name: ClassVar[str] = "model.pt2"
    runtime: ClassVar[str] = "torch-export"
    precision: ClassVar[str] = "fp32"
    runs_code: ClassVar[bool] = True

    def unavailable(self) -> str | None:
        """Why this exporter cannot work here; None when it can."""
        return None if find_spec("torch") else "the package torch is not installed"

    def export(self, model: LoadedModel, target: Path) -> dict[str, str | int]:
        """Write the program to `target`; tells dims narrower than promised (`dim N`), and an unusual way of capture.

        Raises:
            WorkError: DYNAMIC_DIM_FIXED, DATA_DEPENDENT, UNSUPPORTED_OP or EXPORT_ERROR, naming the model's line.
        """
        import torch

        from deploykit.exporters._graph import capture, untouched

        # through memory: the archive's root would otherwise be named after the file, and a full disk aborts the process
        buffer = io.BytesIO()
        with untouched(model.module):
            captured = capture(model)
            torch.export.save(captured.program, buffer)
        target.write_bytes(buffer.getvalue())
        return {**captured.facts}
