"""One subject in one fresh worker: opened, checked, warmed up, and frozen whenever it is not asked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deploykit.benchmark.measure import _GATES, Judge, _check_settings
from deploykit.benchmark.open_loop import Bounds, Served
from deploykit.benchmark.plan import Protocol, Subject
from deploykit.benchmark.series import Block, Missing
from deploykit.benchmark.worker import OpenWorker, Worker
from deploykit.errors import DeploykitError, WorkError
from deploykit.reference import load_arrays
from deploykit.session import CPU


@dataclass(frozen=True)
class Setting:
    """What launches of all subjects share.

    Attributes:
        protocol: its times of warm-up and blocks are used.
        open_worker: starts a fresh child process.
        judge: asked about a subject's answer to its `check_case` in the first launch.
        folder: for what workers write.
    """

    protocol: Protocol
    open_worker: OpenWorker
    judge: Judge | None
    folder: Path


@dataclass
class Launch:
    """A worker with an opened session; made by `launched`.

    Attributes:
        facts: what the `open` step told.
        steady: the warm-up settled, by batch size.
    """

    subject: Subject
    setting: Setting
    worker: Worker
    facts: dict[str, Any] = field(default_factory=dict)
    steady: dict[int, bool] = field(default_factory=dict)

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

    def warm_up(self, batch: int, feeds: Path) -> None:
        """Call until the time of a call settles."""
        protocol = self.setting.protocol
        on_cpu = self.subject.settings.provider == CPU
        min_ns = protocol.warm_up_ns if on_cpu else protocol.device_warm_up_ns
        limits = {"min_ns": min_ns, "limit_ns": protocol.warm_up_limit_ns}
        self.steady[batch] = self.call("measure:warm_up", batch=batch, feeds=str(feeds), **limits)["steady"]

    def block(self, batch: int) -> Block:
        """One block of calls, one after another."""
        protocol = self.setting.protocol
        found = self.call(
            "measure:block",
            batch=batch,
            min_ns=protocol.block_ns,
            limit_ns=protocol.block_limit_ns,
            min_calls=protocol.block_calls,
            discard_ns=protocol.discard_ns,
        )
        return Block(np.array(found["ns"], np.int64), found["repeats"])

    def alone(self, batch: int) -> float:
        """Warm up, then the median of calls one after another, in nanoseconds."""
        self.warm_up(batch, self.subject.feeds[batch])
        return float(np.median(self.block(batch).call_ns))

    def serve(self, batch: int, rate: float, calls: int, seed: tuple[int, ...], bounds: Bounds) -> Served:
        """Serve seeded Poisson arrivals, see `open_loop.serve`."""
        path = self.setting.folder / "served.safetensors"
        limits = {name: value for name, value in asdict(bounds).items() if np.isfinite(value)}
        timeout_s = self.setting.protocol.step_limit_s + calls / rate
        found = self.call(
            "serving:serve",
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
        return Served(arrays["due"], arrays["begun"], arrays["ended"], found["stopped"])

    def memory(self) -> int | None:
        """Peak resident memory in bytes."""
        peak = self.call("measure:memory")["peak_rss_bytes"]
        return None if peak is None else int(peak)


@contextmanager
def launched(subject: Subject, setting: Setting, *, check: bool) -> Iterator[Launch]:
    """Open the subject in a fresh worker, which ends with the context.

    Args:
        subject: what to open.
        setting: see Setting.
        check: compare one answer with the reference before anything is timed.

    Raises:
        DeploykitError: PROVIDER_FALLBACK, THREADS_MISMATCH, PARITY, or it cannot be opened.
    """
    worker = setting.open_worker()
    try:
        launch = Launch(subject, setting, worker)
        launch.facts = launch.call(
            "measure:open",
            runtime=subject.runtime,
            artifact=str(subject.artifact),
            input_names=list(subject.input_names),
            output_names=list(subject.output_names),
            settings=asdict(subject.settings),
            feeds=str(subject.feeds[min(subject.feeds)]),
        )
        _check_settings(subject, launch.facts)
        if check and setting.judge is not None and subject.check_case is not None:
            _check_answer(launch, setting.judge, subject.check_case)
        yield launch
    finally:
        worker.close()


def lost(name: str, launch: int, error: DeploykitError) -> Missing:
    """The record of a subject that is given up."""
    return Missing(name, None, launch, error.code, error.message, 1 if error.code in _GATES else error.exit_code)


def _check_answer(launch: Launch, judge: Judge, case: Path) -> None:
    """Refuse to time a wrong answer.

    Raises:
        WorkError: PARITY.
    """
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        path = Path(folder) / "answer.safetensors"
        order = launch.call("measure:check", case=str(case), answer=str(path))
        stored = load_arrays(path)
    reason = judge(launch.subject, {name: stored[name] for name in order})
    if reason:
        raise WorkError(launch.subject.name, reason, "run deploykit verify", "PARITY")
