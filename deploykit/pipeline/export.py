"""`deploykit export`: capture the reference, make every variant, open each in a fresh process, publish."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from deploykit import plan, plugin_options, registry, units
from deploykit.bundle import WEIGHTS, Bundle, Manifest, ReferenceRecord, SourceRecord, VariantRecord
from deploykit.diagnosis import remedy
from deploykit.errors import DeploykitError, WorkError
from deploykit.finished import NOT_HERE, asked_opset
from deploykit.inputs import Samples
from deploykit.isolation import Caller, Limits, Pool
from deploykit.lines import LINES
from deploykit.model import SourceSpec
from deploykit.pipeline import capturing, fitting, train
from deploykit.pipeline.keep_float import Search, Staged, Wanted
from deploykit.pipeline.reuse import Ingredients, Shelf
from deploykit.plan import PlannedVariant
from deploykit.preprocessing import Preprocessing
from deploykit.progress import Progress
from deploykit.publish import check_target, publish, staging
from deploykit.releases import Release
from deploykit.results import from_data
from deploykit.session import SessionSettings
from deploykit.signature import Signature
from deploykit.sources import mlp

RECORDED = ("torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "numpy")
"""Packages whose versions go into the manifest."""


@dataclass(frozen=True)
class ExportRequest:
    """What to export, from what, to where.

    Attributes:
        source: what the user named; its kind is `live` for a module of the calling program.
        variants: `core`, `all` or a comma-separated list.
        samples: `.npz` with real inputs, or None.
        training: how the seed model is trained when no checkpoint is named, and which data its samples come from.
        options: plugin options by variant name.
        keep_float: nodes that variants in reduced precision leave in float, or that they are to be looked for.
        release: what has to load the ONNX variants; None asks for nothing older than what the exporter writes.
        reuse: variants of the bundle at `target` that were made from the same things are copied, not made again.
    """

    source: SourceSpec
    target: Path
    variants: str = "core"
    samples: Path | None = None
    force: bool = False
    training: train.TrainRequest = field(default_factory=train.TrainRequest)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    keep_float: Wanted = field(default_factory=Wanted)
    release: Release | None = None
    reuse: bool = True


@dataclass(frozen=True)
class ExportOutcome:
    """The published bundle, and the training record if the model was trained on the spot."""

    bundle: Bundle
    training: dict[str, Any] | None

    @property
    def exit_code(self) -> int:
        """4 when a variant that could have been made was not, else 0."""
        return 4 if any(record.status == "failed" for record in self.bundle.manifest.variants) else 0


def export(request: ExportRequest, progress: Progress, live: Caller | None = None) -> ExportOutcome:
    """Make the bundle; a variant that cannot be made is recorded with its reason and the others go on.

    Args:
        request: see ExportRequest.
        progress: is told of every step.
        live: runs the steps that need the module; None starts a child, which loads it.

    Raises:
        DeploykitError: the model cannot be loaded, its reference is invalid, or the bundle cannot be written.
    """
    planned = plan.select(request.variants)
    plugin_options.check(request.options)
    check_target(request.target, force=request.force)
    with _scratch() as scratch, staging(request.target, force=request.force) as stage:
        progress.stage("export", len(planned) + 2)
        source, samples, training = _prepared(request, scratch, progress)
        with Pool(generous()) as torch_pool:
            workers = partial(_worker, live, torch_pool)
            loaded = source if live is None else None
            captured = capturing.capture(workers, loaded, samples, stage, scratch, source.seed, progress)
            code = workers().call("imported:imported")
            made_of = Ingredients(request.source, captured, code, stage, request.release, request.keep_float)
            keys = made_of.keys(planned, {variant.name: options_for(request, variant) for variant in planned})
            shelf = Shelf.at(request.target, reuse=request.reuse).settled(planned, keys, stage)
            workshop = _Workshop(request, source, captured, stage, torch_pool, live, progress, shelf, keys)
            records = workshop.make(planned)
        manifest = _manifest(request, captured, training, records)
        bundle = publish(stage, manifest, request.target)
        progress.step(f"published {request.target}")
    return ExportOutcome(bundle, training)


def _worker(live: Caller | None, pool: Pool) -> Caller:
    """Whoever has the module: this process, or the child, another one after a crash."""
    return live or pool.worker("torch")


def options_for(request: ExportRequest, variant: PlannedVariant) -> dict[str, Any]:
    """The plugin options asked for; nodes to keep in float go to every plugin that can keep them."""
    given = request.options.get(variant.name, {})
    nodes = request.keep_float.nodes
    plugin = registry.load(variant.kind, variant.plugin)
    able = variant.kind == "transforms" and hasattr(plugin, "keep_float")
    if request.release is not None and variant.kind == "exporters" and hasattr(plugin, "opset"):
        given = {"opset": asked_opset(request.source.kind, plugin.opset, request.release.opset), **given}
    return {"keep_float": nodes, **given} if nodes and able else dict(given)


def _prepared(
    request: ExportRequest, scratch: Path, progress: Progress
) -> tuple[SourceSpec, Path | None, dict[str, Any] | None]:
    """The source with a checkpoint, and samples: the seed model is trained here if it comes without."""
    source, samples = request.source, request.samples
    if samples is not None:
        Samples.load(samples)  # a minute of training must not come before a typo
    if source.kind != "mlp":
        return source, samples, None
    mlp.Source().check(source)
    own = None if samples else scratch / "samples.npz"
    if source.checkpoint is None:
        checkpoint = scratch / "mlp.safetensors"
        record = train.train(request.training, checkpoint, own, progress)
        return replace(source, checkpoint=str(checkpoint)), samples or own, record
    if own is not None:
        train.held_out(request.training, own)
    return source, samples or own, None


@dataclass
class _Workshop:
    """Makes variants one after another and opens each in a process that did not make it."""

    request: ExportRequest
    source: SourceSpec
    captured: dict[str, Any]
    stage: Path
    torch_pool: Pool
    live: Caller | None
    progress: Progress
    shelf: Shelf
    keys: dict[str, str]

    def make(self, planned: list[PlannedVariant]) -> list[VariantRecord]:
        """A record per planned variant, ready or with the reason why not."""
        limits = Limits.for_model(self.captured["model_bytes"])
        records: dict[str, VariantRecord] = {}
        with Pool(limits) as pool:
            for variant in (v for v in planned if v.kind == "exporters"):
                records[variant.name] = self._one(variant, pool, records)
            self.torch_pool.retire("torch")
            for variant in (v for v in planned if v.kind == "transforms"):
                records[variant.name] = self._one(variant, pool, records)
        return [records[variant.name] for variant in planned]

    def _one(self, variant: PlannedVariant, pool: Pool, made: dict[str, VariantRecord]) -> VariantRecord:
        found = self.shelf.take(variant.name, self.keys[variant.name], self.stage, self.progress)
        if found is not None and found.file is not None:
            self.progress.step(f"{variant.name}: reused, {_size((self.stage / found.file).parent)}")
            return found
        record = VariantRecord(
            name=variant.name,
            status="ready",
            made_by=variant.plugin,
            precision=variant.precision,
            runtime=variant.runtime,
            file=f"variants/{variant.name}/{variant.file_name}",
            key=self.keys[variant.name],
        )
        target = self.stage / str(record.file)
        try:
            options = options_for(self.request, variant)
            make = partial(self._made, variant, pool, made)
            answer = make(options, target)
            record = VariantRecord.model_validate_json(json.dumps({**record.model_dump(), **answer}))
            self._open(record, target, pool)
            if self.request.keep_float.auto and "keep_float" in record.options and "keep_float" not in options:
                record = self._mended(record, target, pool, list(made.values()), make)
        except DeploykitError as error:
            if error.exit_code not in {4, 5}:
                raise
            shutil.rmtree(target.parent, ignore_errors=True)
            in_code = error.subject.rpartition(":")[0].endswith(".py")
            why = f"{error.subject}: {error.message}" if in_code else error.message
            self.progress.step(f"{variant.name}: not made, {why}")
            status = "unavailable" if error.code in NOT_HERE else "failed"
            reason = {"code": error.code, "reason": why, "status": status, "file": None, "key": ""}
            return record.model_copy(update=reason)
        self.progress.step(f"{variant.name}: {_size(target.parent)}")
        return record

    def _made(
        self,
        variant: PlannedVariant,
        pool: Pool,
        made: dict[str, VariantRecord],
        options: dict[str, Any],
        target: Path,
    ) -> dict[str, Any]:
        """Options and facts of the variant, its file as old as the release that has to load it wants it."""
        if variant.base:
            answer = self._transform(variant, pool, made, options, target)
        else:
            answer = self._export(variant, target, options)
        if self.request.release is None or variant.runtime != fitting.ENGINE:
            return answer
        facts = fitting.fit(pool.worker("transforms"), variant.name, target, self.request.release)
        return {**answer, "facts": {**answer["facts"], **facts}}

    def _export(self, variant: PlannedVariant, target: Path, options: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = _worker(self.live, self.torch_pool).call(
            "exporting:export",
            exporter=variant.plugin,
            target=str(target),
            source=None if self.live else asdict(self.source),
            weights=str(self.stage / WEIGHTS),
            signature=self.captured["signature"],
            options=options,
            lines=str(self.stage / LINES),
        )
        return answer

    def _mended(
        self, record: VariantRecord, target: Path, pool: Pool, made: list[VariantRecord], make: Callable[..., Any]
    ) -> VariantRecord:
        """The variant with as many nodes in float as its target takes, opened again."""
        from deploykit.pipeline.judging import Gate  # imports scipy, which export does without otherwise

        staged = Staged(self.stage, _manifest(self.request, self.captured, None, [*made, record]))
        search = Search(
            Gate(staged),
            lambda nodes, path: make({**self.request.options.get(record.name, {}), "keep_float": nodes}, path),
            pool,
            self.progress,
            self.request.keep_float.target_db,
        )
        found = search.improve(record, target)
        record = VariantRecord.model_validate_json(json.dumps({**record.model_dump(), **found}))
        self._open(record, target, pool)
        return record

    def _transform(
        self,
        variant: PlannedVariant,
        pool: Pool,
        made: dict[str, VariantRecord],
        options: dict[str, Any],
        target: Path,
    ) -> dict[str, Any]:
        base = made[variant.base or ""]
        if base.file is None:
            why = f"its base {base.name} was not made: {base.reason}"
            raise WorkError(variant.name, why, "see there", base.code)
        answer: dict[str, Any] = pool.worker("transforms").call(
            "transforming:transform",
            name=variant.plugin,
            artifact=str(self.stage / base.file),
            target=str(target),
            calibration=self.captured["calibration"],
            input_names=[spec["name"] for spec in self.captured["signature"]["inputs"]],
            options=options,
        )
        return answer

    def _open(self, record: VariantRecord, target: Path, pool: Pool) -> None:
        """Open the artifact where nothing of its making is in memory, at two batch sizes where there are two."""
        cases = self.captured["reference"]["cases"]
        chosen = {case["id"]: case["file"] for case in cases if case["gate"] == "full" and (case["rows"] or 1) <= 3}
        chosen = chosen or {cases[0]["id"]: cases[0]["file"]}
        with tempfile.TemporaryDirectory(prefix="deploykit-") as answers:
            stack = registry.load("runtimes", record.runtime).stack
            answer = pool.worker(f"open-{stack}").call(
                "sessions:answer",
                runtime=record.runtime,
                artifact=str(target),
                input_names=[spec["name"] for spec in self.captured["signature"]["inputs"]],
                output_names=[spec["name"] for spec in self.captured["signature"]["outputs"]],
                settings=asdict(SessionSettings()),
                cases={name: str(self.stage / file) for name, file in list(chosen.items())[:2]},
                answers=answers,
            )
        for case, error in answer["errors"].items():
            if answer["order"]:  # one size is answered and another is not
                message = f"{case} is refused while other sizes are answered: {error['message']}"
                raise WorkError(record.name, message, remedy("DYNAMIC_DIM_FIXED"), "DYNAMIC_DIM_FIXED")
            raise WorkError(record.name, error["message"], error["hint"], error["code"])


def _manifest(
    request: ExportRequest, captured: dict[str, Any], training: dict[str, Any] | None, records: list[VariantRecord]
) -> Manifest:
    notes = dict(captured["notes"])
    if training is not None:
        notes["training"] = training["summary"]
    return Manifest(
        name=_name(request.target),
        source=SourceRecord(
            spec=_portable(request.source, _preprocessing(captured)),
            digest=captured["digest"],
            parameters=captured["parameters"],
            notes=notes,
        ),
        signature=from_data(Signature, captured["signature"]),
        preprocessing=_preprocessing(captured),
        reference=ReferenceRecord.model_validate_json(json.dumps(captured["reference"])),
        variants=tuple(records),
        versions={name: found for name in RECORDED if (found := installed(name))},
    )


def _preprocessing(captured: dict[str, Any]) -> Preprocessing | None:
    found = captured.get("preprocessing")
    return from_data(Preprocessing, found) if found else None


def _portable(source: SourceSpec, preprocessing: Preprocessing | None = None) -> SourceSpec:
    """The source without paths of this machine: weights travel in the bundle, of a file only its name is kept.

    Names for preprocessing are replaced by what they stood for.
    """
    source = replace(source, preprocess=str(preprocessing) if preprocessing else "")
    target = source.target
    if os.sep in target:
        target = target.rstrip(os.sep).rsplit(os.sep, 1)[-1]
    return replace(source, target=target, checkpoint=None)


def _name(target: Path) -> str:
    plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in target.absolute().name)
    return plain.lstrip("._-")[:80] or "model"


def installed(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _size(folder: Path) -> str:
    return units.size(sum(path.stat().st_size for path in folder.iterdir()))


def generous() -> Limits:
    """Limits for a child that loads a model of unknown size: half of this machine's memory, at least the default.

    Its CPU time is that of two cores for as long as a capture may take.
    """
    default = Limits.for_model(0)
    memory = max(default.memory_bytes, psutil.virtual_memory().total // 2)
    return replace(default, memory_bytes=memory, cpu_s=int(2 * capturing.SECONDS))


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        yield Path(folder)
