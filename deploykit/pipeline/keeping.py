"""Where the reports of a benchmark go: into the bundle, unless that takes none or holds a table that says more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from deploykit.bundle import REPORTS, Bundle
from deploykit.measurements import BenchReport
from deploykit.results import to_json

TABLE = "bench"
"""Stem of the table's files among the reports."""

LESSER = ("bench-quick", "bench-part")
"""Stems of what does not replace a full table of the whole bundle: a quick one, and one of some variants."""


def keep(bundle: Bundle, stem: str, report: BenchReport, raw: Path) -> BenchReport:
    """Write `reports/STEM.json` and the readings `raw` beside it, where the bundle takes reports.

    Returns:
        The report with `stored_as` in its protocol: the name of its file, None where it was not stored.

    Raises:
        StorageError: the files cannot be written.
    """
    name = f"{stem}.json" if bundle.takes_reports else None
    report = replace(report, protocol={**report.protocol, "stored_as": name})
    if name is not None:
        bundle.write_report(name, to_json(report))
        bundle.write_report_file(f"{stem}.safetensors", raw)
    return report


def keep_table(bundle: Bundle, report: BenchReport, raw: Path) -> BenchReport:
    """`keep` for the table, which replaces no table that says more, and leaves nothing beside it that is older.

    Raises:
        StorageError: the files cannot be written.
    """
    full = _is_full(report.protocol)
    stem = TABLE
    if not full and _is_full(_stored(bundle)):
        stem = LESSER[0] if report.protocol["quick"] else LESSER[1]
    report = keep(bundle, stem, report, raw)
    if stem == TABLE and bundle.takes_reports:
        bundle.drop_reports("profile-*.json", {PurePosixPath(one.trace).name for one in report.profiles})
        for lesser in LESSER if full else ():
            bundle.drop_reports(f"{lesser}.*")
    return report


def _is_full(protocol: dict[str, Any]) -> bool:
    """All variants were asked for, and all launches."""
    return protocol.get("quick") is False and protocol.get("whole") is True


def _stored(bundle: Bundle) -> dict[str, Any]:
    """The protocol of the table that is there; empty where there is none, or nothing that can be read."""
    try:
        found = json.loads((bundle.path / REPORTS / f"{TABLE}.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    protocol = found.get("protocol") if isinstance(found, dict) else None
    return protocol if isinstance(protocol, dict) else {}
