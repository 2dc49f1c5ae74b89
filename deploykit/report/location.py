"""Where a variant starts to differ, as lines: what came out, in which stage, at which value, from which code."""

from __future__ import annotations

from deploykit.errors import escape
from deploykit.results import REPRODUCE, Location, VariantReport


def lines(variant: VariantReport, measured: str) -> list[str]:
    """The place on one line, the evidence on another, then what to run or to keep in float; none without a location.

    Args:
        variant: its location may be None.
        measured: output, metric and value of the check that decides, for example `logits R=5.3e3`.
    """
    place = variant.location
    if place is None:
        return []
    head = " ".join(part for part in (variant.verdict.upper(), variant.code, measured, _place(place)) if part)
    found = [f"{variant.name}: {escape(head)}"]
    if place.evidence:
        found.append(f"{variant.name}: {escape(place.evidence)}")
    if place.keep_float:
        found.append(f"{variant.name}: keep in float first: {escape(', '.join(place.keep_float))}")
    if place.reproducer:
        found.append(f"{variant.name}: reproduce it with python {escape(place.reproducer)}/{REPRODUCE}")
    return found


def _place(place: Location) -> str:
    """`stage=CONVERSION first_bad=layer2.up (Resize) model.py:88 born here`."""
    parts = [f"stage={place.stage}"]
    module = place.module.partition(" (")[0]
    if name := module or place.value:
        parts.append(f"first_bad={name}")
    if place.operator:
        parts.append(f"({place.operator})")
    parts.append(place.source)
    if place.born is not None:
        parts.append("born here" if place.born else "propagated")
    if module and place.value:
        parts.append(f"as value {place.value}")
    return " ".join(part for part in parts if part)
