"""`deploykit bench`: measure what passed verify, next to eager, and recommend."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from deploykit.benchmark import summary
from deploykit.benchmark.measure import measure
from deploykit.bundle import Bundle
from deploykit.environment import fingerprint
from deploykit.errors import gravest
from deploykit.measurements import BenchReport, Recommendation
from deploykit.pipeline import profile, scenarios
from deploykit.pipeline.against import against
from deploykit.pipeline.identity import identity
from deploykit.pipeline.keeping import keep_table
from deploykit.pipeline.measuring import BenchRequest, Field, prepared
from deploykit.pipeline.recommending import recommend
from deploykit.pipeline.tune import tune
from deploykit.progress import Progress
from deploykit.publish import holding
from deploykit.recommend import traits
from deploykit.results import VerifyReport

__all__ = ["BenchRequest", "bench"]


def bench(request: BenchRequest, progress: Progress, verified: VerifyReport | None = None) -> BenchReport:
    """Measure and recommend; writes `reports/bench.json` and the raw readings beside it, where they can be written.

    Args:
        request: see BenchRequest.
        progress: is told of every launch.
        verified: the parity gate's answer for this bundle and provider from a moment ago; None asks it now.

    Raises:
        DeploykitError: the bundle cannot be used, a batch size does not fit its signature, or another run works on it.
    """
    scenarios.check(request)
    profile.check(request)
    if request.against:
        with holding(Bundle(request.bundle)):
            return against(request, progress, verified)
    if request.tune is not None:
        return tune(request, progress, verified)
    with holding(Bundle(request.bundle)), prepared(request, progress, verified) as field:
        if request.scenario.kind == "offline":
            return scenarios.offline(field, progress)
        if request.scenario.kind == "server":
            return scenarios.server(field, progress)
        return _table(field, progress)


def _table(field: Field, progress: Progress) -> BenchReport:
    """Every variant that passed, next to eager."""
    subjects = field.subjects.every(field.verdicts)
    protocol = field.request.protocol
    origins = {name: one.origin for name, one in traits.of(field.bundle.manifest.variants).items()}
    wanted = summary.deciding(subjects, field.subjects.batches[0], origins)
    enough = None if protocol.quick else summary.narrow(protocol, wanted)
    if field.templates is not None:
        field.templates.settle(subject.runtime for subject in subjects)
    measured = measure(subjects, protocol, field.open_worker, progress, field.subjects.judge, enough)
    raw = field.folder / "bench.safetensors"
    measured.save(raw)
    rows = summary.rows(subjects, measured)
    profiles = profile.profiles(field, subjects, rows, progress) if field.request.profile else []
    rows = profile.told_by_devices(field, subjects, rows, profiles, progress)
    environment = fingerprint()
    choice = recommend(field, measured, rows, environment)
    settings = field.subjects.settings
    said: dict[str, Any] = {"threads": settings.threads, "scope": "host_to_host", "eager": field.subjects.eager_note}
    said["torch-compile"] = field.subjects.compile_note
    said["whole"] = field.request.variants is None
    said |= {"model": identity(field.bundle.manifest), **({"tuned": field.tuned} if field.tuned else {})}
    said |= field.templates.said() if field.templates is not None else {}
    report = BenchReport(
        field.bundle.manifest.name,
        environment,
        {**asdict(protocol), **said, **summary.sampling(measured)},
        tuple(rows),
        tuple(summary.comparisons(subjects, measured)),
        choice,
        _exit_code(measured.missing, field.verified, choice),
        profiles=tuple(profiles),
    )
    return keep_table(field.bundle, report, raw)


def _exit_code(missing: Any, verified: VerifyReport, choice: Recommendation) -> int:
    """A subject that could not be measured is work not done; a gate that said no before keeps its say.

    Constraints that nothing satisfies are a gate too.
    """
    missing = [entry for entry in missing if entry.code != "DEVICE_GRAPH"]  # not every model can be recorded as one
    return gravest([verified.exit_code, *(entry.exit_code for entry in missing), int(not choice.satisfied)])
