"""Progress on stderr: rich's bar on a terminal, plain timed lines everywhere else."""

from __future__ import annotations

import sys
import time

from deploykit.errors import escape


class Lines:
    """One line per step, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._done = 0
        self._total = 0
        self._title = ""

    def stage(self, title: str, total: int) -> None:
        """A stage begins; its steps are counted."""
        self._title, self._total, self._done = title, total, 0

    def step(self, text: str) -> None:
        """One step is done."""
        self._done += 1
        self._print(f"{self._title} {self._done}/{self._total}: {text}")

    def reach(self, done: int) -> None:
        """So many steps are done."""
        self._done = done

    def note(self, text: str) -> None:
        """Something beside the steps."""
        self._print(text)

    def _print(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:6.1f}s] {escape(text, 200)}", file=sys.stderr, flush=True)


class Bar:
    """A bar for the stage, finished steps above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=None)

    def stage(self, title: str, total: int) -> None:
        """A stage begins: the bar starts over."""
        self._bar.start()
        self._bar.reset(self._task, description=title, total=total)

    def step(self, text: str) -> None:
        """One step is done."""
        self.note(text)
        self._bar.advance(self._task)

    def reach(self, done: int) -> None:
        """The bar moves to there."""
        self._bar.update(self._task, completed=done)

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._bar.console.print(escape(text, 200), highlight=False, markup=False)

    def close(self) -> None:
        """Take the bar away and show the cursor again; safe to call twice."""
        try:
            self._bar.stop()
        finally:  # a Ctrl-C in the middle of `start` leaves rich half way, and `stop` raises
            self._bar.console.show_cursor(True)
