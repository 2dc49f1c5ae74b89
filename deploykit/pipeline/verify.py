"""`deploykit verify`: prove the bundle's bytes, let every variant answer every case, judge the answers."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from deploykit import registry
from deploykit.bundle import REPORTS, Bundle, VariantRecord
from deploykit.environment import fingerprint
from deploykit.errors import RefusedError, UsageError, from_os_error, gravest
from deploykit.finished import reference_of
from deploykit.formats import recognize
from deploykit.isolation import Limits, Pool
from deploykit.parity.budget import budget_for, outputs_named
from deploykit.pipeline.judging import Gate
from deploykit.pipeline.trial import Trial
from deploykit.progress import Progress
from deploykit.publish import made_here
from deploykit.results import EXIT_OF, REPRODUCE, VariantVerdict, VerifyReport
from deploykit.session import CPU
from deploykit.writing import make_folder


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
        self_check: also prove that the gate can fail, with mutants of every variant.
        reproducers: folder for what reproduces a failure; None is `reports/reproduce` of the bundle, where it can be
            written.
    """

    bundle: Path
    variants: tuple[str, ...] | None = None
    provider: str = CPU
    trust_code: bool = False
    limits: dict[str, float] = field(default_factory=dict)
    artifact: Path | None = None
    precision: str = "fp32"
    self_check: bool = False
    reproducers: Path | None = None

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
    check_limits(bundle, request.limits, request.precision, request.provider)
    chosen = _chosen(bundle, request)
    gate = Gate(bundle, request.provider, request.limits)
    own = request.artifact is None
    trusted = request.trust_code or (own and made_here(bundle))
    reproducers = _reproducers(request, [record.name for record, _ in chosen])
    progress.stage("verify", len(chosen))
    with Pool(Limits.for_model(bundle.largest_file)) as pool:
        trial = Trial(gate, pool, progress, trusted, reproducers, self_check=request.self_check)
        reports = tuple(trial.of(record, artifact) for record, artifact in chosen)
    checks = tuple(trial.self_checks)
    code = gravest([*(report.exit_code for report in reports), *(EXIT_OF[check.verdict] for check in checks)])
    if all(report.verdict == "skipped" for report in reports):  # nothing ran: that proves nothing
        code = EXIT_OF["inconclusive"]
    return VerifyReport(
        bundle.manifest.name,
        _overall(code),
        code,
        fingerprint(),
        reports,
        checks if request.self_check else None,
        weak_reference=bundle.manifest.reference.float64 is None,
        reference=reference_of(bundle.manifest.source.spec.kind),
    )


def check_limits(bundle: Bundle, limits: dict[str, float], precision: str, provider: str) -> None:
    """A wrong limit is no variant's fault: it is said once, before anything runs.

    Raises:
        UsageError: UNKNOWN_LIMIT, BAD_LIMIT.
    """
    outputs = {spec.name for spec in bundle.manifest.signature.outputs}
    budget_for(precision, provider, limits)
    if unknown := sorted(outputs_named(limits) - outputs):
        hint = f"one of {', '.join(sorted(outputs))}, or no output at all"
        raise UsageError(f"--set budget.{unknown[0]}", "the model has no such output", hint, "UNKNOWN_LIMIT")


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


def _reproducers(request: VerifyRequest, names: list[str]) -> Path | None:
    """Where reproducers go; those that an earlier run left of the same variants are gone first.

    Raises:
        UsageError: EXISTS, something else lies where a reproducer would go.
        DeploykitError: nothing can be written to the folder that was asked for.
    """
    folder = request.reproducers or request.bundle / REPORTS / "reproduce"
    if request.reproducers is not None:
        try:
            make_folder(folder)
        except OSError as error:
            raise from_os_error(error, f"--reproducers {folder}") from error
    elif not os.access(request.bundle, os.W_OK):
        return None
    for name in names:
        place = folder / name
        if place.exists() and not (place / REPRODUCE).is_file():
            # a folder that only has a variant's name is somebody's own
            hint = "choose another --reproducers DIR"
            raise UsageError(str(place), "is there and no reproducer of ours", hint, "EXISTS")
        shutil.rmtree(place, ignore_errors=True)
    return folder


def _overall(code: int) -> VariantVerdict:
    verdicts: dict[int, VariantVerdict] = {0: "pass", 1: "fail", 3: "inconclusive", 5: "refused"}
    return verdicts.get(code, "error")
