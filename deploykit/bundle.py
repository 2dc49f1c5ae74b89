"""The directory that holds a model's variants, reference and reports: written whole or not at all, checked before use.

`Manifest` is the record (pydantic, strict); `publish.py` puts a bundle in its place.
`Bundle` opens one: sizes, then digests, then that the set of files is exactly the manifest's.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Container, Iterator
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from deploykit import strict_json
from deploykit.errors import RefusedError, UsageError, from_os_error
from deploykit.inputs import Gate
from deploykit.model import SourceSpec
from deploykit.preprocessing import Preprocessing, sound
from deploykit.reference import Case, IndexOutput, Largest, Noise, load_arrays, part
from deploykit.signature import Signature
from deploykit.tuned import TunedRecord

SCHEMA = 1
MANIFEST = "manifest.json"
REPORTS = "reports"
"""Folder beside the digested files; what is in it was measured later and is not part of the bundle's identity."""

WEIGHTS = "source/weights.safetensors"
"""All parameters and persistent buffers of the eager module, by their names in it."""

MAX_MANIFEST = 4 << 20

_SAFE = r"^[A-Za-z0-9_+=-][A-Za-z0-9._+=-]*(/[A-Za-z0-9_+=-][A-Za-z0-9._+=-]*)*$"
RelativePath = Annotated[str, StringConstraints(pattern=_SAFE, max_length=240)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Scalar = str | int | float | bool | None


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class FileRecord(_Strict):
    """One file of the bundle."""

    path: RelativePath
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class CaseRecord(_Strict):
    """One reference case; its arrays are in `file`."""

    id: Name
    file: RelativePath
    input_class: str
    gate: Gate
    rows: int | None
    seed: int
    noise: dict[str, Noise]
    layout: str = ""
    relation: str = ""
    score_noise: dict[str, float] = {}


class ReferenceRecord(_Strict):
    """How eager answered. `float64` says how the float64 answer was had; None marks a weak reference.

    It is `dispatch` (every operator in float64, casts inside the module included) or `double` (`module.double()`).
    """

    float64: str | None
    samples: str
    cases: tuple[CaseRecord, ...]
    largest: Largest | None = None
    smallest: Largest | None = None
    index_outputs: dict[str, IndexOutput] = {}


class VariantRecord(_Strict):
    """One variant. `file` is None when it could not be made; `code` and `reason` then say why.

    `tuned` holds what `bench --tune` found, one record per goal and provider. `key` is a digest of everything that the
    variant was made from (`pipeline/reuse.py`); empty in bundles written before there was one.
    """

    name: Name
    status: Literal["ready", "failed", "unavailable"]
    made_by: str
    precision: str
    runtime: Name
    file: RelativePath | None = None
    options: dict[str, Scalar | tuple[Scalar, ...]] = {}
    facts: dict[str, Scalar] = {}
    code: str = ""
    reason: str = ""
    tuned: tuple[TunedRecord, ...] = ()
    key: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""


class SourceRecord(_Strict):
    """Where the model came from. `digest` covers names, dtypes and bytes of all its tensors."""

    spec: SourceSpec
    digest: str
    parameters: int
    notes: dict[str, Scalar] = {}


class Manifest(_Strict):
    """The record of a bundle; everything in it is data, and nothing in it names code to run."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    name: Name
    source: SourceRecord
    signature: Signature
    preprocessing: Preprocessing | None = None
    reference: ReferenceRecord
    variants: tuple[VariantRecord, ...]
    versions: dict[str, str]
    files: tuple[FileRecord, ...] = ()

    def variant(self, name: str) -> VariantRecord:
        """The record of variant `name`.

        Raises:
            UsageError: the bundle has no such variant.
        """
        for record in self.variants:
            if record.name == name:
                return record
        known = ", ".join(record.name for record in self.variants)
        raise UsageError(name, f"{self.name} has no such variant", f"one of {known}", "UNKNOWN_VARIANT")

    def to_json(self) -> str:
        """Deterministic JSON, two-space indented."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


class Bundle:
    """An opened bundle. Opening reads the manifest only; `check` proves the files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        raw = _read_manifest(path)
        self.manifest = _parse(raw, path)
        self.digest = sha256(raw).hexdigest()

    def __fspath__(self) -> str:
        """A bundle can be given wherever its directory can."""
        return str(self.path)

    def check(self) -> None:
        """Prove every file: no links, size, sha256, and the set of files exactly the manifest's.

        Raises:
            RefusedError: TAMPERED, naming the first file that is not as recorded.
        """
        hint = "restore the bundle from its origin, or export it again"
        records = {record.path: record for record in self.manifest.files}
        for report in [self.path / REPORTS, *(self.path / REPORTS).rglob("*")]:
            if report.is_symlink():
                relative = report.relative_to(self.path).as_posix()
                raise RefusedError(f"{self.path.name}/{relative}", "is a link", "remove it", "TAMPERED")
        found = dict(_walk(self.path))
        for path in sorted(set(records) ^ set(found)):
            what = "is missing" if path in records else "is not in the manifest"
            raise RefusedError(f"{self.path.name}/{path}", what, hint, "TAMPERED")
        for path, record in records.items():
            info = found[path]
            if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1:
                raise RefusedError(f"{self.path.name}/{path}", "is a link", "copy it with plain cp -r", "TAMPERED")
            if info.st_size != record.size:
                message = f"has {info.st_size} bytes, the manifest says {record.size}"
                raise RefusedError(f"{self.path.name}/{path}", message, hint, "TAMPERED")
        for path, record in records.items():
            if digest_of(self.path / path) != record.sha256:
                raise RefusedError(f"{self.path.name}/{path}", "its sha256 is not the manifest's", hint, "TAMPERED")

    def file_of(self, name: str) -> Path:
        """The artifact of variant `name`.

        Raises:
            UsageError: there is no such variant, or it was not made.
        """
        record = self.manifest.variant(name)
        if record.file is None:
            raise UsageError(name, f"was not made: {record.reason}", "choose another variant", "UNKNOWN_VARIANT")
        return self.path / record.file

    @property
    def largest_file(self) -> int:
        """Bytes of the largest file: what limits of memory go by."""
        return max((record.size for record in self.manifest.files), default=0)

    def bytes_of(self, name: str) -> int:
        """Size of variant `name` in bytes, with the files beside its artifact."""
        folder = f"variants/{name}/"
        return sum(record.size for record in self.manifest.files if record.path.startswith(folder))

    def case(self, record: CaseRecord) -> Case:
        """The stored case, arrays included."""
        arrays = load_arrays(self.path / record.file)
        return Case(
            record.id,
            record.input_class,
            record.gate,
            record.rows,
            record.seed,
            part(arrays, "inputs"),
            part(arrays, "expected"),
            part(arrays, "expected64"),
            record.noise,
            arrays.get("labels"),
            record.layout,
            record.relation,
            part(arrays, "scores"),
            record.score_noise,
            part(arrays, "near"),
            part(arrays, "raw"),
        )

    @property
    def takes_reports(self) -> bool:
        """Whether reports can be written; a bundle on a read-only medium is measured all the same."""
        folder = self.path / REPORTS
        return all(os.access(place, os.W_OK) for place in (self.path, folder) if place == self.path or place.exists())

    def drop_reports(self, pattern: str, keep: Container[str] = ()) -> None:
        """Remove the files among the reports whose names fit `pattern`, but those in `keep`."""
        for path in (self.path / REPORTS).glob(pattern):
            if path.name not in keep:
                try:
                    path.unlink()  # a link itself, never what it points to
                except OSError as error:
                    raise from_os_error(error, f"{self.path.name}/{REPORTS}/{path.name}") from error

    def write_report(self, name: str, text: str) -> Path:
        """Write `reports/name` beside the digested files, whole or not at all."""
        return self._put(name, lambda stream: stream.write(text.encode()))

    def write_report_file(self, name: str, source: Path) -> None:
        """Copy `source` to `reports/name`, whole or not at all."""

        def copy(stream: BinaryIO) -> None:
            with source.open("rb") as content:
                shutil.copyfileobj(content, stream)

        self._put(name, copy)

    def _put(self, name: str, fill: Callable[[BinaryIO], object]) -> Path:
        """Whoever made the bundle may have laid links here: none is followed."""
        path = self.path / REPORTS / name
        subject = f"{self.path.name}/{REPORTS}/{name}"
        try:
            path.parent.mkdir(exist_ok=True)
            if path.parent.is_symlink():
                raise RefusedError(subject, "its folder is a link", "copy the bundle with plain cp -r", "TAMPERED")
            partial = path.with_name(f".{name}.partial")
            partial.unlink(missing_ok=True)
            with partial.open("xb") as stream:
                fill(stream)
            return partial.replace(path)
        except OSError as error:
            raise from_os_error(error, subject) from error


def digest_of(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    try:
        with path.open("rb") as stream:
            return file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise from_os_error(error, path.name) from error


def record_files(root: Path) -> tuple[FileRecord, ...]:
    """A record of every file below `root` but the manifest and the reports."""
    return tuple(
        FileRecord(path=path, size=info.st_size, sha256=digest_of(root / path)) for path, info in sorted(_walk(root))
    )


def _walk(root: Path) -> Iterator[tuple[str, Any]]:
    """Relative path and lstat of everything below `root` that is no plain directory."""
    for path in root.rglob("*"):
        relative = path.relative_to(root).as_posix()
        info = path.lstat()
        if relative == MANIFEST or relative.split("/")[0] == REPORTS or stat.S_ISDIR(info.st_mode):
            continue
        yield relative, info


def _read_manifest(path: Path) -> bytes:
    manifest = path / MANIFEST
    if path.is_dir() and not manifest.is_file():
        raise UsageError(
            str(path), "this directory is no bundle", "make one with: deploykit export -o BUNDLE", "NOT_A_BUNDLE"
        )
    try:
        if manifest.is_symlink():
            raise RefusedError(str(manifest), "is a link", "copy the bundle with plain cp -r", "TAMPERED")
        if manifest.lstat().st_size > MAX_MANIFEST:
            raise RefusedError(str(manifest), f"is larger than {MAX_MANIFEST} bytes", "export the bundle again")
        return manifest.read_bytes()
    except NotADirectoryError as error:
        hint = "give the directory that deploykit export wrote"
        raise UsageError(str(path), "this file is no bundle", hint, "NOT_A_BUNDLE") from error
    except OSError as error:
        raise from_os_error(error, str(path)) from error


def _parse(raw: bytes, path: Path) -> Manifest:
    subject, hint = f"{path.name}/{MANIFEST}", "restore the bundle from its origin, or export it again"
    try:
        data = strict_json.parse(raw)
        if isinstance(data, dict) and data.get("schema") != SCHEMA:
            message = f"schema {data.get('schema')!r} is unknown, this deploykit reads {SCHEMA}"
            raise RefusedError(subject, message, "use the deploykit that wrote it, or export again")
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        raise RefusedError(subject, strict_json.first_fault(error), hint) from error
    except (ValueError, RecursionError) as error:
        raise RefusedError(subject, f"not valid JSON: {error}", hint) from error
    _check_consistent(manifest, subject, hint)
    return manifest


def _check_consistent(manifest: Manifest, subject: str, hint: str) -> None:
    if manifest.preprocessing is not None and (fault := sound(manifest.preprocessing)):
        raise RefusedError(subject, f"preprocessing: {fault}", hint)
    files = [record.path for record in manifest.files]
    named = [r.file for r in manifest.variants if r.file is not None] + [r.file for r in manifest.reference.cases]
    names = [record.name for record in manifest.variants]
    for what, items in (("file", files), ("variant", names)):
        if len(set(items)) != len(items):
            raise RefusedError(subject, f"a {what} is listed twice", hint)
    if missing := sorted(set(named) - set(files)):
        raise RefusedError(subject, f"{missing[0]} has no digest", hint)
    for record in manifest.variants:
        if record.file is not None and not re.match(rf"^variants/{re.escape(record.name)}/[^/]+$", record.file):
            raise RefusedError(subject, f"{record.file} is not in the folder of {record.name}", hint)
        if len({(one.goal, one.provider) for one in record.tuned}) != len(record.tuned):
            raise RefusedError(subject, f"{record.name} has settings for a goal twice", hint)
