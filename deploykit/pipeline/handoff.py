"""`deploykit handoff`: prove a variant once more, and lay out the folder that a serving stack takes as it is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from deploykit import handed, registry, strict_json
from deploykit.bundle import Bundle, VariantRecord
from deploykit.errors import RefusedError, UsageError, from_os_error
from deploykit.handed import RECORD, REFERENCE, Handed, HandedVersion, as_reason
from deploykit.handoff import _layout
from deploykit.handoff.interface import Given, TargetPlugin, Version, leaves
from deploykit.isolation import Limits, Pool
from deploykit.pipeline import preflight, reexport, travelling
from deploykit.pipeline.judging import Gate
from deploykit.pipeline.reexport import Shipped
from deploykit.pipeline.shipping import check_trust, model_name, recommended
from deploykit.pipeline.trial import Trial
from deploykit.preprocessing import Preprocessing
from deploykit.progress import Progress
from deploykit.publish import Kind, put, staging
from deploykit.releases import Release
from deploykit.results import HandoffReport
from deploykit.session import CPU, SessionSettings
from deploykit.tune_results import Goal
from deploykit.tuned import USUAL, parted, tuned_for

HANDOFF = Kind(RECORD, "handoff")

FIRST = 3
"""How many files of a person's own an error names."""


@dataclass(frozen=True)
class HandoffRequest:
    """What to hand over, to whom, and where to.

    Attributes:
        target: plugin name, `triton`.
        release: what will load the file; None for whatever is current.
        variant: None takes the one that `bench` recommended, where the target can serve it.
        model: name on the server; None takes the bundle's.
        version: number in the model repository; others that are there already stay.
        goal: which tuned settings the sessions open with.
        session: settings on top, as for `bench --session`.
        provider: full execution provider name on which the variant is verified and will be served.
        trust_code: hand over TorchScript of a bundle that this machine did not make.
        allow_unverified: hand over without asking the gate, and say so in the record.
        force: replace a version that is there, or the folder of another model, and what a person added to it.
        preflight: a Python with the onnxruntime that will load the file, which has to answer there, too; None leaves
            it at the one installed here.
        limits: changes to the budgets that it is held to, `{"max_r": 6.0}`.
    """

    bundle: Path
    target: str
    output: Path
    release: Release | None = None
    variant: str | None = None
    model: str | None = None
    version: int = 1
    goal: Goal = USUAL
    session: str = ""
    provider: str = CPU
    trust_code: bool = False
    allow_unverified: bool = False
    force: bool = False
    preflight: Path | None = None
    limits: dict[str, float] = field(default_factory=dict)


def handoff(request: HandoffRequest, progress: Progress) -> HandoffReport:
    """Verify the variant, then write the folder, whole or not at all.

    Raises:
        DeploykitError: the bundle or the variant cannot be used, the target cannot serve it (TARGET_CANNOT_SERVE), the
            release cannot load it (TARGET_CANNOT_LOAD) or answers wrongly (PREFLIGHT_FAILED), the gate did not pass it
            (NOT_VERIFIED), or the place cannot be written.
    """
    _check_request(request)
    target: TargetPlugin = registry.load("handoff", request.target)()
    bundle = Bundle(request.bundle)
    bundle.check()
    record, reason = _chosen(bundle, request, target)
    before = _there(request, bundle, target)
    gate = Gate(bundle, request.provider, request.limits, settings=_settings(record, request))
    progress.stage("handoff", 3)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as scratch:
        trusted = request.trust_code
        found = reexport.shipped(bundle, record, request.release, Path(scratch), progress, trusted=trusted)
        return _written(request, gate, target, found, before, reason, progress)


def _written(
    request: HandoffRequest,
    gate: Gate,
    target: TargetPlugin,
    found: Shipped,
    before: Handed | None,
    choice: str,
    progress: Progress,
) -> HandoffReport:
    """Prove what goes out, lay out the folder and put it in its place."""
    bundle, record = gate.bundle, found.record
    own = _version(gate, found, request)
    given = _given(request, bundle, own, before)
    target.check(given)
    verdict, said = _proven(request, gate, found, progress)
    with _folder(request, before) as stage:
        others = _others(before, request)
        if before is not None:
            _layout.keep(request.output, stage, before, others)
        cases = travelling.cases(gate, record, stage, f"{REFERENCE}/{request.version}")
        progress.step(f"{len(cases) or 'no'} cases of the reference travel along")
        tree = target.files(given)
        _layout.lay(tree, stage)
        fresh = {
            "number": own.number, "variant": record, "bundle": bundle.digest, "verdict": verdict,
            "reason": as_reason(said), "settings": own.settings.words, "batch": own.batch,
            "files": _layout.places(tree, own), "cases": cases,
        }  # fmt: skip
        steps = bundle.manifest.preprocessing
        moved = {old.number: _layout.places(tree, old) for old in given.versions if old is not own}
        kept = [one.model_copy(update={"files": moved[one.number]}) for one in others]
        full = _layout.accompany(stage, given, target, _record(request, given, target, kept, fresh, steps))
        put(stage, _sound(full, request), request.output, HANDOFF)
    progress.step(f"wrote {request.output}")
    return HandoffReport(
        request.target, str(request.output), full.model, own.number, record.name, verdict, said, choice,
        release=_release(request), versions=tuple(one.number for one in full.versions), settings=own.settings.words,
        files=len(full.files) + 1, cases=len(cases), start=target.commands(given).start,
    )  # fmt: skip


