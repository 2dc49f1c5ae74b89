"""What every form of a report says of a baseline, as lines."""

from __future__ import annotations

from deploykit.errors import escape
from deploykit.report import rows
from deploykit.results import BaselineReport, Drift, VerifyReport

MOST = 12
"""Lines of one verdict that are spelled out; the JSON has all."""

_WORD = {"fail": "worse", "inconclusive": "open", "warn": "warning", "pass": "better"}


def lines(report: VerifyReport) -> list[str]:
    """A heading line, what is worse, what changed around it; nothing when there is no baseline."""
    found = report.baseline
    if found is None:
        return []
    told = [escape(f"baseline: {_headline(found)}")]
    for verdict in ("fail", "inconclusive", "warn", "pass"):
        of_it = [drift for drift in found.drifts if drift.verdict == verdict]
        told += [f"baseline {_WORD[verdict]}: {sentence(drift)}" for drift in of_it[:MOST]]
        if len(of_it) > MOST:
            told.append(f"baseline {_WORD[verdict]}: and {len(of_it) - MOST} more, see the JSON")
    if found.changed_packages:
        told.append(escape(f"changed since the baseline: {', '.join(found.changed_packages)}"))
    return told


def sentence(drift: Drift) -> str:
    """`onnx real R 1.2 → 3.9: worse by more than its noise`."""
    where = " ".join(part for part in (drift.variant or "eager", drift.check, drift.output) if part)
    values = ""
    if drift.before is not None or drift.after is not None:
        values = f" {rows.number(drift.before)} → {rows.number(drift.after)}"
    metric = f" {drift.metric}" if drift.metric not in {"", "eager", "inputs"} else ""
    return escape(f"{where}{metric}{values}: {drift.reason}")


def _headline(found: BaselineReport) -> str:
    return f"{found.verdict.upper()}, {found.code}: {found.reason}" if found.code else found.reason
