"""A source that is an artifact already: an engine computes its answers, and there is no eager PyTorch behind it.

Everything behind the sources calls it like any module. The few places that would otherwise ask PyTorch (for float64,
for other legitimate evaluations, for the export) ask the methods here. This file imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

SOURCES = {"onnx": "onnx"}
"""Kind of a source to the variant that its file is; these sources have no eager."""


NOT_HERE = {"PACKAGE_MISSING", "SOURCE_FINISHED", "ALREADY_REDUCED"}
"""Codes that say that a variant cannot be had here or of this source: no failure of the export."""


def asked_opset(kind: str, usual: int, newest: int) -> int:
    """What to ask of the ONNX exporter for a release that takes `newest`: a file keeps its own opset where it can."""
    return newest if kind in SOURCES else min(usual, newest)


def reference_of(kind: str) -> str:
    """What a bundle from a source of `kind` was compared with, for titles."""
    return f"the {SOURCES[kind].upper()} file itself (called eager here)" if kind in SOURCES else "eager PyTorch"


class Finished:
    """Base of an `nn.Module` around a file that somebody exported.

    Attributes:
        variant: the variant that the file is, `onnx`.
        precision: what the file computes in, as the manifest names it.
        digest: sha256 of the file, over all files where there are several.
        output_names: the outputs as the file calls them.
        float64: how `to(torch.float64)` gives its answer, for the manifest.
        constants: its scalar float constants: large negative ones are masks.
        weak: why it has no float64 answer, in words; empty where it has one or nobody asked yet.
    """

    variant: str
    precision: str
    digest: str
    output_names: tuple[str, ...]
    float64: str
    constants: frozenset[float]

    @property
    def weak(self) -> str:
        """Why there is no float64 answer."""
        raise NotImplementedError

    def others(self) -> Iterable[Any]:
        """Modules that answer the same question as legitimately, in another order of operations."""
        raise NotImplementedError

    def watched(self, see: Callable[[str, Any], None]) -> AbstractContextManager[None]:
        """While open, the float64 run shows every float tensor that comes from the inputs, with its place."""
        raise NotImplementedError

    def write(self, target: Path, opset: int | None) -> dict[str, str | int]:
        """Write the file to `target` and what belongs to it beside; gives facts.

        Args:
            target: where it goes.
            opset: newest version of the standard operator set that is wanted; None takes it as it is.

        Raises:
            WorkError: TARGET_TOO_OLD, it cannot be made so old.
            OSError: a file cannot be read or written.
        """
        raise NotImplementedError
