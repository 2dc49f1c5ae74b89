"""`deploykit run`: everything, one command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from deploykit.bundle import Bundle
from deploykit.errors import DeploykitError, StorageError, gravest
from deploykit.measurements import BenchReport, RunReport
from deploykit.model import SourceSpec
from deploykit.pipeline.baseline import prepare
from deploykit.pipeline.bench import BenchRequest, bench
from deploykit.pipeline.export import ExportRequest, export
from deploykit.pipeline.handoff import HandoffRequest, handoff
from deploykit.pipeline.verify import VerifyRequest, verify
from deploykit.progress import Progress
from deploykit.report import html, junit
from deploykit.results import EXIT_OF, HandoffReport, VariantReport, VerifyReport, to_json


@dataclass(frozen=True)
class Further:
    """What a recipe asks of a run beside the plain one.

    Attributes:
        verify: how the gate judges; its bundle and provider are the run's. None is the gate with its self-check.
        baseline: what the gate's values are compared with, too.
        open_is_fine: an inconclusive parity gate does not count.
        before: measured before the table, which opens sessions with what is found.
        after: measured after the table: a load, the speed gate.
        handoffs: folders to write when the gates said yes.
    """

    verify: VerifyRequest | None = None
    baseline: Path | None = None
    open_is_fine: bool = False
    before: tuple[BenchRequest, ...] = ()
    after: tuple[BenchRequest, ...] = ()
    handoffs: tuple[HandoffRequest, ...] = ()


def run(
    request: ExportRequest, bench_request: BenchRequest, progress: Progress, further: Further | None = None
) -> RunReport:
    """Train or load, export, verify, measure, recommend; every report is written into the bundle.

    The code just loaded is the user's own, so what was made from it is trusted.

    Raises:
        DeploykitError: nothing could be exported, or the bundle cannot be written.
    """
    further = further or Further()
    seconds: dict[str, float] = {}
    with _timed(seconds, "export"):
        exported = export(request, progress)
    with _timed(seconds, "verify"):
        verified = _verified(exported.bundle, bench_request.provider, further, progress)
    bench_request = replace(bench_request, source=_source(request), trust_code=True)
    with _timed(seconds, "bench"):
        more = [bench(_alike(one, bench_request), progress, verified) for one in further.before]
        measured = bench(bench_request, progress, verified)
        more += [bench(_alike(one, bench_request), progress, verified) for one in further.after]
    store_page(_unchanged(exported.bundle), verified, measured)
    codes = [exported.exit_code, *_codes(verified, [measured, *more], further)]
    handed: list[HandoffReport] = []
    left: dict[str, str] = {}
    if further.handoffs:
        with _timed(seconds, "handoff"):
            codes += _hand_over(
                further.handoffs, [measured, *more], verified, handed, left, progress, open_is_fine=further.open_is_fine
            )
    variants = {record.name: record.reason or record.status for record in exported.bundle.manifest.variants}
    return RunReport(
        str(request.target), gravest(codes), exported.training, variants, verified, measured, seconds,
        more=tuple(more), handoffs=tuple(handed), not_handed=left,
    )  # fmt: skip


def _unchanged(bundle: Bundle) -> Bundle:
    """The bundle, where no other run has put its own in its place: a verdict belongs to the files it was found for.

    Raises:
        StorageError: CHANGED.
    """
    if Bundle(bundle.path).manifest.files != bundle.manifest.files:
        hint = "give each run an output of its own"
        raise StorageError(str(bundle.path), "was replaced by another run meanwhile", hint, "CHANGED")
    return bundle


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    clock = time.monotonic()
    yield
    seconds[name] = time.monotonic() - clock


def _verified(bundle: Bundle, provider: str, further: Further, progress: Progress) -> VerifyReport:
    """The gate's answer, kept with the bundle, and compared with the baseline where there is one."""
    wanted = further.verify or VerifyRequest(bundle.path, self_check=True)
    wanted = replace(wanted, bundle=bundle.path, provider=provider, trust_code=True)
    compare = prepare(wanted, further.baseline, update=False) if further.baseline is not None else None
    report = verify(wanted, progress)
    if wanted.is_whole:  # what other limits let pass is nobody else's pass
        store_verify(_unchanged(bundle), report)
    return report if compare is None else compare(report)


def _codes(verified: VerifyReport, measured: list[BenchReport], further: Further) -> list[int]:
    """Of the gates; without one of its own a benchmark repeats what verify said."""
    own = [one.exit_code for one in measured if one.gates]
    said = [verified.exit_code, *(one.exit_code for one in measured if not one.gates)]
    return own + [0 if code == 3 and further.open_is_fine else code for code in said]


def _alike(request: BenchRequest, table: BenchRequest) -> BenchRequest:
    return replace(request, source=table.source, trust_code=table.trust_code)


def _hand_over(
    requests: tuple[HandoffRequest, ...],
    measured: list[BenchReport],
    verified: VerifyReport,
    handed: list[HandoffReport],
    left: dict[str, str],
    progress: Progress,
    *,
    open_is_fine: bool,
) -> list[int]:
    """Write the folders whose gates said yes, into `handed`; those that are not written go to `left`, each with why.

    Returns:
        The exit codes of what failed. A gate that said no has its own already.
    """
    codes = []
    verdicts = {report.name: report for report in verified.variants}
    for request in requests:
        name = f"{request.target} {request.output}"
        own = verdicts.get(request.variant or "")
        if reason := _objection(verified, measured, open_is_fine=open_is_fine):
            left[name] = reason
        elif own is not None and own.verdict != "pass" and not request.allow_unverified:
            left[name] = f"verify says {own.verdict} of {own.name}: {own.code or own.reason}"
        else:
            try:
                handed.append(handoff(request, progress))
            except DeploykitError as error:
                left[name] = f"{error.code}: {error.subject}: {error.message}"
                codes.append(error.exit_code)
    return codes


def _objection(verified: VerifyReport, measured: list[BenchReport], *, open_is_fine: bool) -> str:
    """What speaks against handing anything over; empty where nothing does."""
    fine = {0, 3} if open_is_fine else {0}
    if verified.baseline is not None and verified.baseline.exit_code not in fine:
        return f"the baseline says {verified.baseline.verdict}: {verified.baseline.reason}"
    for check in verified.self_check or ():
        if EXIT_OF[check.verdict] not in fine:
            return f"the self-check of {check.variant} says {check.verdict}: {check.reason}"
    for report in measured:
        if report.recommendation is not None and not report.recommendation.satisfied:
            return "no variant satisfies the constraints"
        if bad := [gate for gate in report.gates if gate.exit_code]:
            return f"the speed gate says {bad[0].verdict} of {bad[0].candidate}: {bad[0].reason}"
    return ""


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
