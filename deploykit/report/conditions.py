"""Under which conditions a report came about and where it lies, as lines under its table."""

from __future__ import annotations

from deploykit.measurements import BenchReport, BenchRow, Load, Sweep
from deploykit.report import tuned

LESSER = {"bench-quick.json": "a quick one", "bench-part.json": "one of some variants"}
"""Files of the tables that replace no full one, and what they hold."""


def lines(report: BenchReport) -> list[str]:
    """How sessions were opened where that is not the default, then where the report is when it is not `bench.json`."""
    return [*_opened(report), *tuned.notes(report), *_stored(report)]


def _opened(report: BenchReport) -> list[str]:
    """`opened with threads=1,spinning=off (onnx, torchscript)`; all usable cores alone need no line."""
    cores = report.environment.get("cores")
    usable = f"threads={cores.get('usable')}" if isinstance(cores, dict) else ""
    known = report.protocol.get("tuned", {})
    found: dict[str, list[str]] = {}
    measured: list[BenchRow | Sweep | Load] = [*report.variants, *report.sweeps, *report.loads]
    for row in measured:
        words = ",".join(word for word in row.settings.split(",") if word != usable)
        if words and row.verdict != "not_measured" and not known.get(row.name, "").startswith(f"{words}, "):
            found.setdefault(row.settings, []).append(row.name)
    return [f"opened with {words} ({', '.join(dict.fromkeys(names))})" for words, names in found.items()]


def _stored(report: BenchReport) -> list[str]:
    if later := report.protocol.get("later"):
        return [f"this is reports/{report.protocol['shown']}; later ones are not shown: {', '.join(later)}"]
    if "stored_as" not in report.protocol:
        return []
    name = report.protocol["stored_as"]
    if name is None:
        return ["nothing was stored: the bundle cannot be written"]
    if name in LESSER:
        what = f"bench.json holds a full table of all variants, which {LESSER[name]} does not replace"
        return [f"stored as reports/{name}: {what}"]
    return []
