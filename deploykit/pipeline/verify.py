"""`deploykit verify`: prove the bundle's bytes, let every variant answer every case, judge the answers."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploykit import registry
from deploykit.bundle import WEIGHTS, Bundle, VariantRecord
from deploykit.environment import fingerprint
from deploykit.errors import DeploykitError, RefusedError, UsageError, gravest
from deploykit.formats import recognize
from deploykit.isolation import Limits, Pool
from deploykit.parity.budget import budget_for
from deploykit.parity.judge import conclude
from deploykit.pipeline.judging import Gate
from deploykit.progress import Progress
from deploykit.publish import made_here
from deploykit.results import EXIT_OF, VariantReport, VariantVerdict, VerifyReport
from deploykit.session import CPU


@dataclass(frozen=True)
class VerifyRequest:
    """What to verify and how strictly.

    Attributes:
        variants: names, or None for all of the bundle.
        provider: full execution provider name.
        trust_code: run TorchScript and `.pt2` files of a bundle that this machine did not make.
        limits: changes to the budgets, `{"max_r": 6.0}`.
        artifact: a file made elsewhere, judged instead of the bundle's variants.
        precision: the budget for `artifact`.
    """

    bundle: Path
    variants: tuple[str, ...] | None = None
    provider: str = CPU
    trust_code: bool = False
    limits: dict[str, float] = field(default_factory=dict)
    artifact: Path | None = None
    precision: str = "fp32"

    @property
    def is_whole(self) -> bool:
        """Whether it asks the gate as it is about all of the bundle: only such an answer is kept with the bundle."""
        return self.artifact is None and self.variants is None and not self.limits


def verify(request: VerifyRequest, progress: Progress) -> VerifyReport:
    """The parity gate.

    Raises:
        DeploykitError: the bundle cannot be used at all; what concerns one variant is that variant's verdict.
    """
    bundle = Bundle(request.bundle)
    bundle.check()
    _check_limits(request)
    chosen = _chosen(bundle, request)
    gate = Gate(bundle, request.provider, request.limits)
    verifier = _Verifier(gate, request, progress)
    progress.stage("verify", len(chosen))
    with Pool(Limits.for_model(_model_bytes(bundle))) as pool:
        reports = tuple(verifier.judge(record, artifact, pool) for record, artifact in chosen)
    code = gravest(report.exit_code for report in reports)
    if all(report.verdict == "skipped" for report in reports):  # nothing ran: that proves nothing
        code = EXIT_OF["inconclusive"]
    return VerifyReport(
        bundle.manifest.name,
        _overall(code),
        code,
        fingerprint(),
        reports,
        weak_reference=bundle.manifest.reference.float64 is None,
    )


def _check_limits(request: VerifyRequest) -> None:
    """A wrong limit is no variant's fault: it is said once, before anything runs."""
    for name, value in request.limits.items():
        if not math.isfinite(value):  # every comparison with NaN would hold
            raise UsageError(f"budget.{name}", f"{value} is no limit", "give a finite number", "BAD_LIMIT")
    budget_for(request.precision, request.provider, request.limits)


def _chosen(bundle: Bundle, request: VerifyRequest) -> list[tuple[VariantRecord, Path | None]]:
    """The variants to judge with their artifacts; None where one was not made. A gate without one would always pass."""
    if request.artifact is not None:
        return [_foreign(request.artifact, request)]
    every = tuple(record.name for record in bundle.manifest.variants)
    names = every if request.variants is None else request.variants
    if not names:
        hint = f"name some of {', '.join(every)}" if every else "export it again"
        raise UsageError(bundle.path.name, "no variant to verify is named", hint, "UNKNOWN_VARIANT")
    records = [bundle.manifest.variant(name) for name in names]
    return [(record, bundle.path / record.file if record.file else None) for record in records]


