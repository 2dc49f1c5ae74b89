"""The record of a handoff folder, `handoff.json`: what was handed over, from which bundle, and what it was held to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from deploykit import strict_json
from deploykit.bundle import Name, RelativePath, VariantRecord
from deploykit.errors import RefusedError, UsageError, from_os_error
from deploykit.session import CPU
from deploykit.signature import Signature

RECORD = "handoff.json"
"""Name of the record in a handoff folder; a folder without it is not ours to replace."""

MAX_RECORD = 4 << 20

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[int, Field(ge=1, le=2**31 - 1)]


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
        files: name beside the artifact to its place in this folder.
    """

    number: Number
    variant: VariantRecord
    bundle: Digest
    verdict: Literal["pass", "unverified"]
    reason: str = ""
    settings: str = ""
    batch: int | None = None
    files: dict[str, RelativePath]
    cases: tuple[HandedCase, ...]


class Handed(_Strict):
    """A handoff folder's record.

    Attributes:
        release: what was named to load it, `24.10` of the target itself, else `ort:1.15`; None where nobody named one.
        inputs: names in call order; `fixed_last` tells which of them have a fixed last dim, for the check that wrong
            shapes are refused.
        files: path to sha256 of every file but this record.
        deploykit: version that wrote it.
    """

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    target: str
    release: str | None = None
    model: Name
    speaks: Literal["oip", "mlflow", ""]
    provider: str = CPU
    signature: Signature
    inputs: tuple[str, ...]
    fixed_last: dict[str, bool]
    versions: tuple[HandedVersion, ...]
    files: dict[str, Digest]
    deploykit: str

    def to_json(self) -> str:
        """Deterministic JSON, two-space indented."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


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
    try:
        strict_json.parse(raw)
        return Handed.model_validate_json(raw)
    except ValidationError as error:
        raise RefusedError(subject, strict_json.first_fault(error), hint) from error
    except (ValueError, RecursionError) as error:
        raise RefusedError(subject, f"not valid JSON: {error}", hint) from error
