"""Why reduced precision did not help, from facts that are at hand; what is not known is not said. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deploykit.measurements import MATTERS, Comparison
from deploykit.recommend.traits import Traits
from deploykit.results import VariantReport
from deploykit.session import CPU

_PRODUCTS = {
    ("int", "x86_64"): ({"avx512_vnni", "avx_vnni", "amx_int8"}, "no instructions for 8-bit products (no VNNI)"),
    ("int", "aarch64"): ({"asimddp", "i8mm"}, "no instructions for 8-bit products (no dot product)"),
    ("fp16", "x86_64"): ({"avx512_fp16"}, "no float16 arithmetic (no AVX512-FP16)"),
    ("bf16", "x86_64"): ({"avx512_bf16", "amx_bf16"}, "no bfloat16 arithmetic (no AVX512-BF16)"),
}
"""Precision and machine to the CPU flags of which one is needed, and what it means to have none."""


@dataclass(frozen=True)
class Facts:
    """What is known beside the measurement.

    Attributes:
        environment: as `environment.fingerprint` gives it.
        provider: execution provider of the measurement.
        quick: the measurement was a short one.
    """

    environment: Mapping[str, Any] = field(default_factory=dict)
    provider: str = CPU
    quick: bool = False


def why(traits: Traits, found: Comparison, report: VariantReport | None, facts: Facts) -> list[str]:
    """Facts that bear on a variant of reduced precision that is not faster than its origin; none may be known."""
    said = [text for text in (_coverage(report), _instructions(traits, facts)) if text]
    # further from 1 than what matters, in an interval that holds 1: perhaps a difference that was not seen
    unsure = found.verdict == "indistinguishable" and found.ci is not None and abs((found.ratio or 1) - 1) >= MATTERS
    if unsure and facts.quick:
        said.append("three launches may be too few to see it: leave --quick out")
    return said


def _instructions(traits: Traits, facts: Facts) -> str:
    """What the CPU lacks; empty where its flags are not known, and on other devices."""
    flags = set(facts.environment.get("cpu_flags") or ())
    kind = "int" if traits.integer else traits.precision.partition("-")[0]
    machine = str(facts.environment.get("machine") or "").lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
    needed, text = _PRODUCTS.get((kind, machine), (set(), ""))
    if facts.provider != CPU or not flags or not needed or needed & flags:
        return ""
    return f"this CPU has {text}"


def _coverage(report: VariantReport | None) -> str:
    """How little of the network has the precision, where verify found it worth a word."""
    for check in report.checks if report else ():
        if check.id == "coverage" and check.value is not None and (check.value < 1.0 or check.code):
            return f"{check.code}: {check.reason}" if check.code else check.reason
    return ""