def _foreign(artifact: Path, request: VerifyRequest) -> tuple[VariantRecord, Path]:
    """A file from outside: its format is read from its content, and code is refused unless trusted."""
    found = recognize(artifact)
    if registry.load("runtimes", found).runs_code and not request.trust_code:
        message = f"a {found} file can run code, and this one was made elsewhere"
        raise RefusedError(str(artifact), message, "give --trust-code if you trust its origin", "UNTRUSTED_CODE")
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in artifact.name).lstrip("._-") or "artifact"
    record = VariantRecord(
        name=name[:80], status="ready", made_by="elsewhere", precision=request.precision, runtime=found
    )
    return record, artifact


@dataclass
class _Verifier:
    """Takes each variant through the gate, whatever happens to it."""

    gate: Gate
    request: VerifyRequest
    progress: Progress

    def __post_init__(self) -> None:
        self.trusted = self.request.trust_code or made_here(self.gate.bundle)

    def judge(self, record: VariantRecord, artifact: Path | None, pool: Pool) -> VariantReport:
        """The report of one variant."""
        if artifact is None:
            verdict: VariantVerdict = "skipped" if record.status == "unavailable" else "error"
            report = _without(record.name, verdict, record.code, f"not made: {record.reason}")
        elif self.request.artifact is None and _runs_code(record) and not self.trusted:
            reason = "can run code and this machine did not make the bundle; give --trust-code if you trust its origin"
            report = _without(record.name, "refused", "UNTRUSTED_CODE", reason)
        else:
            try:
                report = self._compared(record, artifact, pool)
            except DeploykitError as error:
                report = _gave_up(record.name, error)
        self.progress.step(f"{report.name}: {report.verdict}{f', {report.code}' if report.code else ''}")
        return report

    def _compared(self, record: VariantRecord, artifact: Path, pool: Pool) -> VariantReport:
        with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
            answers = self.gate.answers(record, artifact, pool, Path(folder))
            judge = self.gate.judged(record, answers)
        report = conclude(record.name, answers.provider, judge)
        return self._located(report, record, artifact, pool) if report.verdict == "fail" else report

    def _located(self, report: VariantReport, record: VariantRecord, artifact: Path, pool: Pool) -> VariantReport:
        """Add which weight differs from the source's, where the format keeps names."""
        weights = self.gate.bundle.path / WEIGHTS
        if record.runtime != "onnxruntime" or record.precision != "fp32" or not weights.is_file():
            return report
        try:
            found = pool.worker("onnxruntime").call("inspecting:weights", artifact=str(artifact), weights=str(weights))
        except DeploykitError:
            return report  # the failure itself is reported; only the extra hint is missing
        if not found:
            return report
        return replace(
            report, first_divergence=f"{report.first_divergence}; {found[0]}", reason=f"{report.reason}; {found[0]}"
        )


def _runs_code(record: VariantRecord) -> bool:
    return bool(registry.load("runtimes", record.runtime).runs_code)


def _without(name: str, verdict: VariantVerdict, code: str, reason: str) -> VariantReport:
    return VariantReport(name, verdict, None, (), code, reason, None, EXIT_OF[verdict])


def _gave_up(name: str, error: DeploykitError) -> VariantReport:
    """A provider that is not there is the gate saying no; everything else could not be done."""
    if error.code == "PROVIDER_FALLBACK":
        return VariantReport(name, "fail", None, (), error.code, error.message, None, 1)
    verdict: VariantVerdict = "refused" if error.exit_code == 5 else "error"
    return VariantReport(name, verdict, None, (), error.code, f"{error.message}; {error.hint}", None, error.exit_code)


def _overall(code: int) -> VariantVerdict:
    verdicts: dict[int, VariantVerdict] = {0: "pass", 1: "fail", 3: "inconclusive", 5: "refused"}
    return verdicts.get(code, "error")


def _model_bytes(bundle: Bundle) -> int:
    return max((record.size for record in bundle.manifest.files), default=0)
