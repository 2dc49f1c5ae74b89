"""`deploykit run`: everything, one command."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from deploykit.bundle import Bundle
from deploykit.errors import gravest
from deploykit.measurements import BenchReport, RunReport
from deploykit.model import SourceSpec
from deploykit.pipeline.bench import BenchRequest, bench
from deploykit.pipeline.export import ExportRequest, export
from deploykit.pipeline.verify import VerifyRequest, verify
from deploykit.progress import Progress
from deploykit.report import html, junit
from deploykit.results import VariantReport, VerifyReport, to_json


def run(request: ExportRequest, bench_request: BenchRequest, progress: Progress) -> RunReport:
    """Train or load, export, verify, measure, recommend; every report is written into the bundle.

    The code just loaded is the user's own, so what was made from it is trusted.

    Raises:
        DeploykitError: nothing could be exported, or the bundle cannot be written.
    """
    seconds: dict[str, float] = {}
    clock = time.monotonic()
    exported = export(request, progress)
    seconds["export"] = time.monotonic() - clock
    clock = time.monotonic()
    wanted = VerifyRequest(request.target, provider=bench_request.provider, trust_code=True, self_check=True)
    verified = verify(wanted, progress)
    store_verify(exported.bundle, verified)
    seconds["verify"] = time.monotonic() - clock
    clock = time.monotonic()
    measured = bench(replace(bench_request, source=_source(request), trust_code=True), progress, verified)
    seconds["bench"] = time.monotonic() - clock
    store_page(exported.bundle, verified, measured)
    code = gravest([exported.exit_code, verified.exit_code, measured.exit_code])
    variants = {record.name: record.reason or record.status for record in exported.bundle.manifest.variants}
    return RunReport(str(request.target), code, exported.training, variants, verified, measured, seconds)


def _source(request: ExportRequest) -> SourceSpec | None:
    """What builds eager; the seed model is built from the bundle, whose weights were trained a moment ago."""
    return request.source if request.source.kind != "mlp" else None


def store_verify(bundle: Bundle, report: VerifyReport) -> None:
    """Write `verify.json` and `junit.xml` into the bundle's reports, without paths of this machine."""
    report = replace(report, variants=tuple(_portable(bundle, variant) for variant in report.variants))
    bundle.write_report("verify.json", to_json(report))
    bundle.write_report("junit.xml", junit.render_verify(report))


def _portable(bundle: Bundle, variant: VariantReport) -> VariantReport:
    """The report with its reproducer named from the bundle on; elsewhere only the folder's own name is kept."""
    if variant.location is None or variant.location.reproducer is None:
        return variant
    folder = Path(variant.location.reproducer)
    inside = folder.is_relative_to(bundle.path)
    kept = folder.relative_to(bundle.path).as_posix() if inside else folder.name
    return replace(variant, location=replace(variant.location, reproducer=kept))


def store_page(bundle: Bundle, verified: VerifyReport | None, measured: BenchReport | None) -> None:
    """Write `report.html`."""
    bundle.write_report("report.html", html.render(bundle.manifest.name, verified, measured))
