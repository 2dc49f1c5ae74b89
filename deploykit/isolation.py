"""Steps that touch a model run in child processes: a crash, a hang or a full memory there is one ordinary error here.

A `Worker` is one child; a `Pool` keeps one per stack and replaces those that died. `Inline` has the same face and
runs the step in this process, for the Python API's live modules.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from deploykit import child
from deploykit.errors import KINDS, DeploykitError, UsageError, WorkError

STEP_SECONDS = 300.0
"""Wall time a step may take unless its caller knows better."""

_GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """What a child may use: private memory, size of one file, and CPU seconds per step."""

    memory_bytes: int = 4 * _GIB
    file_bytes: int = 4 * _GIB
    cpu_s: int = 600

    @classmethod
    def for_model(cls, model_bytes: int) -> Limits:
        """Six times the model's size in memory and four times on disk, at least 4 GiB each.

        Raises:
            UsageError: DEPLOYKIT_MEMORY_GB, which overrides the memory, is no positive number.
        """
        text = os.environ.get("DEPLOYKIT_MEMORY_GB", "")
        try:
            forced = int(float(text) * _GIB) if text else 0
        except ValueError:
            forced = -1
        if forced < 0:
            raise UsageError("DEPLOYKIT_MEMORY_GB", f"{text} is no positive number", "give gigabytes, for example 8")
        return cls(forced or max(4 * _GIB, 6 * model_bytes), max(4 * _GIB, 4 * model_bytes))


class Caller(Protocol):
    """Whatever runs steps: a child, or this process."""

    def call(
        self, step: str, *, timeout_s: float = STEP_SECONDS, note: Callable[[str], None] | None = None, **arguments: Any
    ) -> Any:
        """Run `module:function` of `deploykit.steps` with JSON arguments and give its JSON result."""


class Inline:
    """Runs steps in this process, unlimited: for a live module that only exists here."""

    def call(
        self, step: str, *, timeout_s: float = STEP_SECONDS, note: Callable[[str], None] | None = None, **arguments: Any
    ) -> Any:
        """Run the step now; `timeout_s` cannot be kept here.

        Raises:
            DeploykitError: the step failed.
        """
        del timeout_s
        return child.run_step(step, arguments, note or _ignore)


class Process(Protocol):
    """A started child; its process id names its group."""

    pid: int

    def wait(self) -> int:
        """Exit status once it ended, the negative number of the signal that ended it."""


Start: TypeAlias = Callable[[int, int, int], Process]
"""Starts a child that reads requests from the first descriptor, answers on the second and prints to the third."""


@dataclass(frozen=True)
class _Fresh:
    """Starts a new interpreter."""

    limits: Limits
    environment: dict[str, str]

    def __call__(self, to_read: int, to_write: int, log: int) -> Process:
        return started("deploykit.child", (to_read, to_write), (), self.limits, log, self.environment)


class Worker:
    """One child process in a group of its own, killed whole at the end.

    Args:
        limits: what a new process may use; None is what the smallest model gets.
        environment: variables of a new process on top of this one's.
        start: how the child comes into being; None starts a new process.

    Raises:
        DeploykitError: from `call`, rebuilt from what the child reported; WORKER_CRASHED or TIME_LIMIT when it could
            not report. After those two the worker is dead (`alive` is False) and another must take its place.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        environment: dict[str, str] | None = None,
        start: Start | None = None,
    ) -> None:
        start = start or _Fresh(limits or Limits.for_model(0), environment or {})
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        to_child, self._to = os.pipe()
        self._from, from_child = os.pipe()
        try:
            self._process = start(to_child, from_child, self._log.fileno())
        except BaseException:
            os.close(self._to)
            os.close(self._from)
            self._log.close()
            raise
        finally:
            os.close(to_child)
            os.close(from_child)
        self.alive = True

    @property
    def pid(self) -> int:
        """Process id of the child, which also names its group."""
        return self._process.pid

    def call(
        self, step: str, *, timeout_s: float = STEP_SECONDS, note: Callable[[str], None] | None = None, **arguments: Any
    ) -> Any:
        """Run `module:function` of `deploykit.steps` in the child; arguments and result are JSON data."""
        deadline = time.monotonic() + timeout_s
        try:
            child.send(self._to, {"step": step, "arguments": arguments})
        except BrokenPipeError:
            raise self._died(step) from None
        while True:
            if not select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self.close()
                hint = "use a smaller model or fewer samples"
                raise WorkError(step, f"gave no answer within {timeout_s:g} s", hint, "TIME_LIMIT")
            answer = child.receive(self._from)
            if answer is None:
                raise self._died(step)
            if "note" in answer:
                (note or _ignore)(str(answer["note"]))
            elif "error" in answer:
                raise _rebuilt(answer["error"])
            else:
                return answer["result"]

    def pause(self) -> None:
        """Freeze the whole group (SIGSTOP), so that spinning thread pools leave the cores to others."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the group go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill the group and reap the child; safe to call twice."""
        if not self.alive:
            return
        self.alive = False
        self._signal(signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _died(self, step: str) -> WorkError:
        code = self._process.wait()
        self._log.seek(0)
        said = self._log.read()[-4000:].decode(errors="replace").strip()
        self.close()
        reason = _signal_name(-code) if code < 0 else f"exit status {code}"
        last = said.splitlines()[-1] if said else "it printed nothing"
        error = WorkError(step, f"the worker process died of {reason} ({last})", _hint_for(-code), "WORKER_CRASHED")
        error.detail = said
        return error


def started(
    module: str,
    fds: tuple[int, ...],
    words: tuple[str, ...],
    limits: Limits,
    log: int,
    environment: dict[str, str],
    also: tuple[int, ...] = (),
) -> subprocess.Popen[bytes]:
    """A new interpreter in a session of its own that runs `module.main` with descriptors, words and limits.

    Args:
        module: of deploykit.
        fds: inherited, and its first arguments.
        words: its next arguments.
        limits: its last argument, as JSON.
        log: descriptor that it prints to.
        environment: variables on top of this process's.
        also: descriptors that are inherited under their numbers, and no arguments.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *map(str, fds), *words, json.dumps(asdict(limits))],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=(*fds, *also),
        start_new_session=True,
        env={**os.environ, **_QUIET, **environment},
    )


class Pool:
    """One worker per stack, started when first asked for and replaced when it died."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits
        self._workers: dict[str, Worker] = {}

    def worker(self, stack: str) -> Worker:
        """The live worker of `stack`."""
        worker = self._workers.get(stack)
        if worker is None or not worker.alive:
            worker = self._workers[stack] = Worker(self._limits)
        return worker

    def retire(self, stack: str) -> None:
        """End the worker of `stack`, if there is one; its memory is free for others."""
        if stack in self._workers:
            self._workers.pop(stack).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.close()


_QUIET = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime starts its telemetry when it is imported, before any call can stop it
    "PYTHONUNBUFFERED": "1",
    "PYTHONUTF8": "1",  # torch's exporter prints emoji, and dies of them under ASCII
}


def _ignore(text: str) -> None:
    """Nobody listens to this note."""


def _rebuilt(data: dict[str, Any]) -> DeploykitError:
    kind = KINDS.get(data["exit_code"], DeploykitError)
    error = kind(data["subject"], data["message"], data["hint"], data["code"])
    error.detail = data["detail"]
    return error


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _hint_for(number: int) -> str:
    if number == signal.SIGKILL:
        return "the system may have run out of memory; try a smaller batch or model"
    if number == signal.SIGXCPU:
        return "the step used up its CPU time; use a smaller model"
    return "the library underneath crashed on this model; leave the variant out with --variants"
