"""Which variant to ship, and why not the others. Pure.

Parity first: what verify did not pass is out. Then speed, as far as it was really seen: among variants that cannot be
told from the fastest, the most exact and simplest one wins. What follows is ranked the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from deploykit.measurements import BenchRow, Choice, Comparison, Recommendation
from deploykit.results import VariantReport
from deploykit.units import duration, times

Compare: TypeAlias = Callable[[str, str], Comparison]
"""(base, candidate) to their comparison at the batch in question."""

BASE_LINE = "eager"
"""The live module: measured to compare with, and no artifact that could be shipped."""

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int4")
"""Most exact first; a variant whose name holds none of them is fp32. fp16 has more digits than bf16, but overflows."""

FORMATS = ("onnx", "torch-export", "torchscript")
"""Simplest to ship first: onnx needs no torch where it runs, PyTorch calls torchscript deprecated; others come last."""


def choose(
    rows: Sequence[BenchRow],
    compare: Compare,
    verified: Mapping[str, VariantReport],
    unmade: Mapping[str, str] | None = None,
    batch: int | None = None,
) -> Recommendation:
    """Rank the variants by latency at `batch` (that of the first row where None) and say why.

    Args:
        rows: what was measured, `eager` included where it was.
        compare: from the same measurement.
        verified: the parity gate's answer per variant.
        unmade: variants that could not be made or opened, and why.
        batch: the batch size that decides.
    """
    unmade = dict(unmade or {})
    batch = batch if batch is not None else next((row.batch for row in rows), 1)
    table = {row.name: row for row in rows if row.batch == batch}
    rejected = [Choice(name, reason) for name, reason in unmade.items()]
    left: dict[str, BenchRow] = {}
    for name in dict.fromkeys((*table, *verified)):
        row = table.get(name)
        if name in unmade or name == BASE_LINE:
            continue
        reason = _rejection(row, verified.get(name))
        if reason is None and row is not None:
            left[name] = row
        else:
            rejected.append(Choice(name, reason or "not measured"))
    base = table.get(BASE_LINE)
    base = None if base is None or base.median_ns is None else base
    if not left:
        rejected.sort(key=lambda choice: choice.variant)
        if base is None:
            return Recommendation(None, "no variant passed verify and could be measured", (), tuple(rejected))
        why = f"no variant qualifies, what is left is the base line: {_speed(base, None)}"
        return Recommendation(BASE_LINE, why, (Choice(BASE_LINE, why),), tuple(rejected))
    if base is not None:
        rejected.append(Choice(BASE_LINE, f"{_speed(base, None)}: the base line, not an artifact"))
    ranking = tuple(_rank(left, compare, base))
    rejected.sort(key=lambda choice: choice.variant)
    return Recommendation(ranking[0].variant, ranking[0].reason, ranking, tuple(rejected))


def _rejection(row: BenchRow | None, report: VariantReport | None) -> str | None:
    """Why a variant cannot be recommended at all, None when it can."""
    if report is None:
        return "not verified"
    if report.verdict == "fail":
        return f"failed verify: {report.code or report.reason}"
    if report.verdict == "inconclusive":
        return f"inconclusive: {report.reason or report.code}"
    if report.verdict != "pass":
        return report.reason or report.code or report.verdict
    if row is None:
        return "not measured"
    if row.median_ns is None:
        return row.reason or "not measured"
    return None


def _rank(left: dict[str, BenchRow], compare: Compare, base: BenchRow | None) -> list[Choice]:
    """Again and again the fastest of those left, or the simplest of those that cannot be told from it."""
    everything, left, ranking = dict(left), dict(left), list[Choice]()
    while left:
        fastest = min(left, key=lambda name: (left[name].median_ns, name))
        equal = {name: compare(fastest, name) for name in left if name != fastest}
        group = [name for name, found in equal.items() if found.verdict == "indistinguishable"]
        taken = min((fastest, *group), key=simplicity)
        reason = _reduced(taken, everything, compare)
        if reason is None and taken != fastest:
            reason = (
                f"indistinguishable from {fastest} ({_ratio(equal[taken])}): the simpler and more exact one is taken"
            )
        if reason is None:
            reason = _speed(left[taken], None if base is None else compare(BASE_LINE, taken))
        unsteady = f"; {left[taken].reason}" if left[taken].verdict == "not_steady" else ""
        ranking.append(Choice(taken, reason + unsteady))
        del left[taken]
    return ranking


def simplicity(name: str) -> tuple[int, int, str]:
    """Sort key: exactness, then format, then name (which puts `dynamic`, without calibration, before `static`)."""
    form, precision = _traits(name)
    return PRECISIONS.index(precision), FORMATS.index(form) if form in FORMATS else len(FORMATS), name


def _traits(name: str) -> tuple[str, str]:
    """`onnx-int8-static` as (`onnx`, `int8`)."""
    words = name.split("-")
    found = next((index for index, word in enumerate(words) if word in PRECISIONS), len(words))
    return "-".join(words[:found]), words[found] if found < len(words) else PRECISIONS[0]


def _reduced(name: str, rows: Mapping[str, BenchRow], compare: Compare) -> str | None:
    """What to say of a variant that gave up exactness and gained no speed over its own origin; None otherwise."""
    origin, precision = _traits(name)
    if precision == PRECISIONS[0] or origin not in rows or origin == name:
        return None
    found = compare(origin, name)
    if found.verdict not in {"slower", "indistinguishable"}:
        return None
    what = "quantized" if precision.startswith("int") else "less precise"
    return f"{what} but not faster than {origin} ({_ratio(found)}): not recommended"


def _ratio(found: Comparison) -> str:
    limits = "" if found.ci is None else f" [{found.ci[0]:.2f}, {found.ci[1]:.2f}]"
    return "ratio unknown" if found.ratio is None else f"ratio {found.ratio:.2f}{limits}"


def _speed(row: BenchRow, against: Comparison | None) -> str:
    """`median 7.1 µs, 2.6× faster than eager`."""
    said = f"median {duration(row.median_ns or 0.0)}"
    if against is None or against.ratio is None:
        return said
    if against.verdict == "indistinguishable":
        return f"{said}, indistinguishable from {BASE_LINE}"
    return f"{said}, {times(max(against.ratio, 1 / against.ratio))} {against.verdict} than {BASE_LINE}"
