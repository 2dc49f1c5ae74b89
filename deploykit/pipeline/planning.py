"""`--plan`: what an export or a run would do, without loading the model and without writing anything."""

from __future__ import annotations

from dataclasses import replace

from deploykit import plan, plugin_options
from deploykit.finished import SOURCES
from deploykit.isolation import Worker
from deploykit.pipeline import train
from deploykit.pipeline.bench import BenchRequest
from deploykit.pipeline.export import RECORDED, ExportRequest, installed, options_for
from deploykit.pipeline.handoff import HandoffRequest
from deploykit.pipeline.reuse import Shelf
from deploykit.pipeline.run import Further
from deploykit.plan import PlannedVariant
from deploykit.plan_results import PlannedStep, PlanReport, Reuse
from deploykit.publish import check_target

STEP_SECONDS = 120.0
"""Wall time for a plugin to say whether it can work here."""


def plan_export(request: ExportRequest) -> PlanReport:
    """The variants in the order in which they would be made, and what is known of each.

    Raises:
        UsageError: an unknown variant or option, or the place is taken.
    """
    planned = plan.select(request.variants)
    plugin_options.check(request.options)
    check_target(request.target, force=request.force)
    shelf = Shelf.at(request.target, reuse=request.reuse)
    spec, release = request.source, request.release
    with Worker() as worker:
        steps = tuple(_step(request, variant, shelf, worker) for variant in planned)
        missing = None if spec.kind == "live" else _unavailable(worker, "sources", spec.kind)
    return PlanReport(
        f"{spec.kind}:{spec.target}" if spec.target else spec.kind,
        spec.seed,
        str(request.target),
        replaces=request.target.exists(),
        variants=steps,
        inputs=spec.inputs,
        checkpoint=spec.checkpoint,
        samples=str(request.samples) if request.samples is not None else None,
        training=_training(request.training) if spec.kind == "mlp" and spec.checkpoint is None else None,
        release=release.label if release is not None else None,
        source_unavailable=missing,
    )


def plan_run(request: ExportRequest, table: BenchRequest, further: Further | None) -> PlanReport:
    """The same, with what comes after the export.

    Raises:
        UsageError: see `plan_export`.
    """
    further = further or Further()
    limits = further.verify.limits if further.verify is not None else {}
    measured = (*further.before, table, *further.after)
    constraints = tuple(f"{words}, goal {table.wish.goal}" for words in table.wish.constraints.words)
    baseline = (f"no value worse than in {further.baseline}",) if further.baseline is not None else ()
    speed = tuple(f"not slower than {one.against}" for one in further.after if one.against)
    return replace(
        plan_export(request),
        budget=tuple(f"{name} = {value:g}" for name, value in limits.items()),
        measured=tuple(map(_measured, measured)),
        gates=("parity with eager", *baseline, *constraints, *speed),
        handoffs=tuple(map(_handed, further.handoffs)),
    )


def _step(request: ExportRequest, variant: PlannedVariant, shelf: Shelf, worker: Worker) -> PlannedStep:
    options = plugin_options.effective(variant, options_for(request, variant))
    base = plan.known()[variant.base] if variant.base else None
    reason = _unavailable(worker, variant.kind, variant.plugin)
    if reason is None and base is not None and (why := _unavailable(worker, base.kind, base.plugin)) is not None:
        reason = f"its base {base.name} cannot be made: {why}"
    surely = _surely_made(request, variant, shelf, options)
    reuse: Reuse = "made" if surely else "decided when the model is loaded"
    return PlannedStep(variant.name, variant.plugin, variant.base, options, reuse, surely, reason)


def _surely_made(request: ExportRequest, variant: PlannedVariant, shelf: Shelf, options: dict[str, object]) -> str:
    """Why the variant that is there cannot be taken, as far as it can be told; empty where the model has to decide."""
    if shelf.bundle is None:
        return shelf.why
    manifest = shelf.bundle.manifest
    record = next((one for one in manifest.variants if one.name == variant.name), None)
    if record is None or record.file is None or not record.key:
        return "the bundle there has none" if record is None or record.file is None else "it has no key"
    if manifest.versions != {name: found for name in RECORDED if (found := installed(name))}:
        return "other package versions made the one that is there"
    if request.source.kind in SOURCES and variant.kind == "exporters":
        return ""  # the file as it is: no option of an exporter has a say
    made_with = {name: list(value) if isinstance(value, tuple) else value for name, value in record.options.items()}
    ignored = {"keep_float"} if request.keep_float.auto else set()
    differing = [name for name, value in options.items() if name not in ignored and made_with.get(name) != value]
    return f"the one that is there has another {differing[0]}" if differing else ""


def _unavailable(worker: Worker, kind: str, name: str) -> str | None:
    reason: str | None = worker.call("facts:unavailable", kind=kind, name=name, timeout_s=STEP_SECONDS)
    return reason


def _training(request: train.TrainRequest) -> str:
    epochs = f"{request.epochs} epochs" if request.epochs is not None else "its usual epochs"
    lr = f" lr {request.lr:g}" if request.lr is not None else ""
    return f"{request.data}: {request.optimizer}{lr}, {epochs}"


def _measured(request: BenchRequest) -> str:
    batches = ", ".join(map(str, request.batches))
    threads = f"{request.threads} threads" if request.threads is not None else "all usable cores"
    where = f"batch {batches}, {threads}, {request.provider}"
    if request.tune is not None:
        return f"settings for {request.tune}: {where}"
    if request.against:
        return f"speed gate against {request.against}: {where}"
    if request.scenario.kind != "single-stream":
        return f"scenario {request.scenario.kind}: {where}"
    beside = [word for word, asked in (("torch.compile", request.compiled), ("profiles", request.profile)) if asked]
    form = "three short launches" if request.quick else "ten launches"
    return f"table: {where}, {form}{''.join(f', {word}' for word in beside)}"


def _handed(request: HandoffRequest) -> str:
    release = f" for {request.release.label}" if request.release is not None else ""
    return f"{request.target}{release}: {request.variant or 'the recommended variant'} to {request.output}"
