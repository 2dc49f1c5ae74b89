"""Laying out a handoff folder: the target's own files, and what every folder gets besides."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from deploykit.bundle import RelativePath, digest_of
from deploykit.errors import InternalError, RefusedError
from deploykit.handed import RECORD, REFERENCE, Handed, HandedVersion
from deploykit.handoff import _check, _readme
from deploykit.handoff.interface import Given, TargetPlugin, Tree, Version

REQUIREMENTS = Path(__file__).parent / "requirements"
"""Pins by stack, shipped with the package."""

COMPILED = "__pycache__"
"""What Python leaves beside every module that it imports; it is never carried over."""

_PATH: TypeAdapter[str] = TypeAdapter(RelativePath)


def lay(tree: Tree, stage: Path) -> None:
    """Write the files of a target below `stage`, an existing directory.

    Raises:
        InternalError: a path leads out of the folder, or is none that a record can hold.
        OSError: a file cannot be written.
    """
    for path, content in tree.items():
        place = stage / _inside(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, place)
        elif isinstance(content, bytes):
            place.write_bytes(content)
        else:
            place.write_text(content, encoding="utf-8", newline="\n")


def _inside(path: str) -> str:
    try:
        return _PATH.validate_python(path, strict=True)
    except ValidationError as error:
        raise InternalError("handoff", f"{path!r} is no path in a handoff folder", "report this") from error


def places(tree: Tree, version: Version) -> dict[str, str]:
    """Where the files of a version went: name beside the artifact to path in the folder.

    Raises:
        InternalError: the target left one out.
    """
    by_source = {content: path for path, content in tree.items() if isinstance(content, Path)}
    missing = [name for name, source in version.files.items() if source not in by_source]
    if missing:
        raise InternalError("handoff", f"the target left out {missing[0]}", "report this")
    return {name: by_source[source] for name, source in version.files.items()}


def accompany(stage: Path, given: Given, target: TargetPlugin, record: Handed) -> Handed:
    """Add what every folder has: the pinned requirements, `check.py`, the README; gives the record with all digests.

    Args:
        stage: holds the target's files and the reference already.
        given: what is handed over.
        target: the plugin.
        record: complete but for `files`.

    Raises:
        OSError: a file cannot be written.
    """
    pins = REQUIREMENTS / f"{target.stack}.txt"
    if target.stack and pins.is_file():
        shutil.copyfile(pins, stage / "requirements.txt")
    if record.speaks:
        shutil.copyfile(_check.__file__, stage / "check.py")
    there = record.model_copy(update={"files": digests(stage)})
    text = _readme.readme(there, target, target.commands(given), _pinned(stage))
    (stage / "README.md").write_text(text, encoding="utf-8", newline="\n")
    return record.model_copy(update={"files": digests(stage)})


def _pinned(stage: Path) -> str:
    """The onnxruntime that the folder's requirements pin; empty where there is none."""
    pins, package = stage / "requirements.txt", stage / "package.json"
    if pins.is_file():
        words = (line.split()[0] for line in pins.read_text(encoding="utf-8").splitlines() if line.strip())
        return next((word.partition("==")[2] for word in words if word.startswith("onnxruntime==")), "")
    if package.is_file():
        named: dict[str, Any] = json.loads(package.read_text(encoding="utf-8"))
        return str(named.get("dependencies", {}).get("onnxruntime-node", ""))
    return ""


def keep(folder: Path, stage: Path, record: Handed, versions: Iterable[HandedVersion]) -> None:
    """Copy the reference's cases of versions that stay; what is copied is what was held to its digest.

    Raises:
        RefusedError: TAMPERED, a case is missing, a link, behind a link, or another one.
        OSError: a file cannot be read or written.
    """
    for case in (case for one in versions for case in one.cases):
        if _linked(folder, case.file):
            raise tampered(folder, case.file, "is a link")
        raw = (folder / case.file).read_bytes()
        if sha256(raw).hexdigest() != record.files[case.file]:
            raise tampered(folder, case.file, "is not what was handed over")
        place = stage / _inside(case.file)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(raw)


def digests(stage: Path) -> dict[str, str]:
    """Path to sha256 of every file below `stage` but the record."""
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    named = {path.relative_to(stage).as_posix(): path for path in files}
    return {name: digest_of(path) for name, path in named.items() if name != RECORD}


def changed(folder: Path, record: Handed) -> str:
    """The first recorded file that is missing, a link or another one; empty when all are as they were."""
    for name, digest in record.files.items():
        path = folder / name
        if _linked(folder, name) or not path.is_file() or digest_of(path) != digest:
            return name
    return ""


def added(folder: Path, record: Handed, leaves: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """What is in a folder and not in its record, sorted by path, and whether a server or a check would take it in.

    That is what lies below the reference or in a folder of a model; the rest is a person's own. A folder with nothing
    recorded in it is named once, a link is named and not followed. By-products are left out.

    Args:
        folder: checked with `changed` by the caller.
        record: its own.
        leaves: by-products of the commands of its README, by their paths.
    """
    homes = {path.rpartition("/")[0] for one in record.versions for path in one.files.values()} - {""}
    homes.add(REFERENCE)
    known = {RECORD, *record.files}
    folders = {path[: at + 1] for path in known for at, letter in enumerate(path) if letter == "/"}
    for at, inside, names in os.walk(folder):
        base = Path(at).relative_to(folder)
        found = {(base / name).as_posix(): name for name in (*inside, *names)}
        inside[:] = sorted(name for path, name in found.items() if f"{path}/" in folders and name in inside)
        for path, name in sorted(found.items()):
            fine = path in known or (f"{path}/" in folders and not (folder / path).is_symlink())
            if not (fine or path in leaves or name == COMPILED):
                yield path, any(f"{path}/".startswith(f"{home}/") for home in homes)


def tampered(folder: Path, path: str, message: str) -> RefusedError:
    """The refusal of a folder of which one entry is not as it was handed over."""
    hint = "hand all versions over again, into another folder"
    return RefusedError(f"{folder.name}/{path}", message, hint, "TAMPERED")


def _linked(folder: Path, path: str) -> bool:
    """Whether a file is a link or behind one, anywhere below `folder`."""
    place = folder / path
    return any(one.is_symlink() for one in (place, *place.parents) if one != folder and one.is_relative_to(folder))
