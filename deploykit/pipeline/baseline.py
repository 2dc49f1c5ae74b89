"""`deploykit verify --baseline`: compare the gate's answer with a stored one, or store this one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from deploykit import strict_json
from deploykit.bundle import Bundle
from deploykit.errors import RefusedError, UsageError, from_os_error, gravest
from deploykit.parity.baseline import Baseline
from deploykit.parity.drift import against
from deploykit.parity.scale import IN_DISTRIBUTION
from deploykit.parity.sketch import Sketch, sketches
from deploykit.pipeline.judging import Gate
from deploykit.pipeline.verify import VerifyRequest
from deploykit.results import EXIT_OF, BaselineReport, VerifyReport
from deploykit.writing import check_file, write_text

MAX_BASELINE = 16 << 20
"""Bytes of a baseline file that are read: a hundred variants with a thousand checks each fit."""

Apply = Callable[[VerifyReport], VerifyReport]


def prepare(request: VerifyRequest, path: Path, *, update: bool) -> Apply:
    """Find out before the work whether the baseline can be used, and give what is to be done after it.

    Args:
        request: what is going to be verified.
        path: the baseline file.
        update: write it instead of comparing with it.

    Returns:
        A function from the gate's report to the same with its `baseline`, verdict and exit code.

    Raises:
        UsageError: there is no such file, it is about other weights (BASELINE_OTHER_MODEL), or the request is not
            about the bundle's variants.
        RefusedError: the file is no baseline.
        StorageError: it cannot be read, or not written.
    """
    if request.artifact is not None:
        hint = "leave out --artifact or --baseline"
        raise UsageError("--baseline", "is about the bundle's own variants, not about --artifact", hint)
    if update and request.variants is not None:
        hint = "leave out --variants: the next comparison would not know the others"
        raise UsageError("--update-baseline", "keeps all variants of the bundle", hint)
    bundle = Bundle(request.bundle)
    if update:
        check_file(path)
        return lambda report: _updated(report, bundle, path)
    before = _read(path)
    if before.source != bundle.manifest.source.digest:
        message = f"is of {before.model} with other weights than {bundle.manifest.name} has"
        hint = "if the new weights are meant: verify once with --update-baseline"
        raise UsageError(str(path), message, hint, "BASELINE_OTHER_MODEL")
    return lambda report: _compared(report, bundle, before, request.variants)


def _compared(report: VerifyReport, bundle: Bundle, before: Baseline, asked: tuple[str, ...] | None) -> VerifyReport:
    """The report with the comparison; the graver of both verdicts counts."""
    found = against(before, _now(report, bundle), asked)
    code = gravest((report.exit_code, found.exit_code))
    verdict = report.verdict if code == report.exit_code else found.verdict
    return replace(report, baseline=found, exit_code=code, verdict=verdict)


def _updated(report: VerifyReport, bundle: Bundle, path: Path) -> VerifyReport:
    """The report with word of the new baseline; a gate that said no leaves the old one."""
    if report.verdict not in {"pass", "inconclusive"}:
        reason = f"not written: verify says {report.verdict}, and a baseline keeps what was well"
        return replace(report, baseline=BaselineReport("skipped", EXIT_OF["skipped"], "", reason))
    now = _now(report, bundle)
    write_text(path, now.to_json())
    checks = sum(len(variant.checks) for variant in now.variants)
    reason = f"written: {len(now.variants)} variants, {checks} checks, {len(now.reference)} answers of eager"
    return replace(report, baseline=BaselineReport("pass", EXIT_OF["pass"], "", reason))


def _now(report: VerifyReport, bundle: Bundle) -> Baseline:
    manifest = bundle.manifest
    return Baseline.of(report, manifest.source.digest, manifest.versions, _sketches(bundle))


def _sketches(bundle: Bundle) -> tuple[Sketch, ...]:
    """The reference's answers, one case in memory at a time."""
    gate = Gate(bundle)
    judged = (record for record in gate.records if record.input_class in IN_DISTRIBUTION)
    return sketches(map(bundle.case, judged), gate.scale)


def _read(path: Path) -> Baseline:
    hint = "restore it from version control, or write a new one with --update-baseline"
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BASELINE + 1)
    except FileNotFoundError as error:
        hint = "write it with --update-baseline and commit it"
        raise UsageError(str(path), "no such baseline", hint, "NOT_FOUND") from error
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    if len(raw) > MAX_BASELINE:
        raise RefusedError(str(path), f"is larger than {MAX_BASELINE} bytes", hint)
    try:
        return Baseline.from_json(raw.decode())
    except ValidationError as error:
        raise RefusedError(str(path), f"not a baseline: {strict_json.first_fault(error)}", hint) from error
    except (ValueError, RecursionError) as error:
        raise RefusedError(str(path), f"not a baseline: {error}", hint) from error
