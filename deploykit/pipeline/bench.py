"""`deploykit bench`: measure what passed verify, next to eager, and recommend."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deploykit.benchmark import summary
from deploykit.benchmark.measure import measure
from deploykit.benchmark.plan import Protocol, Subject
from deploykit.bundle import WEIGHTS, Bundle, CaseRecord
from deploykit.environment import fingerprint, usable_cores
from deploykit.errors import UsageError, gravest
from deploykit.isolation import Limits, Worker
from deploykit.model import SourceSpec
from deploykit.parity import compare
from deploykit.parity.budget import budget_for
from deploykit.parity.judge import Judge
from deploykit.parity.scale import IN_DISTRIBUTION, Scale
from deploykit.pipeline.verify import VerifyRequest, verify
from deploykit.progress import Progress
from deploykit.recommend.choose import choose
from deploykit.reference import save_arrays
from deploykit.results import BenchReport, VariantReport, VerifyReport, to_data, to_json
from deploykit.session import CPU, SessionSettings
from deploykit.signature import MAX_DIM, Feeds

INPUT_SETS = 4
"""Sets of inputs in rotation, so that no call finds the last one's data in the nearest cache only."""

REBUILT = ("mlp", "torchvision")
"""Sources that deploykit's own plugins can build again from the manifest, with the weights in the bundle."""


@dataclass(frozen=True)
class BenchRequest:
    """What to measure and how.

    Attributes:
        variants: names, or None for all of the bundle.
        batches: batch sizes; the first one decides the recommendation.
        threads: intra-op threads for every variant; None takes every core this process may use.
        source: builds `eager` for bundles whose source is the user's own code; None where it is not at hand.
    """

    bundle: Path
    variants: tuple[str, ...] | None = None
    provider: str = CPU
    batches: tuple[int, ...] = (1,)
    threads: int | None = None
    quick: bool = False
    seed: int = 0
    trust_code: bool = False
    source: SourceSpec | None = None


def bench(request: BenchRequest, progress: Progress, verified: VerifyReport | None = None) -> BenchReport:
    """Measure and recommend; writes `reports/bench.json` and the raw readings beside it.

    Args:
        request: see BenchRequest.
        progress: is told of every launch.
        verified: the parity gate's answer for this bundle and provider from a moment ago; None asks it now.

    Raises:
        DeploykitError: the bundle cannot be used, or a batch size does not fit its signature.
    """
    _check_counts(request)
    bundle = Bundle(request.bundle)
    if verified is None:
        asked = VerifyRequest(request.bundle, request.variants, request.provider, request.trust_code)
        verified = verify(asked, progress)
    else:
        bundle.check()
    verdicts = {report.name: report for report in verified.variants}
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        bench_ = _Bench(bundle, request, Path(folder))
        subjects = bench_.subjects(verdicts)
        protocol = Protocol.short(request.seed) if request.quick else Protocol(seed=request.seed)
        limits = Limits.for_model(max((record.size for record in bundle.manifest.files), default=0))
        measured = measure(subjects, protocol, lambda: Worker(limits), progress, bench_.judge)
        raw = Path(folder) / "bench.safetensors"
        measured.save(raw)
        rows = summary.rows(subjects, measured)
        deciding = bench_.batches[0]
        choice = choose(
            rows,
            lambda base, candidate: summary.compare(measured, base, candidate, deciding),
            verdicts,
            {r.name: r.reason for r in bundle.manifest.variants if r.name in verdicts and r.file is None},
            deciding,
        )
        code = _exit_code(measured.missing, verified)
        report = BenchReport(
            bundle.manifest.name,
            fingerprint(),
            {**asdict(protocol), "threads": bench_.threads, "scope": "host_to_host", "eager": bench_.eager_note},
            tuple(rows),
            tuple(summary.comparisons(subjects, measured)),
            choice,
            code,
        )
        bundle.write_report("bench.json", to_json(report))
        bundle.write_report_file("bench.safetensors", raw)
    return report


def _check_counts(request: BenchRequest) -> None:
    """The command line cannot ask for these, a program can."""
    if not request.batches or not all(0 < batch <= MAX_DIM for batch in request.batches):
        hint = "for example batches=(1, 8, 64)"
        raise UsageError(f"batches {request.batches}", f"a batch is 1 to {MAX_DIM}", hint, "BAD_BATCH")
    if request.seed < 0 or (request.threads is not None and request.threads < 1):
        raise UsageError("threads and seed", "a negative number, or no thread at all", "leave them out", "BAD_COUNT")


