"""How long work tells that it goes on; `cli/` decides what is drawn."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Listener for a run: stages with a known number of steps, and what each step is."""

    def stage(self, title: str, total: int) -> None:
        """A new stage begins; it has `total` steps."""

    def step(self, text: str) -> None:
        """One step of the stage is done (or was given up), described by `text`."""

    def reach(self, done: int) -> None:
        """So many steps of the stage are done, where they are not told one by one."""

    def note(self, text: str) -> None:
        """Something to show that is no step: a training epoch, a warning."""


class Silent:
    """Shows nothing."""

    def stage(self, title: str, total: int) -> None:
        """Nothing."""

    def step(self, text: str) -> None:
        """Nothing."""

    def reach(self, done: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
