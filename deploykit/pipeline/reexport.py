"""Making a variant of a bundle again, older, for a release that cannot load the one that is there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploykit import plan, registry
from deploykit.bundle import WEIGHTS, Bundle, VariantRecord
from deploykit.errors import DeploykitError, RefusedError, WorkError
from deploykit.finished import SOURCES
from deploykit.isolation import Limits, Pool
from deploykit.model import SourceSpec
from deploykit.pipeline import train, travelling
from deploykit.pipeline.fitting import ENGINE, fit, gap
from deploykit.pipeline.subjects import REBUILT
from deploykit.plan import PlannedVariant
from deploykit.progress import Progress
from deploykit.publish import made_here
from deploykit.releases import Release
from deploykit.results import to_data

DRAWN = "drawn"
"""What the manifest says of samples that nobody gave."""


@dataclass(frozen=True)
class Shipped:
    """What goes out for a variant.

    Attributes:
        record: the bundle's, with the facts and options of the file that goes out.
        files: name beside the artifact to file.
        note: what was changed, in words; empty where the bundle's own file goes out.
    """

    record: VariantRecord
    files: Mapping[str, Path]
    note: str = ""

    @property
    def artifact(self) -> Path:
        """The file that the engine opens."""
        return self.files[str(self.record.file).rpartition("/")[2]]


def shipped(
    bundle: Bundle, record: VariantRecord, release: Release | None, scratch: Path, progress: Progress, *, trusted: bool
) -> Shipped:
    """The files of a variant as `release` can load them: the bundle's, with a lowered head, or exported again.

    Args:
        bundle: checked by the caller.
        record: a variant that was made.
        release: has to load it; None asks for nothing.
        scratch: existing folder that stays until the files were used.
        progress: is told when something is made again.
        trusted: the source may run code of the user's, `--trust-code`.

    Raises:
        RefusedError: TARGET_CANNOT_LOAD, with the numbers and why it could not be made again.
    """
    files = travelling.files_of(bundle, record)
    if record.runtime != ENGINE:
        return Shipped(record, files)
    with Pool(Limits.for_model(bundle.largest_file)) as pool:
        child = pool.worker(ENGINE)
        there: dict[str, int] = child.call("versions:read", artifact=str(bundle.file_of(record.name)))
        if release is None or release.takes(there["opset"], there["ir_version"]):
            return Shipped(_with_facts(record, there), files)
        if there["opset"] <= release.opset:
            try:
                return _lowered(record, files, release, scratch, pool, there)
            except WorkError as error:
                if error.code != "TARGET_TOO_OLD":
                    raise
        progress.step(f"{record.name} {gap(release, there)}: it is exported again")
        try:
            return _Again(bundle, release, scratch, pool, trusted).made(record, there)
        except DeploykitError as error:
            if error.exit_code == 70:
                raise
            hint = f"export again with --target {release.label}"
            message = f"{gap(release, there)}; exporting it again here failed: {error.subject}: {error.message}"
            raise RefusedError(record.name, message, hint, "TARGET_CANNOT_LOAD") from error


def _lowered(
    record: VariantRecord,
    files: Mapping[str, Path],
    release: Release,
    scratch: Path,
    pool: Pool,
    there: Mapping[str, int],
) -> Shipped:
    """A copy whose head asks for less; the graph and the weights are the bundle's."""
    folder = scratch / record.name
    folder.mkdir()
    copies = {name: folder / name for name in files}
    for name, path in files.items():
        shutil.copyfile(path, copies[name])
    found = Shipped(record, copies)
    facts = fit(pool.worker(ENGINE), record.name, found.artifact, release)
    note = f"its IR version lowered from {there['ir_version']} to {facts['ir_version']} for {release.label}"
    return replace(found, record=_with_facts(record, facts), note=note)