def _exit_code(missing: Any, verified: VerifyReport) -> int:
    """A subject that could not be measured is work not done; a gate that said no before keeps its say."""
    return gravest([verified.exit_code, *(entry.exit_code for entry in missing)])


@dataclass
class _Bench:
    bundle: Bundle
    request: BenchRequest
    folder: Path
    eager_note: str = "measured"
    batches: tuple[int, ...] = field(init=False)
    threads: int = field(init=False)

    def __post_init__(self) -> None:
        self.threads = self.request.threads or usable_cores()
        self.judged = [r for r in self.bundle.manifest.reference.cases if r.input_class in IN_DISTRIBUTION]
        self.base: CaseRecord = self.judged[0]
        rows = self.base.rows
        if rows is None:
            fixed = len(next(iter(self._inputs().values()))) if self._inputs() else 1
            if self.request.batches not in {(1,), (fixed,)}:
                raise UsageError("--batch", f"the model's batch is fixed at {fixed}", "leave --batch out", "BAD_BATCH")
            self.batches = (fixed,)
        else:
            self.batches = self.request.batches
        self.check = self._check_case()

    def subjects(self, verdicts: Mapping[str, VariantReport]) -> list[Subject]:
        """Eager where it can be had, and every variant that passed."""
        feeds = {batch: self._feeds(batch) for batch in self.batches}
        signature = self.bundle.manifest.signature
        inputs = tuple(spec.name for spec in signature.inputs)
        outputs = tuple(spec.name for spec in signature.outputs)
        settings = SessionSettings(self.request.provider, self.threads)
        check = self.bundle.path / self.check.file
        found = []
        if (eager := self._eager()) is not None:
            found.append(Subject("eager", "eager", eager, settings, inputs, outputs, feeds, None, check))
        for record in self.bundle.manifest.variants:
            if record.file is None or record.name not in verdicts or verdicts[record.name].verdict != "pass":
                continue
            size = self.bundle.bytes_of(record.name)
            artifact = self.bundle.path / record.file
            found.append(Subject(record.name, record.runtime, artifact, settings, inputs, outputs, feeds, size, check))
        if not found:
            raise UsageError(
                self.bundle.path.name,
                "no variant passed verify: nothing to measure",
                "deploykit verify says why",
                "NOTHING_TO_MEASURE",
            )
        return found

    def judge(self, subject: Subject, outputs: Feeds) -> str:
        """Hold one answer to the budget of its variant; empty when it agrees."""
        manifest = self.bundle.manifest
        precision = "fp32" if subject.name == "eager" else manifest.variant(subject.name).precision
        case = self.bundle.case(self.check)
        order = [spec.name for spec in manifest.signature.outputs]
        case = replace(case, expected=compare.ordered(case.expected, order))
        scale = Scale.of(self.bundle.case(record) for record in self.judged)
        judge = Judge(scale, budget_for(precision, self.request.provider))
        judge.add(case, outputs)
        return judge.ledger.divergence or ""

    def _check_case(self) -> CaseRecord:
        """The smallest case with values: it is answered once per subject before anything is timed."""
        full = [record for record in self.bundle.manifest.reference.cases if record.gate == "full"]
        return min(full, key=lambda record: (record.input_class == "constant", record.rows or 0))

    def _inputs(self) -> Feeds:
        return self.bundle.case(self.base).inputs

    def _feeds(self, batch: int) -> Path:
        inputs = self._inputs()
        path = self.folder / f"feeds-{batch}.safetensors"
        arrays: Feeds = {}
        for index in range(INPUT_SETS):
            for name, array in inputs.items():
                rows = (np.arange(batch) + index * batch) % len(array) if self.base.rows else slice(None)
                arrays[f"{index}/{name}"] = array[rows] if array.ndim else array
        save_arrays(arrays, path)
        return path

    def _eager(self) -> Path | None:
        """The artifact of the eager runtime: which source to build, and the bundle's weights."""
        source = self.request.source
        if source is None and self.bundle.manifest.source.spec.kind in REBUILT:
            source = self.bundle.manifest.source.spec
        if source is None:
            self.eager_note = "not measured: the source is not at hand (give --source)"
            return None
        path = self.folder / "eager.json"
        weights = (self.bundle.path / WEIGHTS).absolute()
        spec = to_data(replace(source, checkpoint=None))
        path.write_text(json.dumps({"source": spec, "weights": str(weights)}), encoding="utf-8")
        return path
