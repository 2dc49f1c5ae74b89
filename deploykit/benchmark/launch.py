"""One subject in one fresh worker: opened, checked, warmed up, and frozen whenever it is not asked."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from deploykit.benchmark.open_loop import Bounds, Served
from deploykit.benchmark.plan import Protocol, Subject
from deploykit.benchmark.series import Block, Missing
from deploykit.benchmark.worker import OpenWorker, Worker
from deploykit.errors import DeploykitError, WorkError
from deploykit.reference import load_arrays
from deploykit.session import CPU
from deploykit.signature import Feeds

Judge: TypeAlias = Callable[[Subject, Feeds], str]
"""Compares a subject's answer to its reference case, outputs in the engine's order; an empty text means they agree."""

_GATES = {"PROVIDER_FALLBACK", "PARITY"}
"""Codes of gates that said no (exit 1), rather than of work that could not be done."""


@dataclass(frozen=True)
class Setting:
    """What launches of all subjects share.

    Attributes:
        protocol: its times of warm-up and blocks are used.
        open_worker: starts the child process of a subject.
        judge: asked about a subject's answer to its `check_case` in the first launch.
        folder: for what workers write; needed to serve only.
    """

    protocol: Protocol
    open_worker: OpenWorker
    judge: Judge | None = None
    folder: Path = Path()


@dataclass
class Launch:
    """A worker with an opened session; made by `launched`.

    Attributes:
        facts: what the `open` step told.
        steady: the warm-up settled, by batch size.
        repeats: calls to a reading, by batch size; may be raised before blocks are made.
        phases: `[h2d, compute, d2h]` in nanoseconds of single calls, by batch size; empty where nothing is carried.
    """

    subject: Subject
    setting: Setting
    worker: Worker
    facts: dict[str, Any] = field(default_factory=dict)
    steady: dict[int, bool] = field(default_factory=dict)
    repeats: dict[int, int] = field(default_factory=dict)
    phases: dict[int, list[list[int]]] = field(default_factory=dict)

    def call(self, step: str, timeout_s: float | None = None, **arguments: Any) -> Any:
        """Run a step; the worker is frozen before and after.

        Raises:
            DeploykitError: it failed; a dead worker is of no further use.
        """
        self.worker.resume()
        try:
            return self.worker.call(step, timeout_s=timeout_s or self.setting.protocol.step_limit_s, **arguments)
        finally:
            if self.worker.alive:
                self.worker.pause()

    def open(self, feeds: Path) -> None:
        """Open the artifact and make the first call.

        Raises:
            DeploykitError: PROVIDER_FALLBACK, THREADS_MISMATCH, or it cannot be opened.
        """
        step = "asking:open" if self.subject.clients else "measure:open"
        self.facts = self.call(step, feeds=str(feeds), **self.subject.opening)
        _check_settings(self.subject, self.facts)

    def check_answer(self) -> None:
        """Refuse to time a wrong answer, where there is a case and somebody to judge it.

        Raises:
            WorkError: PARITY.
        """
        case, judge = self.subject.check_case, self.setting.judge
        if judge is None or case is None:
            return
        with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
            path = Path(folder) / "answer.safetensors"
            order = self.call("measure:check", case=str(case), answer=str(path))
            stored = load_arrays(path)
        reason = judge(self.subject, {name: stored[name] for name in order})
        if reason:
            raise WorkError(self.subject.name, reason, "run deploykit verify", "PARITY")

    def warm_up(self, batch: int, feeds: Path) -> None:
        """Call until the time of a call settles."""
        protocol = self.setting.protocol
        on_cpu = self.subject.settings.provider == CPU
        min_ns = protocol.warm_up_ns if on_cpu else protocol.device_warm_up_ns
        limits = {"min_ns": min_ns, "limit_ns": protocol.warm_up_limit_ns}
        found = self.call("measure:warm_up", batch=batch, feeds=str(feeds), **limits)
        self.steady[batch], self.repeats[batch] = found["steady"], found["repeats"]

    def block(self, batch: int, index: int = 0, *, alone: bool = False) -> Block:
        """One block of calls for round `index`; the batch was warmed up.

        They come one after another, from each of the subject's clients, or with `alone` from a single one.
        """
        protocol = self.setting.protocol
        found = self.call(
            "asking:block" if self.subject.clients > 1 and not alone else "measure:block",
            batch=batch,
            min_ns=protocol.block_ns,
            limit_ns=protocol.block_limit_ns,
            min_calls=protocol.block_calls,
            discard_ns=protocol.discard_ns,
            repeats=self.repeats[batch],
        )
        self.phases.setdefault(batch, []).extend(found["phases"])
        return Block(np.array(found["ns"], np.int64), found["repeats"], index, found.get("wall_ns", 0))

    def alone(self, batch: int) -> float:
        """Warm up, then the median of calls one after another, in nanoseconds."""
        self.warm_up(batch, self.subject.feeds[batch])
        return float(np.median(self.block(batch, alone=True).call_ns))

    def serve(self, batch: int, rate: float, calls: int, seed: tuple[int, ...], bounds: Bounds) -> Served:
        """Serve seeded Poisson arrivals, see `open_loop.serve` and `clients.serve`."""
        path = self.setting.folder / "served.safetensors"
        limits = {name: value for name, value in asdict(bounds).items() if np.isfinite(value)}
        timeout_s = self.setting.protocol.step_limit_s + calls / rate
        found = self.call(
            "asking:serve" if self.subject.clients > 1 else "serving:serve",
            timeout_s,
            batch=batch,
            rate=rate,
            calls=calls,
            seed=list(seed),
            bounds=limits,
            answer=str(path),
        )
        arrays = load_arrays(path)
        path.unlink()
        return Served(arrays["due"], arrays["begun"], arrays["ended"], found["stopped"], arrays.get("free"))

    def memory(self) -> int | None:
        """Peak resident memory in bytes."""
        peak = self.call("measure:memory")["peak_rss_bytes"]
        return None if peak is None else int(peak)


@contextmanager
def launched(subject: Subject, setting: Setting, *, check: bool) -> Iterator[Launch]:
    """Open the subject in a new worker, which ends with the context.

    Args:
        subject: what to open.
        setting: see Setting.
        check: compare one answer with the reference before anything is timed.

    Raises:
        DeploykitError: PROVIDER_FALLBACK, THREADS_MISMATCH, PARITY, or it cannot be opened.
    """
    worker = setting.open_worker(subject)
    try:
        launch = Launch(subject, setting, worker)
        launch.open(subject.feeds[min(subject.feeds)])
        if check:
            launch.check_answer()
        yield launch
    finally:
        worker.close()


def lost(name: str, launch: int, error: DeploykitError, batch: int | None = None) -> Missing:
    """The record of a subject that is given up, at one batch size or altogether."""
    return Missing(name, batch, launch, error.code, error.message, 1 if error.code in _GATES else error.exit_code)


def _check_settings(subject: Subject, facts: dict[str, Any]) -> None:
    """Refuse to compare what runs elsewhere, or on another number of threads, than was asked.

    Raises:
        WorkError: PROVIDER_FALLBACK or THREADS_MISMATCH.
    """
    wanted = subject.settings
    if facts["provider"] != wanted.provider:
        message = f"asked for {wanted.provider}, ran on {facts['provider']}"
        raise WorkError(subject.name, message, "see deploykit doctor", "PROVIDER_FALLBACK")
    if None not in {wanted.threads, facts["threads"]} and facts["threads"] != wanted.threads:
        message = f"asked for {wanted.threads} threads, the engine says {facts['threads']}"
        raise WorkError(subject.name, message, "choose another --threads", "THREADS_MISMATCH")