@dataclass(frozen=True)
class _Again:
    """Makes variants again with the bundle's own weights, options and calibration, at the opset of a release."""

    bundle: Bundle
    release: Release
    scratch: Path
    pool: Pool
    trusted: bool

    def made(self, record: VariantRecord, there: Mapping[str, int]) -> Shipped:
        """The variant and what it is made from, made again.

        Raises:
            RefusedError: TARGET_CANNOT_LOAD or UNTRUSTED_CODE, something that it is made from is not at hand.
            DeploykitError: a step failed.
        """
        variant = plan.known().get(record.name)
        if variant is None:
            raise _missing(record.name, "the plugin that made it")
        base = plan.known()[variant.base] if variant.base else variant
        source = self._source()
        calibrated = variant.base and registry.load("transforms", variant.plugin).needs_calibration
        calibration = self._calibration(source) if calibrated else []
        answer = self._exported(base, source)
        if variant.base:
            answer = self._transformed(variant, record, calibration)
        again = VariantRecord.model_validate_json(json.dumps({**record.model_dump(), **answer}))
        folder = self._place(variant).parent
        files = {path.name: path for path in sorted(folder.iterdir())}
        note = f"exported again at opset {again.facts['opset']} instead of {there['opset']} for {self.release.label}"
        return Shipped(again, files, note)

    def _source(self) -> SourceSpec:
        """What builds the live module.

        Raises:
            RefusedError: it is not at hand, or would run code that nobody vouches for.
        """
        spec = self.bundle.manifest.source.spec
        if spec.kind == "live":
            raise _missing("the model", "its source, a live module of a Python program")
        if spec.kind in SOURCES:
            base = self.bundle.manifest.variant(SOURCES[spec.kind])
            if base.file is None:
                raise _missing(base.name, "the file that was the source")
            return replace(spec, target=str((self.bundle.path / base.file).absolute()), checkpoint=None)
        user_code = bool(getattr(registry.load("sources", spec.kind), "runs_user_code", True))
        if (user_code or spec.kind not in REBUILT) and not (self.trusted or made_here(self.bundle)):
            message = f"its source {spec.kind}:{spec.target} can run code, and this machine did not make the bundle"
            raise RefusedError(spec.kind, message, "give --trust-code if you trust its origin", "UNTRUSTED_CODE")
        return replace(spec, checkpoint=None)

    def _exported(self, variant: PlannedVariant, source: SourceSpec) -> dict[str, Any]:
        plugin = registry.load("exporters", variant.plugin)
        options = dict(self.bundle.manifest.variant(variant.name).options)
        before = options.get("opset")
        options["opset"] = min(before if isinstance(before, int) else plugin.opset, self.release.opset)
        answer: dict[str, Any] = self.pool.worker("torch").call(
            "exporting:export",
            exporter=variant.plugin,
            target=str(self._place(variant)),
            source=to_data(source),
            weights=self._weights,
            signature=to_data(self.bundle.manifest.signature),
            options=options,
        )
        return self._fitted(variant, answer)

    def _transformed(self, variant: PlannedVariant, record: VariantRecord, calibration: list[str]) -> dict[str, Any]:
        answer: dict[str, Any] = self.pool.worker("transforms").call(
            "transforming:transform",
            name=variant.plugin,
            artifact=str(self._place(plan.known()[str(variant.base)])),
            target=str(self._place(variant)),
            calibration=calibration,
            input_names=[spec.name for spec in self.bundle.manifest.signature.inputs],
            options=dict(record.options),
        )
        return self._fitted(variant, answer)

    def _fitted(self, variant: PlannedVariant, answer: dict[str, Any]) -> dict[str, Any]:
        facts = fit(self.pool.worker(ENGINE), variant.name, self._place(variant), self.release)
        return {**answer, "facts": {**answer["facts"], **facts}}

    def _calibration(self, source: SourceSpec) -> list[str]:
        """The batches that the export calibrated with.

        Raises:
            RefusedError: the samples were given by the user and did not stay in the bundle.
        """
        origin = self.bundle.manifest.reference.samples
        samples = None
        if origin != DRAWN:
            if source.kind != "mlp" or not origin.startswith("scikit-learn digits"):
                raise _missing("the calibration", f"its samples ({origin})")
            samples = self.scratch / "samples.npz"
            train.held_out(train.TrainRequest(seed=source.seed), samples)
        folder = self.scratch / "calibration"
        folder.mkdir()
        found: list[str] = self.pool.worker("torch").call(
            "capturing:calibration",
            source=to_data(source),
            weights=self._weights,
            signature=to_data(self.bundle.manifest.signature),
            samples=str(samples) if samples else None,
            scratch=str(folder),
            seed=source.seed,
        )
        return found

    @property
    def _weights(self) -> str:
        return str((self.bundle.path / WEIGHTS).absolute())

    def _place(self, variant: PlannedVariant) -> Path:
        return self.scratch / "again" / variant.name / variant.file_name


def _with_facts(record: VariantRecord, facts: Mapping[str, Any]) -> VariantRecord:
    return record.model_copy(update={"facts": {**record.facts, **facts}})


def _missing(what: str, needed: str) -> RefusedError:
    return RefusedError(what, f"{needed} is not at hand", "export again with --target", "TARGET_CANNOT_LOAD")
