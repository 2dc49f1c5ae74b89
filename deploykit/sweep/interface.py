"""The face of a sweep engine: halves of cells in, what became of each out, as they end.

An engine schedules nothing of its own making: `local` is a pool of threads that wait for processes, `ray` is Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from deploykit.matrix import Task
from deploykit.sweep_results import Half, Stage


@dataclass(frozen=True)
class InputFile:
    """A file that a cell reads.

    Attributes:
        here: where it lies on this machine.
        there: where it lies below the folder that it travels in.
        sha256: of its bytes when the sweep was planned.
    """

    here: Path
    there: str
    sha256: str


@dataclass(frozen=True)
class Job:
    """One half of one cell.

    Attributes:
        key: of the cell; `label` is its name for people.
        recipe: the cell's settings; what `files` holds is named as there.
        named: key of the recipe (`source`, `checkpoint`, `samples`) to the file or folder in it, here and there.
        files: all that it reads.
        bundle: where the bundle is, or goes, here; its last part names the model.
        home: working folder of the commands where the files are read where they are; `python:` modules lie there.
        log: file that takes what the commands say.
        versions: of the packages, which have to be the same wherever it runs.
        bring: the bundle itself is wanted here, not only what was found out about it.
    """

    stage: Stage
    key: str
    label: str
    recipe: dict[str, Any]
    named: dict[str, tuple[Path, str]]
    files: tuple[InputFile, ...]
    bundle: Path
    home: Path
    log: Path
    task: Task = field(default_factory=Task)
    versions: dict[str, str] = field(default_factory=dict)
    bring: bool = True

    def recipe_in(self, root: Path | None) -> dict[str, Any]:
        """The recipe with the paths of a machine: those here, or where the files were laid out below `root`."""
        found = dict(self.recipe)
        for key, (here, there) in self.named.items():
            kind, colon, rest = str(found[key]).rpartition(there)
            found[key] = f"{kind}{here if root is None else root / there}{rest}" if colon else found[key]
        return found


Heard: TypeAlias = "Callable[[Job, Half], None]"
"""Told of every job as it ends, in the thread that called `run`."""


class Session(Protocol):
    """An engine at work."""

    def run(self, jobs: Sequence[Job], heard: Heard) -> None:
        """Run all jobs; returns when each was heard of, in any order.

        What goes wrong with a job is its `Half`. An interrupt ends what runs and starts nothing more.

        Raises:
            DeploykitError: the engine itself is gone, or what was brought home cannot be written.
        """


class Engine(Protocol):
    """One way to run cells; a frozen dataclass whose fields are its options."""

    def unavailable(self) -> str | None:
        """Why it cannot be used here, in one line; None when it can."""

    def opened(self, folder: Path) -> AbstractContextManager[Session]:
        """Ready to run jobs of the sweep in `folder`; what it started is gone afterwards.

        Raises:
            DeploykitError: it cannot be had: no cluster answers, say.
        """
