"""What a cell of a sweep is made of: its files with their digests, its key, and its two jobs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath
from typing import Any

from deploykit import environment
from deploykit.errors import DeploykitError, UsageError, from_os_error
from deploykit.matrix import Cell
from deploykit.model import SourceSpec
from deploykit.results import SCHEMA
from deploykit.sweep.interface import InputFile, Job
from deploykit.sweep_results import Stage

OUTSIDE = "outside"
"""Folder for files that do not lie below the matrix's folder, when they travel."""


@dataclass(frozen=True)
class Planned:
    """A cell that is ready to run.

    Attributes:
        key: sha256 of all that defines it; `content` is without the model's name.
        recipe: see Job; without paths of this machine.
        home: the matrix's folder.
    """

    cell: Cell
    key: str
    content: str
    recipe: dict[str, Any]
    named: dict[str, tuple[Path, str]]
    files: tuple[InputFile, ...]
    versions: dict[str, str]
    home: Path

    @property
    def folder(self) -> str:
        """Of its bundle, below the sweep's: `bundles/<key>/<model>`."""
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in self.cell.model)
        return f"bundles/{self.key[:16]}/{plain.lstrip('._-') or 'model'}"

    def job(self, stage: Stage, place: Path, *, bring: bool) -> Job:
        """One half, in the sweep's folder `place`."""
        return Job(
            stage,
            self.key,
            self.cell.label,
            self.recipe,
            self.named,
            self.files,
            place / self.folder,
            self.home,
            place / "logs" / f"{self.key[:16]}.log",
            self.cell.task,
            self.versions,
            bring,
        )


def versions() -> dict[str, str]:
    """Of the packages that results depend on."""
    return environment.packages()


def plan(cell: Cell, folder: Path, packages: Mapping[str, str]) -> Planned:
    """Read the cell's files and work out its key.

    Args:
        cell: see Cell.
        folder: the matrix's; files below it keep their places to each other when they travel.
        packages: see `versions`.

    Raises:
        UsageError: NOT_FOUND, a file is not there.
        StorageError: a file cannot be read.
    """
    recipe = cell.recipe.model_dump(mode="json", by_alias=True, exclude_unset=True) | {"schema": 1}
    files: dict[str, InputFile] = {}
    named: dict[str, tuple[Path, str]] = {}
    for key, path in _paths(cell):
        there, found = _travelling(path, folder)
        named[key] = (path, there)
        recipe[key] = str(recipe[key]).replace(str(path), there)
        found += _external(cell, path, there) if key == "source" else []
        files |= {file.there: file for file in found}
    for path in cell.files:
        files |= {file.there: file for file in _travelling(path, folder)[1]}
    task = {"cpus": cell.task.cpus, "gpus": cell.task.gpus}
    digests = {name: file.sha256 for name, file in sorted(files.items())}
    content = {"schema": SCHEMA, "recipe": recipe, "files": digests, "task": task, "packages": dict(packages)}
    whole = {**content, "model": cell.model}  # its name is in the bundle
    return Planned(cell, _key(whole), _key(content), recipe, named, tuple(files.values()), dict(packages), folder)


def _key(data: dict[str, Any]) -> str:
    return sha256(json.dumps(data, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _paths(cell: Cell) -> Iterator[tuple[str, Path]]:
    """Keys of the recipe that name a file or a folder, and which."""
    spec = SourceSpec.parse(str(cell.recipe.source))
    target, _ = spec.parted
    if target and os.sep in target:  # recipe.py has made every path absolute
        yield "source", Path(target)
    for key in ("checkpoint", "samples"):
        if (value := getattr(cell.recipe, key)) is not None:
            yield key, Path(value)


def _external(cell: Cell, path: Path, there: str) -> list[InputFile]:
    """The files that hold weights of an ONNX source: beside it here, and where it travels."""
    if not str(cell.recipe.source).startswith("onnx:"):
        return []
    from deploykit.sources import _onnx_file  # imports onnx

    try:
        names = _onnx_file.read(path).beside
    except DeploykitError:  # the cell says what is wrong with it
        return []
    parent = PurePosixPath(there).parent
    return [replace(_travelling(path.parent / n, path.parent)[1][0], there=str(parent / n)) for n in names]


def _travelling(path: Path, folder: Path) -> tuple[str, list[InputFile]]:
    """Where a file or folder lies below the one that it travels in, and every file of it.

    Raises:
        UsageError: NOT_FOUND.
        StorageError: it cannot be read.
    """
    if not path.exists():
        raise UsageError(str(path), "no such file or directory", "check the path in the matrix", "NOT_FOUND")
    found = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    names = ["" if one == path else f"/{one.relative_to(path).as_posix()}" for one in found]
    try:
        digests = [_digest(one, one.stat().st_size, one.stat().st_mtime_ns) for one in found]
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    if path.is_relative_to(folder) and ".." not in path.relative_to(folder).parts:
        there = path.relative_to(folder).as_posix()
    else:  # named by what is in it: where it lies on this machine is nobody's business
        whole = sha256("".join(map("".join, zip(names, digests, strict=True))).encode()).hexdigest()
        there = f"{OUTSIDE}/{whole[:12]}/{path.name}"
    return there, [InputFile(one, there + name, d) for one, name, d in zip(found, names, digests, strict=True)]


@cache
def _digest(path: Path, size: int, changed_ns: int) -> str:
    """Once per file: a checkpoint may belong to many cells."""
    del size, changed_ns
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()
