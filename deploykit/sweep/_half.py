"""Both halves of a cell, wherever they run: commands in child processes, and rows from what they answer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from deploykit import toml_text
from deploykit.bundle import MANIFEST, Bundle
from deploykit.environment import fingerprint
from deploykit.errors import DeploykitError, from_os_error, gravest
from deploykit.measurements import BASE_LINES, BenchReport, BenchRow, Comparison
from deploykit.results import VariantReport, VerifyReport, from_data
from deploykit.sweep._child import Ended, call
from deploykit.sweep.interface import Job
from deploykit.sweep_results import CellRow, Half

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_NOT_THEIRS = ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS")
"""Every cell would write its own page into the job's summary."""

_KEPT = ("cpu", "cores", "packages")
"""What of a machine's fingerprint goes into the record."""


def half(
    job: Job, bundle: Path, root: Path | None, stopped: Callable[[], bool], environment: Mapping[str, str]
) -> Half:
    """Run one half of a cell on this machine; what goes wrong is in the result.

    Args:
        job: see Job.
        bundle: where the bundle is, or goes, on this machine; the folder around it is the cell's own.
        root: folder in which its files were laid out; None reads them where they are.
        stopped: see `_child.call`.
        environment: variables of the commands.

    Raises:
        StoppedError: `stopped` said so.
    """
    clock = time.monotonic()
    recipe = bundle.with_name("cell.toml")
    try:
        bundle.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(toml_text.dumps(job.recipe_in(root)), encoding="utf-8")
        commands = _Commands(job, bundle, recipe, root or job.home, clock, stopped, environment)
        found = commands.prove() if job.stage == "prove" else commands.measure()
    except OSError as error:
        found = failed(from_os_error(error, job.label))
    except DeploykitError as error:
        found = failed(error)
    place = {name: value for name, value in fingerprint().items() if name in _KEPT}
    manifest = bundle / MANIFEST
    digest = sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None
    found = _portable(found, [str(folder) for folder in (root, job.home, bundle.parent) if folder is not None])
    return replace(found, seconds=round(time.monotonic() - clock, 3), place=place, digest=digest)


def _portable(found: Half, folders: list[str]) -> Half:
    """Texts without the paths of a machine: what a cell says is the same wherever it ran."""

    def plain(text: str) -> str:
        for folder in folders:
            text = text.replace(f"{folder}{os.sep}", "")
        return text

    rows = tuple(replace(row, reason=plain(row.reason), bench_reason=plain(row.bench_reason)) for row in found.rows)
    return replace(found, reason=plain(found.reason), rows=rows)


def failed(error: DeploykitError) -> Half:
    """The result of a half that ended with an error."""
    return Half(error.exit_code, error.code, f"{error.subject}: {error.message}", error.hint)


@dataclass(frozen=True)
class _Commands:
    job: Job
    bundle: Path
    recipe: Path
    cwd: Path
    began: float
    stopped: Callable[[], bool]
    environment: Mapping[str, str]

    def prove(self) -> Half:
        """Export, then the parity gate with mutants, as `deploykit run` does."""
        exported = self._call("export", "-o", self.bundle, "--force", pinned=True)
        if exported.document is None:
            return _stopped_at(exported)
        asked = self.job.recipe.get("verify", {})
        prove = [] if "self_check" in asked else ["--self-check"]
        verified = self._call("verify", self.bundle, "--trust-code", *prove, pinned=True)
        if verified.document is None:
            return _stopped_at(verified)
        report: VerifyReport = from_data(VerifyReport, verified.document)
        bundle = Bundle(self.bundle)
        rows = tuple(_proved(bundle, one) for one in report.variants)
        return Half(gravest([exported.exit_code, verified.exit_code]), *_gravest_of(report), rows=rows)

    def measure(self) -> Half:
        """The latency table, on all cores unless the recipe says how many."""
        measured = self._call("bench", self.bundle, "--trust-code", pinned=False)
        if measured.document is None:
            return _stopped_at(measured)
        report: BenchReport = from_data(BenchReport, measured.document)
        ratios = {(one.candidate, one.batch): one for one in report.comparisons}
        rows = tuple(_measured(one, ratios.get((one.name, one.batch))) for one in report.variants)
        return Half(measured.exit_code, *_unsatisfied(report), rows=rows)

    def _call(self, command: str, *words: object, pinned: bool) -> Ended:
        task = self.job.task
        more = dict.fromkeys(THREADS, str(task.cpus)) if pinned else {}
        if task.memory_gb is not None:
            more["DEPLOYKIT_MEMORY_GB"] = str(task.memory_gb)
        environment = {name: value for name, value in self.environment.items() if name not in _NOT_THEIRS} | more
        return call(
            [command, *map(str, words), "--recipe", str(self.recipe)],
            cwd=self.cwd,
            environment=environment,
            log=self.job.log,
            timeout_s=max(0.0, self.began + task.timeout_s - time.monotonic()),
            stopped=self.stopped,
        )


def _stopped_at(ended: Ended) -> Half:
    return Half(ended.exit_code, ended.code, ended.message, ended.hint)


def _gravest_of(report: VerifyReport) -> tuple[str, str]:
    """Code and reason of the variant, or of the self-check, that decides the exit code."""
    if report.exit_code == 0:
        return "", ""
    for variant in report.variants:
        if variant.exit_code == report.exit_code:
            return variant.code, f"{variant.name}: {variant.reason}"
    for check in report.self_check or ():
        if check.verdict != "pass":
            return check.code, f"self-check of {check.variant}: {check.reason}"
    return "", report.verdict


def _proved(bundle: Bundle, one: VariantReport) -> CellRow:
    folder = f"variants/{one.name}/"
    size = sum(file.size for file in bundle.manifest.files if file.path.startswith(folder))
    return CellRow(one.name, one.verdict, one.code, one.reason, file_bytes=size or None)


def _measured(row: BenchRow, against: Comparison | None) -> CellRow:
    return CellRow(
        row.name,
        "base" if row.name in BASE_LINES else "",
        batch=row.batch,
        median_ns=row.median_ns,
        median_ci_ns=row.median_ci_ns,
        ci_level=row.median_ci_level,
        base=against.base if against else "",
        ratio=against.ratio if against else None,
        ratio_ci=against.ci if against else None,
        file_bytes=row.file_bytes,
        peak_rss_bytes=row.peak_rss_bytes,
        bench_reason="" if row.verdict == "measured" else f"{row.verdict}: {row.reason}",
    )


def _unsatisfied(report: BenchReport) -> tuple[str, str]:
    """What bench itself says no to; what the parity gate said stands in the other half."""
    choice = report.recommendation
    if choice is not None and not choice.satisfied:
        return "UNSATISFIED", choice.reason
    missing = next((one for one in report.variants if one.verdict == "not_measured"), None)
    return ("NOT_MEASURED", f"{missing.name}: {missing.reason}") if missing else ("", "")
