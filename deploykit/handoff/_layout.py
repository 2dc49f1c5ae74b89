"""Laying out a handoff folder: the target's own files, and what every folder gets besides."""

from __future__ import annotations

import shutil
from pathlib import Path

from deploykit.bundle import digest_of
from deploykit.errors import InternalError
from deploykit.handed import RECORD, Handed
from deploykit.handoff import _check, _readme
from deploykit.handoff.interface import Given, TargetPlugin, Tree, Version

REFERENCE = "reference"
"""The reference's cases that travel along, a folder per version."""

REQUIREMENTS = Path(__file__).parent / "requirements"
"""Pins by stack, shipped with the package."""


def lay(tree: Tree, stage: Path) -> None:
    """Write the files of a target below `stage`, an existing directory.

    Raises:
        OSError: a file cannot be written.
    """
    for path, content in tree.items():
        place = stage / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, place)
        elif isinstance(content, bytes):
            place.write_bytes(content)
        else:
            place.write_text(content, encoding="utf-8", newline="\n")


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
    text = _readme.readme(there, target, target.commands(given))
    (stage / "README.md").write_text(text, encoding="utf-8", newline="\n")
    return record.model_copy(update={"files": digests(stage)})


def digests(stage: Path) -> dict[str, str]:
    """Path to sha256 of every file below `stage` but the record."""
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    named = {path.relative_to(stage).as_posix(): path for path in files}
    return {name: digest_of(path) for name, path in named.items() if name != RECORD}


def changed(folder: Path, record: Handed) -> str:
    """The first recorded file that is missing, a link or another one; empty when all are as they were."""
    for name, digest in record.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file() or digest_of(path) != digest:
            return name
    return ""
