"""One model of the zoo: where it comes from, and which outcomes are right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VARIANTS = ("onnx", "torchscript", "torch-export", "onnx-int8-static")

PASS = "pass"
REFERENCE = "reference"
"""The place of a refusal that comes before any variant: eager itself is no reference."""


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        family: `torchvision classification`, `timm`, …
        source: SOURCE as on the command line, without the path of this folder or of a configuration.
        inputs: `--input` texts.
        expected: right outcomes where they are not `pass`: `torchscript=CONTROL_FLOW_BAKED onnx=pass|CONSTANT_DROPPED`;
            `*` stands for every variant.
        why: one line about them, written after looking at the model.
        config: of a transformers model that is built from it, else empty.
        label: what tells two lines of one source apart.
    """

    family: str
    source: str
    inputs: tuple[str, ...] = ()
    expected: str = ""
    why: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        """What names it in the results and on the command line."""
        return self.source + self.label

    def right(self, variant: str) -> tuple[str, ...]:
        """The right outcomes of a variant; one that is made from ONNX shares ONNX's unless it has its own."""
        stated = dict(part.split("=", 1) for part in self.expected.split())
        base = ("onnx",) if variant == "onnx-int8-static" else ()
        found = next((stated[key] for key in (variant, *base, "*") if key in stated), PASS)
        return tuple(found.split("|"))
