"""A benchmark of earlier as the base: shown beside a fresh one, and never a verdict.

Another session has other neighbours, another heat and another memory layout; a difference from it may be any of
these. So the answer is INCONCLUSIVE whatever the numbers are, and numbers of another machine are not shown at all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deploykit.benchmark import summary
from deploykit.benchmark.measure import measure
from deploykit.benchmark.plan import Subject
from deploykit.benchmark.series import Measured
from deploykit.bundle import Manifest
from deploykit.environment import fingerprint
from deploykit.errors import RefusedError, UsageError, from_os_error
from deploykit.measurements import GATE_EXITS, BenchReport, BenchRow, GateMetric, GateReport
from deploykit.pipeline.identity import identity
from deploykit.pipeline.measuring import Field
from deploykit.progress import Progress
from deploykit.results import SCHEMA, from_data

MACHINE = ("cpu", "cpu_flags", "cores", "machine", "memory_bytes", "hypervisor", "gpu")
"""What of a fingerprint names a machine; all of it must be the same."""

AROUND = ("python", "kernel", "libc", "governor", "transparent_hugepages", "variables")
"""What of a fingerprint may differ, and is listed then; so are the packages."""


@dataclass(frozen=True)
class Stored:
    """A report of this machine, and in what its surroundings differ from now."""

    name: str
    report: BenchReport
    differs: tuple[str, ...]

    @classmethod
    def load(cls, path: Path) -> Stored:
        """Read `bench.json`.

        Raises:
            RefusedError: MALFORMED, or OTHER_MACHINE.
            UsageError: there is no such file, or NOTHING_TO_MEASURE: it holds no table.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            report: BenchReport = from_data(BenchReport, data)
        except OSError as error:
            raise from_os_error(error, path.name) from error
        except (ValueError, ValidationError, RecursionError) as error:
            raise RefusedError(path.name, "no report of deploykit bench", "give reports/bench.json") from error
        if report.schema != SCHEMA:
            hint = "use the deploykit that wrote it"
            raise RefusedError(path.name, f"schema {report.schema} is unknown", hint, "UNKNOWN_SCHEMA")
        if all(row.median_ns is None for row in report.variants):
            message, hint = "it holds no table to compare with", "give the reports/bench.json of a plain bench"
            raise UsageError(path.name, message, hint, "NOTHING_TO_MEASURE")
        now = fingerprint()
        other = [name for name in MACHINE if report.environment.get(name) != now[name]]
        if other:
            hint = "measure both here: give the other bundle's folder instead"
            raise RefusedError(path.name, f"measured on another machine ({', '.join(other)})", hint, "OTHER_MACHINE")
        return cls(path.name, report, tuple(_differing(report.environment, now)))

    def check(self, manifest: Manifest) -> tuple[str, ...]:
        """What has to be known about the model that was measured then; empty where it is this one.

        Raises:
            UsageError: NOT_COMPARABLE, its signature is another.
        """
        then, now = self.report.protocol.get("model"), identity(manifest)
        if not isinstance(then, dict):
            return ("the report does not tell which model it measured",)
        other = [side for side in ("inputs", "outputs") if then.get(side) != now[side]]
        if other:
            message = f"it measured another model: the {' and '.join(other)} differ"
            raise UsageError(self.name, message, "give a report of this model", "NOT_COMPARABLE")
        return () if then.get("digest") == now["digest"] else ("the model had other weights then",)

    def row(self, name: str, batch: int) -> BenchRow | None:
        """What was measured then, None where nothing was."""
        fitting = (row for row in self.report.variants if (row.name, row.batch) == (name, batch))
        return next((row for row in fitting if row.median_ns is not None), None)


def _differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`torch 2.14.0 → 2.15.0`, for packages and what else is around."""
    changed = [name for name in AROUND if before.get(name) != now[name]]
    lines = [f"{name} {_text(before.get(name))} → {_text(now[name])}" for name in changed]
    there = before.get("packages")
    packages: dict[str, Any] = there if isinstance(there, dict) else {}
    for name, version in now["packages"].items():
        if packages.get(name) != version:
            lines.append(f"{name} {_text(packages.get(name))} → {_text(version)}")
    return lines


def _text(value: Any) -> str:
    return "none" if value is None else str(value)


def informational(
    field: Field, stored: Stored, progress: Progress
) -> tuple[list[Subject], Measured, tuple[GateReport, ...]]:
    """Measure what passed and was measured then as well, and put the two side by side.

    Raises:
        UsageError: NOTHING_TO_MEASURE, there is nothing in common.
    """
    batches = field.subjects.batches
    records = [
        record
        for record in field.subjects.passed(field.verdicts)
        if any(stored.row(record.name, batch) for batch in batches)
    ]
    if not records:
        message, hint = "no variant that it measured passes verify here", "deploykit verify says what passes"
        raise UsageError(stored.name, message, hint, "NOTHING_TO_MEASURE")
    subjects = [field.subjects.subject(record) for record in records]
    measured = measure(subjects, field.request.protocol, field.open_worker, progress, field.subjects.judge)
    rows = summary.rows(subjects, measured)
    pairs = [(row, then) for row in rows if (then := stored.row(row.name, row.batch)) is not None]
    about = stored.check(field.bundle.manifest)
    return subjects, measured, tuple(_beside(row, then, stored, about) for row, then in pairs)


def _beside(now: BenchRow, then: BenchRow, stored: Stored, about: tuple[str, ...]) -> GateReport:
    base = f"{stored.name}/{then.name}"
    if now.median_ns is None or then.median_ns is None:
        return _report(base, now, "invalid", now.reason)
    if (now.provider, now.threads) != (then.provider, then.threads):
        found = f"{then.provider} with {then.threads} threads then, {now.provider} with {now.threads} now"
        return _report(base, now, "invalid", found)
    if then.settings and now.settings != then.settings:  # empty: a report from before this was recorded
        return _report(base, now, "invalid", f"opened with {then.settings} then, with {now.settings} now")
    ratio = now.median_ns / then.median_ns
    changed = f"{100 * (ratio - 1):+.1f} %"
    metric = GateMetric(
        "median", "inconclusive", f"{changed}: unpaired", ratio, base=then.median_ns, candidate=now.median_ns
    )
    said = (*about, *([f"differs from then: {', '.join(stored.differs)}"] if stored.differs else []))
    reason = f"median {changed}: unpaired, informational; give the other bundle to have a verdict"
    return _report(base, now, "inconclusive", reason, metric, said)


def _report(
    base: str,
    now: BenchRow,
    verdict: Any,
    reason: str,
    metric: GateMetric | None = None,
    said: tuple[str, ...] = (),
) -> GateReport:
    metrics = (metric,) if metric else ()
    code = GATE_EXITS[verdict]
    return GateReport(
        base, now.name, now.batch, verdict, code, reason, metrics, launches=now.launches, paired=False, said=said
    )  # fmt: skip
