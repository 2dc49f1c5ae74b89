"""The face of an exporter: a live module in, one file out."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

from deploykit.model import LoadedModel


class ExporterPlugin(Protocol):
    """One format. A dataclass: its fields are its options, recorded in the manifest.

    Attributes:
        core: made by default; the others only with `--variants all` or by name.
        file_name: the artifact's name inside `variants/<variant>/`.
        runtime: the runtime plugin that opens it.
        precision: `fp32` for everything that only changes the form.
        runs_code: opening the file can run code that is in it (TorchScript, `.pt2`).
    """

    core: ClassVar[bool]
    file_name: ClassVar[str]
    runtime: ClassVar[str]
    precision: ClassVar[str]
    runs_code: ClassVar[bool]

    def unavailable(self) -> str | None:
        """Why this exporter cannot work here, in one line; None when it can."""

    def export(self, model: LoadedModel, target: Path) -> dict[str, str | int]:
        """Write the artifact to `target` (files beside it belong to it) and say what was found out (`opset`, …).

        The same model and versions give the same bytes. The module is left as it was.

        Raises:
            Exception: whatever the exporter's library raises; the caller maps it to EXPORT_ERROR.
        """
