"""What bench needs of a child process; `isolation.Worker` is one, tests bring others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from deploykit.benchmark.plan import Subject


class Worker(Protocol):
    """A child process of its own that runs steps; paused, none of its threads takes time from the others."""

    @property
    def alive(self) -> bool:
        """False once the process is gone."""

    def call(self, step: str, *, timeout_s: float = ..., **arguments: Any) -> Any:
        """Run `module:function` of `deploykit.steps`; arguments and result are JSON data.

        Raises:
            DeploykitError: the step failed; WORKER_CRASHED and TIME_LIMIT leave a dead worker.
        """

    def pause(self) -> None:
        """Freeze the whole process group."""

    def resume(self) -> None:
        """Let it go on."""

    def close(self) -> None:
        """Kill it and reap it; safe to call twice."""


OpenWorker: TypeAlias = Callable[[Subject], Worker]
"""Starts the process in which a subject is opened."""
