"""The record of a handoff folder, `handoff.json`: what was handed over, from which bundle, and what it was held to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from deploykit import strict_json
from deploykit.bundle import Name, RelativePath, VariantRecord
from deploykit.errors import RefusedError, UsageError, escape, from_os_error
from deploykit.preprocessing import Preprocessing, sound
from deploykit.session import CPU, SessionSettings
from deploykit.signature import Signature

RECORD = "handoff.json"
"""Name of the record in a handoff folder; a folder without it is not ours to replace."""

REFERENCE = "reference"
"""Folder of the reference's cases that travel along, one below it per version."""

MAX_RECORD = 4 << 20

MAX_REASON = 800

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[int, Field(ge=1, le=2**31 - 1)]
_PLAIN = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029`]*$"
Line = Annotated[str, StringConstraints(pattern=_PLAIN, max_length=120)]
"""Goes into a README as it is: no control characters, line separators or backticks."""

Reason = Annotated[str, StringConstraints(pattern=_PLAIN, max_length=MAX_REASON)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class HandedCase(_Strict):
    """One case of the reference that travels along.

    Attributes:
        file: `.npz` with `inputs/NAME` and `expected/NAME`, the float64 answers (or the exact integers).
        limits: per judged output the largest root mean square error; None asks for equality.
    """

    id: Name
    file: RelativePath
    limits: dict[str, float | None]


class HandedVersion(_Strict):
    """One version of the model in the folder.

    Attributes:
        bundle: sha256 of the manifest of the bundle that it is from.
        verdict: what the gate said when it was handed over; `unverified` where it was not asked.
        settings: of the session, in the words of `SessionSettings.words`.
        files: name beside the artifact to its place in this folder; a name has no folder, so that it cannot lead out.
    """

    number: Number
    variant: VariantRecord
    bundle: Digest
    verdict: Literal["pass", "unverified"]
    reason: Reason = ""
    settings: Annotated[str, StringConstraints(max_length=200)] = ""
    batch: Number | None = None
    files: dict[Name, RelativePath]
    cases: tuple[HandedCase, ...]

    @field_validator("settings")
    @classmethod
    def _known(cls, text: str) -> str:
        """A record comes from anywhere: words that no session has are refused with it."""
        try:
            SessionSettings().with_words(text)
        except UsageError as error:
            raise ValueError(f"{error.subject}: {error.message}") from error
        return text


class Handed(_Strict):
    """A handoff folder's record.

    Attributes:
        release: what was named to load it, `24.10` of the target itself, else `ort:1.15`; None where nobody named one.
        inputs: names in call order; `fixed_last` tells which of them have a fixed last dim, for the check that wrong
            shapes are refused.
        preprocessing: what raw images go through, in the module or before it; None where nobody said so.
        files: path to sha256 of every file but this record.
        deploykit: version that wrote it.
    """

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    target: Name
    release: Line | None = None
    model: Name
    speaks: Literal["oip", "mlflow", ""]
    provider: Line = CPU
    signature: Signature
    preprocessing: Preprocessing | None = None
    inputs: tuple[str, ...]
    fixed_last: dict[str, bool]
    versions: tuple[HandedVersion, ...]
    files: dict[RelativePath, Digest]
    deploykit: Line

    @field_validator("preprocessing")
    @classmethod
    def _sound(cls, steps: Preprocessing | None) -> Preprocessing | None:
        if steps is not None and (fault := sound(steps)):
            raise ValueError(fault)
        return steps

    def to_json(self) -> str:
        """Deterministic JSON, two-space indented."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def as_reason(text: str) -> str:
    """`text` as a record may hold it: on one line, without backticks, at most `MAX_REASON` characters."""
    return escape(text.replace("`", "'"), MAX_REASON)


def load(folder: Path) -> Handed:
    """Read a folder's record.

    Raises:
        UsageError: NOT_FOUND, there is no record.
        RefusedError: MALFORMED, or TAMPERED where it is a link.
    """
    path = folder / RECORD
    subject, hint = f"{folder.name}/{RECORD}", "hand the bundle over again, into another folder"
    try:
        if path.is_symlink():
            raise RefusedError(subject, "is a link", "copy the folder with plain cp -r", "TAMPERED")
        if path.stat().st_size > MAX_RECORD:
            raise RefusedError(subject, f"is larger than {MAX_RECORD} bytes", hint)
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(str(folder), "this directory is no handoff", hint, "NOT_FOUND") from error
    except OSError as error:
        raise from_os_error(error, subject) from error
    return parse(raw, subject, hint)


def parse(raw: bytes, subject: str, hint: str) -> Handed:
    """A record from its JSON.

    Raises:
        RefusedError: MALFORMED, it is none, or one part of it contradicts another.
    """
    try:
        strict_json.parse(raw)
        record = Handed.model_validate_json(raw)
    except ValidationError as error:
        raise RefusedError(subject, strict_json.first_fault(error), hint) from error
    except (ValueError, RecursionError) as error:
        raise RefusedError(subject, f"not valid JSON: {error}", hint) from error
    if fault := next(_faults(record), ""):
        raise RefusedError(subject, fault, hint)
    return record


def _faults(record: Handed) -> Iterator[str]:
    """Where a record contradicts itself."""
    numbers = [one.number for one in record.versions]
    if not numbers or numbers != sorted(set(numbers)):
        yield "versions: at least one, each once, in ascending order"
    if record.inputs != tuple(spec.name for spec in record.signature.inputs):
        yield "inputs: not those of the signature"
    if RECORD in record.files:
        yield f"files: {RECORD} cannot hold its own digest"
    places = [path for one in record.versions for path in one.files.values()]
    if len(places) != len(set(places)):
        yield "versions: two files share one place"
    for one in record.versions:
        yield from _version_faults(one, record)


def _version_faults(one: HandedVersion, record: Handed) -> Iterator[str]:
    where, below = f"version {one.number}", f"{REFERENCE}/{one.number}/"
    if str(one.variant.file).rpartition("/")[2] not in one.files:
        yield f"{where}: its artifact is not among its files"
    for path in one.files.values():
        if path not in record.files or path.startswith(f"{REFERENCE}/"):
            yield f"{where}: {path} is not a file of the folder that a version can have"
    for case in one.cases:
        if case.file not in record.files or case.file.rpartition("/")[0] + "/" != below:
            yield f"{where}: {case.file} is not a file below {below}"
    if len({case.file for case in one.cases}) != len(one.cases):
        yield f"{where}: two cases share one file"
