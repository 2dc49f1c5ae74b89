"""What of a bundle can be timed: its variants and eager as subjects, their inputs, and the judge of their answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from deploykit import registry
from deploykit.benchmark.plan import Subject
from deploykit.bundle import WEIGHTS, Bundle, CaseRecord, VariantRecord
from deploykit.errors import RefusedError, UsageError
from deploykit.finished import SOURCES
from deploykit.measurements import COMPILED, EAGER
from deploykit.model import SourceSpec
from deploykit.parity import compare
from deploykit.parity.budget import budget_for
from deploykit.parity.judge import Judge
from deploykit.parity.scale import IN_DISTRIBUTION, Scale
from deploykit.reference import save_arrays
from deploykit.results import VariantReport, to_data
from deploykit.session import CUDA, SessionSettings
from deploykit.signature import Feeds

INPUT_SETS = 4
"""Sets of inputs in rotation, so that no call finds the last one's data in the nearest cache only."""

REBUILT = ("mlp", "torchvision", "timm")
"""Sources that deploykit's own plugins can build again from the manifest, with the weights in the bundle."""

GRAPH = "device_graph=on"
"""The words of the setting that records a device graph."""


@dataclass
class Subjects:
    """The subjects that one bundle gives.

    Attributes:
        bundle: checked by the caller.
        asked: batch sizes; a model with a fixed batch has its own.
        settings: what sessions are opened with unless a subject gets others.
        folder: where inputs and the recipe for eager are written.
        source: builds eager for bundles whose source is the user's own code; None where it is not at hand.
        own: what the session of one variant is opened with; None takes `settings`.
        eager_note: why eager is not among the subjects, or `measured`.
        compile_note: the same of eager under torch.compile, which is there when `compiled` asks for it.

    Raises:
        UsageError: BAD_BATCH, the model's batch is fixed at another size.
        RefusedError: NO_REFERENCE, there is nothing to take inputs from.
    """

    bundle: Bundle
    asked: tuple[int, ...]
    settings: SessionSettings
    folder: Path
    source: SourceSpec | None = None
    own: Callable[[VariantRecord], SessionSettings] | None = None
    eager_note: str = "measured"
    compiled: bool = False
    compile_note: str = "not asked for (--compile)"
    batches: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.judged = [r for r in self.bundle.manifest.reference.cases if r.input_class in IN_DISTRIBUTION]
        if not self.judged:
            message, hint = "its reference has no case inside the model's range", "export it again"
            raise RefusedError(self.bundle.path.name, message, hint, "NO_REFERENCE")
        self.base: CaseRecord = self.judged[0]
        self._feeds: dict[int, Path] = {}
        rows = self.base.rows
        if rows is None:
            inputs = self.bundle.case(self.base).inputs
            fixed = len(next(iter(inputs.values()))) if inputs else 1
            if self.asked not in {(1,), (fixed,)}:
                raise UsageError("--batch", f"the model's batch is fixed at {fixed}", "leave --batch out", "BAD_BATCH")
            self.batches = (fixed,)
        else:
            self.batches = self.asked
        self.check = self._check_case()

    @property
    def batched(self) -> bool:
        """The model takes any batch size."""
        return self.base.rows is not None

    def every(self, verdicts: Mapping[str, VariantReport]) -> list[Subject]:
        """Eager where it can be had, compiled too if asked for, and every variant that passed.

        On CUDA the variants that ONNX Runtime opens are there twice, the second time as one recorded graph.

        Raises:
            UsageError: NOTHING_TO_MEASURE, there is neither.
        """
        eager = self.eager()
        found = [eager] if eager is not None else []
        found += self._compiled()
        passed = self.passed(verdicts)
        found += [self.subject(record) for record in passed]
        if self.settings.provider == CUDA:
            found += [self._recorded(record) for record in passed if record.runtime == "onnxruntime"]
        if not found:
            message, hint = "no variant passed verify: nothing to measure", "deploykit verify says why"
            raise UsageError(self.bundle.path.name, message, hint, "NOTHING_TO_MEASURE")
        return found

    def passed(self, verdicts: Mapping[str, VariantReport]) -> list[VariantRecord]:
        """The variants that verify passed, in the manifest's order."""
        return [
            record
            for record in self.bundle.manifest.variants
            if record.file is not None and record.name in verdicts and verdicts[record.name].verdict == "pass"
        ]

    def subject(self, record: VariantRecord, settings: SessionSettings | None = None, name: str = "") -> Subject:
        """One variant as a subject.

        Args:
            record: a variant that was made.
            settings: what its session is opened with; None takes the variant's own.
            name: what the subject is called where the variant's name would not be unique.
        """
        artifact = self.bundle.file_of(record.name)
        size = self.bundle.bytes_of(record.name)
        if settings is None and self.own is not None:
            settings = self.own(record)
        return self._subject(name or record.name, record.name, record.runtime, artifact, settings, size)

    def eager(self, runtime: str = EAGER) -> Subject | None:
        """The live module as a subject; None, and `eager_note` says why, where its source is not at hand."""
        if (kind := self.bundle.manifest.source.spec.kind) in SOURCES:
            self.eager_note = f"not there: the source is a file, {SOURCES[kind]} is the base line"
            return None
        source = self.source
        if source is None and self.bundle.manifest.source.spec.kind in REBUILT:
            source = self.bundle.manifest.source.spec
        if source is None:
            self.eager_note = "not measured: the source is not at hand (give --source)"
            return None
        told = self.bundle.manifest.source.spec
        source = replace(source, inputs=source.inputs or told.inputs, preprocess=source.preprocess or told.preprocess)
        path = self.folder / "eager.json"
        weights = (self.bundle.path / WEIGHTS).absolute()
        # the size of a head, and where a folder lies, may be known from the weights alone
        checkpoint = str(weights) if source.kind in {"timm", "transformers"} else None
        spec = to_data(replace(source, checkpoint=checkpoint))
        path.write_text(json.dumps({"source": spec, "weights": str(weights)}), encoding="utf-8")
        return self._subject(runtime, "", runtime, path, None, None)

    def _compiled(self) -> list[Subject]:
        """Eager under torch.compile where that was asked for and can be had; `compile_note` says what became of it."""
        if not self.compiled:
            return []
        reason = registry.load("runtimes", COMPILED)().unavailable()
        found = self.eager(COMPILED) if reason is None else None
        self.compile_note = "measured"
        if found is None:
            self.compile_note = f"not measured: {reason}" if reason else self.eager_note
        return [found] if found is not None else []

    def _recorded(self, record: VariantRecord) -> Subject:
        settings = replace(self.subject(record).settings, device_graph=True)
        return self.subject(record, settings, f"{record.name}@{GRAPH}")

    def judge(self, subject: Subject, outputs: Feeds) -> str:
        """Hold one answer to the budget of its variant; empty when it agrees."""
        manifest = self.bundle.manifest
        precision = manifest.variant(subject.variant).precision if subject.variant else "fp32"
        case = self.bundle.case(self.check)
        order = [spec.name for spec in manifest.signature.outputs]
        case = replace(case, expected=compare.ordered(case.expected, order))
        scale = Scale.of(self.bundle.case(record) for record in self.judged)
        judge = Judge(scale, budget_for(precision, subject.settings.provider))
        judge.add(case, outputs)
        return judge.ledger.divergence or ""

    def feeds(self, batch: int) -> Path:
        """A file with the input sets for one batch size: rows of the stored samples, rotated."""
        if batch in self._feeds:
            return self._feeds[batch]
        inputs = self.bundle.case(self.base).inputs
        path = self.folder / f"feeds-{batch}.safetensors"
        arrays: Feeds = {}
        for index in range(INPUT_SETS):
            for name, array in inputs.items():
                rows = (np.arange(batch) + index * batch) % len(array) if self.batched else slice(None)
                arrays[f"{index}/{name}"] = array[rows] if array.ndim else array
        save_arrays(arrays, path)
        self._feeds[batch] = path
        return path

    def _subject(
        self, name: str, variant: str, runtime: str, artifact: Path, settings: SessionSettings | None, size: int | None
    ) -> Subject:
        signature = self.bundle.manifest.signature
        return Subject(
            name,
            runtime,
            artifact,
            settings or self.settings,
            tuple(spec.name for spec in signature.inputs),
            tuple(spec.name for spec in signature.outputs),
            {batch: self.feeds(batch) for batch in self.batches},
            size,
            self.bundle.path / self.check.file,
            variant,
        )

    def _check_case(self) -> CaseRecord:
        """The smallest case with values: it is answered once per subject before anything is timed."""
        full = [record for record in self.bundle.manifest.reference.cases if record.gate == "full"]
        return min(full, key=lambda record: (record.input_class == "constant", record.rows or 0))
