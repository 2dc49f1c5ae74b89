"""The face of a transform: one artifact in, the same format at another precision out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from deploykit.signature import Feeds


class TransformPlugin(Protocol):
    """One change of precision. A dataclass: its fields are its options, recorded in the manifest.

    The variant it makes is named `<base>-<name>`: `transforms/fp16.py` on `onnx` makes `onnx-fp16`.

    Attributes:
        core: made by default.
        base: the variant it starts from; its file name and runtime carry over.
        precision: `fp16`, `int8-dynamic`, `int8-static`, …: the budget that verify applies.
        needs_calibration: whether `calibration` must hold samples.
    """

    core: ClassVar[bool]
    base: ClassVar[str]
    precision: ClassVar[str]
    needs_calibration: ClassVar[bool]

    def unavailable(self) -> str | None:
        """Why this transform cannot work here, in one line; None when it can."""

    def apply(self, source: Path, target: Path, calibration: Sequence[Feeds]) -> dict[str, str | int]:
        """Write the transformed artifact to `target` and say what was found out.

        Args:
            source: the base artifact; not changed.
            target: the file to write.
            calibration: sets of inputs, each a batch as the model takes it; empty unless `needs_calibration`.

        Raises:
            Exception: whatever the library raises; the caller maps it to EXPORT_ERROR.
        """
