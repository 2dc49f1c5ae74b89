"""How exact and how simple a variant is, from its record in the manifest, whatever its name is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from deploykit.bundle import VariantRecord

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int4")
"""Most exact first; others come last. fp16 has more digits than bf16, but overflows."""

RUNTIMES = ("onnxruntime", "torch-export", "torchscript")
"""Simplest to ship first: onnxruntime needs no torch where it runs, PyTorch calls torchscript deprecated."""


@dataclass(frozen=True)
class Traits:
    """What of a variant's record says how exact and simple it is.

    Attributes:
        precision: as recorded, `fp32`, `int8-static`, …
        runtime: the plugin that opens it.
        origin: the variant it was made from; empty for what was exported from the module.
    """

    precision: str = "fp32"
    runtime: str = ""
    origin: str = ""

    @property
    def exactness(self) -> int:
        """Rank of the precision's class in `PRECISIONS`, 0 being the most exact."""
        kind = self.precision.partition("-")[0]
        return PRECISIONS.index(kind) if kind in PRECISIONS else len(PRECISIONS)

    @property
    def integer(self) -> bool:
        """Its weights are integers."""
        return self.precision.startswith("int")


def of(records: Iterable[VariantRecord]) -> dict[str, Traits]:
    """The traits of each variant by name.

    A transform's variant is called after its origin and the transform (see `plan.known`), so the record's `made_by`
    tells the origin.
    """
    kept = list(records)
    names = {record.name for record in kept}
    found = {}
    for record in kept:
        origin = record.name.removesuffix(f"-{record.made_by}")
        made = origin != record.name and origin in names
        found[record.name] = Traits(record.precision, record.runtime, origin if made else "")
    return found


def variant_of(name: str) -> str:
    """The variant that a subject measures: `onnx@threads=1` is `onnx` under other settings."""
    return name.partition("@")[0]


def simplicity(name: str, traits: Traits) -> tuple[int, int, bool, str]:
    """Sort key: exactness, then runtime, then plain settings, then name (`dynamic`, uncalibrated, before `static`)."""
    place = RUNTIMES.index(traits.runtime) if traits.runtime in RUNTIMES else len(RUNTIMES)
    return traits.exactness, place, "@" in name, name
