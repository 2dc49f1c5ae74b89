"""`deploykit bench`: measure what passed verify, next to eager, and recommend."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from deploykit.benchmark import summary
from deploykit.benchmark.measure import measure
from deploykit.environment import fingerprint
from deploykit.errors import gravest
from deploykit.measurements import BenchReport
from deploykit.pipeline.measuring import BenchRequest, Field, prepared
from deploykit.progress import Progress
from deploykit.recommend.choose import choose
from deploykit.results import VerifyReport, to_json

__all__ = ["BenchRequest", "bench"]


def bench(request: BenchRequest, progress: Progress, verified: VerifyReport | None = None) -> BenchReport:
    """Measure and recommend; writes `reports/bench.json` and the raw readings beside it.

    Args:
        request: see BenchRequest.
        progress: is told of every launch.
        verified: the parity gate's answer for this bundle and provider from a moment ago; None asks it now.

    Raises:
        DeploykitError: the bundle cannot be used, or a batch size does not fit its signature.
    """
    with prepared(request, progress, verified) as field:
        return _table(field, progress)


def _table(field: Field, progress: Progress) -> BenchReport:
    """Every variant that passed, next to eager."""
    subjects = field.subjects.every(field.verdicts)
    protocol = field.request.protocol
    measured = measure(subjects, protocol, field.open_worker, progress, field.subjects.judge)
    raw = field.folder / "bench.safetensors"
    measured.save(raw)
    rows = summary.rows(subjects, measured)
    deciding = field.subjects.batches[0]
    records = field.bundle.manifest.variants
    choice = choose(
        rows,
        lambda base, candidate: summary.compare(measured, base, candidate, deciding),
        field.verdicts,
        {record.name: record.reason for record in records if record.name in field.verdicts and record.file is None},
        deciding,
    )
    settings = field.subjects.settings
    said = {"threads": settings.threads, "scope": "host_to_host", "eager": field.subjects.eager_note}
    report = BenchReport(
        field.bundle.manifest.name,
        fingerprint(),
        {**asdict(protocol), **said},
        tuple(rows),
        tuple(summary.comparisons(subjects, measured)),
        choice,
        _exit_code(measured.missing, field.verified),
    )
    field.bundle.write_report("bench.json", to_json(report))
    field.bundle.write_report_file("bench.safetensors", raw)
    return report


def _exit_code(missing: Any, verified: VerifyReport) -> int:
    """A subject that could not be measured is work not done; a gate that said no before keeps its say."""
    return gravest([verified.exit_code, *(entry.exit_code for entry in missing)])
