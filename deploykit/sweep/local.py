"""This machine: as many cells at once as asked for, each command a process; latency is measured one cell at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path

from deploykit.environment import usable_cores
from deploykit.sweep._half import half
from deploykit.sweep.interface import Heard, Job
from deploykit.sweep_results import Half


@dataclass(frozen=True)
class Engine:
    """A pool of threads that wait for processes.

    Attributes:
        jobs: cells at once; 0 is as many as fit on half the usable cores, at least one.
        address: nothing here.
    """

    jobs: int = 0
    address: str = ""

    def unavailable(self) -> str | None:
        """None: nothing is needed."""
        return None

    @contextmanager
    def opened(self, folder: Path) -> Iterator[_Session]:
        """A pool; nothing is left of it afterwards."""
        del folder
        yield _Session(self.jobs)


@dataclass(frozen=True)
class _Session:
    jobs: int

    def run(self, jobs: Sequence[Job], heard: Heard) -> None:
        """See `interface.Session`: first what may run beside others, then what measures, one after another."""
        proving = [job for job in jobs if job.stage == "prove"]
        self._pool(proving, self.jobs or _fitting(proving), heard)
        self._pool([job for job in jobs if job.stage == "measure"], 1, heard)

    def _pool(self, jobs: Sequence[Job], width: int, heard: Heard) -> None:
        if not jobs:
            return
        stop, gpu = threading.Event(), threading.Lock()
        pool = ThreadPoolExecutor(width)
        try:
            waiting: dict[Future[Half], Job] = {pool.submit(_run, job, stop, gpu): job for job in jobs}
            for ended in as_completed(waiting):
                heard(waiting[ended], ended.result())
        except BaseException:
            stop.set()  # also for a disk that is full: nothing that went on could be recorded
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _fitting(jobs: Sequence[Job]) -> int:
    """Half the cores: besides the counted threads, exporters and engines have some of their own."""
    widest = max((job.task.cpus for job in jobs), default=1)
    return max(1, int(usable_cores()) // max(2, widest))


def _run(job: Job, stop: threading.Event, gpu: threading.Lock) -> Half:
    """One half; those that want a GPU wait for each other, since nobody shares out its memory here."""
    if (file := next((file for file in job.files if _digest(file.here) != file.sha256), None)) is not None:
        hint = "run the sweep again: the cell is another one now"
        return Half(6, "CHANGED", f"{file.here.name} was changed while the sweep was running", hint)
    with gpu if job.task.gpus else nullcontext():
        done = half(job, job.bundle, None, stop.is_set, os.environ)
    return replace(done, alone=True if job.stage == "measure" else None)


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