def _chosen(bundle: Bundle, request: HandoffRequest, target: TargetPlugin) -> tuple[VariantRecord, str]:
    """The variant and why it is this one.

    Raises:
        UsageError: UNKNOWN_VARIANT, it is not there or was not made.
        RefusedError: TARGET_CANNOT_SERVE, the target has no engine for it, or for any; UNTRUSTED_CODE.
    """
    if request.variant is not None:
        bundle.file_of(request.variant)
        record, why = bundle.manifest.variant(request.variant), "it was asked for"
    else:
        record, why = recommended(bundle, target.runtimes)
    if record.runtime not in target.runtimes:
        message = f"{request.target} serves {', '.join(target.runtimes)}, and {record.name} is {record.runtime}"
        raise RefusedError(record.name, message, "name another --variant", "TARGET_CANNOT_SERVE")
    check_trust(bundle, record, trusted=request.trust_code)
    return record, why


def _settings(record: VariantRecord, request: HandoffRequest) -> SessionSettings:
    """The tuned settings of the goal with those of the request on top.

    Threads stay as they were found, though this machine may have fewer cores: another one will serve.
    """
    plain, words = parted(request.session)
    found = None if plain else tuned_for(record.tuned, request.provider, request.goal)
    settings = SessionSettings(request.provider)
    return (settings.with_words(found.settings) if found else settings).with_words(words)


def _version(gate: Gate, shipped: Shipped, request: HandoffRequest) -> Version:
    found = tuned_for(shipped.record.tuned, request.provider, request.goal)
    batch = found.batch if found is not None and request.goal == "throughput" else None
    assert gate.settings is not None
    return Version(request.version, shipped.record, shipped.files, gate.settings, batch)


def _release(request: HandoffRequest) -> str | None:
    """The release as the record and the README name it, after the target's name: `24.10`, or `ort:1.15`."""
    named = request.release
    if named is None:
        return None
    return named.name if named.kind == request.target else named.label


def _check_request(request: HandoffRequest) -> None:
    """Refuse what would ruin the bundle, and the release of another server than the target.

    Raises:
        UsageError: EXISTS, the output is the bundle, in it or around it; UNKNOWN_TARGET.
    """
    output, bundle = request.output.resolve(), request.bundle.resolve()
    if output.is_relative_to(bundle) or bundle.is_relative_to(output):
        message = f"the bundle {request.bundle} is there, in it or around it"
        raise UsageError(str(request.output), message, "choose another path with -o", "EXISTS")
    named = request.release
    if named is not None and named.kind not in ("ort", request.target):
        hint = f"name the engine: --target ort:{named.onnxruntime}"
        raise UsageError(named.label, f"is no release of {request.target}", hint, "UNKNOWN_TARGET")


def _there(request: HandoffRequest, bundle: Bundle, target: TargetPlugin) -> Handed | None:
    """The handoff that gets one more version; None where a new one is made.

    Raises:
        UsageError: EXISTS, this version is there already, the folder is another model's or target's, or somebody put
            files of their own into it.
        RefusedError: TAMPERED, a file of it is not as recorded, or what a server would take in is not in the record.
    """
    if not (request.output / RECORD).exists():
        return None
    before = handed.load(request.output)
    name = model_name(bundle, request.model)
    pairs = {
        "target": (before.target, request.target),
        "release": (before.release, _release(request)),
        "model": (before.model, name),
    }
    differing = [f"{what} {old or 'none'} and not {new or 'none'}" for what, (old, new) in pairs.items() if old != new]
    if differing and not request.force:
        message = f"holds a handoff with {', '.join(differing)}"
        hint = "replace it with --force, or choose another path with -o"
        raise UsageError(str(request.output), message, hint, "EXISTS")
    if differing:
        return None
    if any(one.number == request.version for one in before.versions) and not request.force:
        hint = f"add a version with --version {before.versions[-1].number + 1}, or replace it with --force"
        raise UsageError(str(request.output), f"version {request.version} is there already", hint, "EXISTS")
    if _others(before, request):
        _check_same(before, bundle, request)
        _check_added(before, request, leaves(target))
        return before
    return None


