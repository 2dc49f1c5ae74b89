"""What the gate measured when all was well, as a record kept in a file. Pure; `drift.py` compares two of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deploykit import strict_json
from deploykit.parity.sketch import PROJECTIONS, Sketch
from deploykit.results import (
    CheckVerdict,
    VariantReport,
    VariantVerdict,
    VerifyReport,
    from_data,
    to_data,
)

SCHEMA = 1

RANK = {"pass": 0, "warn": 1, "skipped": 2, "inconclusive": 2, "fail": 3, "refused": 4, "error": 4}
"""Verdicts of checks and variants, from good to bad: what could not be found out is worse than a warning."""

Key = tuple[str, str, str]
"""Id, output and metric: what makes a check the same check in two records."""


@dataclass(frozen=True)
class Value:
    """One check as it was; the fields are those of `Check`."""

    id: str
    output: str
    metric: str
    verdict: CheckVerdict
    value: float | None
    limit: float | None
    at_least: bool = False

    @property
    def key(self) -> Key:
        """What it is called in both records."""
        return (self.id, self.output, self.metric)


@dataclass(frozen=True)
class VariantValues:
    """One variant as it was."""

    name: str
    verdict: VariantVerdict
    code: str
    checks: tuple[Value, ...]


@dataclass(frozen=True)
class Baseline:
    """A gate's answer, cut to what a later one is compared with.

    Attributes:
        model: name of the bundle, for people.
        source: digest over all tensors of the eager module: baselines of other weights do not compare.
        packages: versions where verify ran; `made_with` where the bundle was exported.
        cpu: model name of the processor that ran it.
        reference: eager's own answers, sketched.
    """

    model: str
    source: str
    packages: dict[str, str | None]
    made_with: dict[str, str]
    cpu: str | None
    variants: tuple[VariantValues, ...]
    reference: tuple[Sketch, ...]
    schema: int = SCHEMA

    @classmethod
    def of(
        cls, report: VerifyReport, source: str, made_with: Mapping[str, str], reference: tuple[Sketch, ...]
    ) -> Baseline:
        """What is worth keeping of a report."""
        return cls(
            report.bundle,
            source,
            dict(report.environment.get("packages") or {}),
            dict(made_with),
            report.environment.get("cpu"),
            tuple(_values(variant) for variant in report.variants),
            reference,
        )

    def to_json(self) -> str:
        """The file's text: a line per check, so that a review of a new baseline is a readable diff."""
        return _told(to_data(self)) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Baseline:
        """The inverse of `to_json`.

        Raises:
            ValueError: the text is no baseline, or one of another schema.
        """
        data = strict_json.parse(text)
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA:
            raise ValueError(f"schema {schema!r} is unknown, this deploykit reads {SCHEMA}")
        found: Baseline = from_data(cls, data)
        for item in found.reference:  # with a NaN every comparison would hold
            numbers = (item.rms, item.noise, *item.projections)
            if len(item.projections) != PROJECTIONS or not all(map(math.isfinite, numbers)) or item.noise < 0.0:
                raise ValueError(f"the sketch of {item.case} is not one")
        return found


def _values(variant: VariantReport) -> VariantValues:
    """The checks of a variant, one per place and metric: the gravest where there are several."""
    found: dict[Key, Value] = {}
    for check in variant.checks:
        key = (check.id, check.output, check.metric)
        if key in found and RANK[found[key].verdict] >= RANK[check.verdict]:
            continue
        found[key] = Value(*key, check.verdict, rounded(check.value), rounded(check.limit), check.at_least)
    return VariantValues(variant.name, variant.verdict, variant.code, tuple(found.values()))


def rounded(value: float | None) -> float | None:
    """Six digits: what is kept in version control should not change with the last bit."""
    return None if value is None else float(f"{value:.6g}")


def _told(node: Any, indent: str = "") -> str:
    """JSON in which what holds no other records stands on one line."""
    inner = indent + "  "
    if isinstance(node, dict) and any(isinstance(item, dict | list) and _deep(item) for item in node.values()):
        parts = [f"{inner}{json.dumps(key, ensure_ascii=False)}: {_told(item, inner)}" for key, item in node.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    if isinstance(node, list) and any(isinstance(item, dict | list) for item in node):
        return "[\n" + ",\n".join(inner + _told(item, inner) for item in node) + f"\n{indent}]"
    return json.dumps(node, allow_nan=False, ensure_ascii=False)


def _deep(node: dict[str, Any] | list[Any]) -> bool:
    """Whether there are records in it; a list of numbers is none."""
    items: Iterable[Any] = node.values() if isinstance(node, dict) else node
    return isinstance(node, dict) or any(isinstance(item, dict | list) for item in items)