def _check_same(before: Handed, bundle: Bundle, request: HandoffRequest) -> None:
    """Versions of one model share a signature, and the files of the others are as they were handed over.

    Raises:
        RefusedError: TARGET_CANNOT_SERVE, TAMPERED.
    """
    if (before.signature, before.preprocessing) != (bundle.manifest.signature, bundle.manifest.preprocessing):
        message = "its inputs, outputs or preprocessing are not those of the versions that are there"
        raise RefusedError(bundle.manifest.name, message, "give it another --model-name", "TARGET_CANNOT_SERVE")
    if changed := _layout.changed(request.output, before):
        raise _layout.tampered(request.output, changed, "is not what was handed over")


def _check_added(before: Handed, request: HandoffRequest, left: tuple[str, ...]) -> None:
    """A new version is a new folder: nothing unrecorded is taken over, and what somebody added is not lost unsaid.

    Raises:
        RefusedError: TAMPERED, it lies where the reference or a model does.
        UsageError: EXISTS, it lies elsewhere.
    """
    own = []
    for path, inside in _layout.added(request.output, before, left):
        if inside:
            raise _layout.tampered(request.output, path, "was not handed over")
        own.append(path)
    if own and not request.force:
        more = f" and {len(own) - FIRST} more" if len(own) > FIRST else ""
        message = f"holds what was not handed over: {', '.join(own[:FIRST])}{more}"
        raise UsageError(str(request.output), message, "move it away, or drop it with --force", "EXISTS")


def _others(before: Handed | None, request: HandoffRequest) -> list[HandedVersion]:
    """Versions that stay."""
    return [] if before is None else [one for one in before.versions if one.number != request.version]


def _given(request: HandoffRequest, bundle: Bundle, own: Version, before: Handed | None) -> Given:
    olds = [
        Version(
            one.number,
            one.variant,
            {name: request.output / path for name, path in one.files.items()},
            SessionSettings(request.provider).with_words(one.settings),
            one.batch,
        )
        for one in _others(before, request)
    ]
    versions = tuple(sorted((*olds, own), key=lambda one: one.number))
    name = model_name(bundle, request.model)
    release = request.release.server if request.release is not None else None
    return Given(name, bundle.manifest.signature, versions, release, request.provider)


def _proven(
    request: HandoffRequest, gate: Gate, shipped: Shipped, progress: Progress
) -> tuple[Literal["pass", "unverified"], str]:
    """The gate's verdict on the file that goes out with the settings that go out, and its reason.

    Raises:
        RefusedError: NOT_VERIFIED, PREFLIGHT_FAILED.
    """
    notes = [shipped.note] if shipped.note else []
    if request.preflight is not None:
        notes.append(preflight.preflight(gate, shipped, request.preflight, request.release))
        progress.step(notes[-1])
    if request.allow_unverified:
        progress.step("not verified, as --allow-unverified asks")
        return "unverified", "; ".join(["--allow-unverified was given", *notes])
    record = shipped.record
    with Pool(Limits.for_model(gate.bundle.largest_file)) as pool:
        trial = Trial(gate, pool, progress, trusted=True, reproducers=None)
        report = trial.of(record, shipped.artifact)
    if report.verdict != "pass":
        message = f"verify says {report.verdict}, {report.code}: {report.reason}"
        hint = f"see deploykit verify {request.bundle}, or give --allow-unverified, which the record will say"
        raise RefusedError(record.name, message, hint, "NOT_VERIFIED")
    return "pass", "; ".join([report.reason, *notes])


@contextmanager
def _folder(request: HandoffRequest, before: Handed | None) -> Iterator[Path]:
    """A directory beside the target's place to build in; what the system says of files becomes our error."""
    with staging(request.output, force=request.force or before is not None, kind=HANDOFF) as stage:
        try:
            yield stage
        except OSError as error:
            raise from_os_error(error, str(request.output)) from error


def _sound(full: Handed, request: HandoffRequest) -> str:
    """The record's JSON, read back as whoever adds the next version will read it."""
    text = full.to_json()
    handed.parse(text.encode(), f"{request.output.name}/{RECORD}", "report this")
    return text


def _record(
    request: HandoffRequest,
    given: Given,
    target: TargetPlugin,
    kept: list[HandedVersion],
    fresh: dict[str, Any],
    steps: Preprocessing | None,
) -> Handed:
    """All but the digests.

    Raises:
        RefusedError: MALFORMED, a name or a text of the bundle is none that a record holds.
    """
    specs = given.signature.inputs
    try:
        versions = tuple(sorted((*kept, HandedVersion(**fresh)), key=lambda one: one.number))
        return Handed(
            target=request.target,
            release=_release(request),
            model=given.model,
            speaks=target.speaks,
            provider=request.provider,
            signature=given.signature,
            preprocessing=steps,
            inputs=tuple(spec.name for spec in specs),
            fixed_last={spec.name: bool(spec.shape) and isinstance(spec.shape[-1], int) for spec in specs},
            versions=versions,
            files={},
            deploykit=version("deploykit"),
        )
    except ValidationError as error:
        raise RefusedError(given.model, strict_json.first_fault(error), "rename it and export again") from error
