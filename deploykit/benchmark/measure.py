"""Run the launches: fresh workers, one at a time on the processor, in balanced random turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from deploykit.benchmark.covariates import Round, Senses, Surroundings, Watch
from deploykit.benchmark.plan import Protocol, Subject
from deploykit.benchmark.schedule import orders
from deploykit.benchmark.series import Block, Measured, Missing, Series
from deploykit.benchmark.worker import OpenWorker, Worker
from deploykit.errors import DeploykitError, WorkError
from deploykit.progress import Progress
from deploykit.reference import load_arrays
from deploykit.session import CPU
from deploykit.signature import Feeds

Judge: TypeAlias = Callable[[Subject, Feeds], str]
"""Compares a subject's answer to its reference case, outputs in the engine's order; an empty text means they agree."""

Enough: TypeAlias = Callable[[Measured], bool]
"""Whether what was measured so far is precise enough; it must not ask which way the answer goes."""

_GATES = {"PROVIDER_FALLBACK", "PARITY"}
"""Codes of gates that said no (exit 1), rather than of work that could not be done."""


def measure(
    subjects: Sequence[Subject],
    protocol: Protocol,
    open_worker: OpenWorker,
    progress: Progress,
    judge: Judge | None = None,
    enough: Enough | None = None,
    senses: Senses | None = None,
    first: int = 0,
) -> Measured:
    """Measure all subjects; one that fails is missing with its reason, the others go on.

    Args:
        subjects: what to measure, names unique.
        protocol: how.
        open_worker: starts a fresh child process.
        progress: told one step per launch and subject.
        judge: asked once per subject, about its answer to `check_case`, before anything is timed.
        enough: asked after the planned launches; as long as it says no, some are added. None adds none.
        senses: the clock and what is read beside the readings; None takes this machine's.
        first: number of the first launch, where others were made before.
    """
    run = _Run(subjects, protocol, open_worker, progress, judge, senses or Senses(), first)
    run.plan("bench", protocol.launches)
    ended = "planned"
    while enough is not None:
        ended = "width"
        if enough(run.found(ended)):
            break
        ended, more = run.affordable()
        if not more:
            break
        progress.note(f"intervals wider than ±{protocol.half_width:.1%}: {more} more launches")
        run.plan("bench, more launches", more)
    return run.found(ended)


@dataclass
class _Turn:
    """One subject's worker in the present launch, and what it has told so far."""

    subject: Subject
    worker: Worker
    facts: dict[str, Any] = field(default_factory=dict)
    steady: dict[int, bool] = field(default_factory=dict)
    repeats: dict[int, int] = field(default_factory=dict)
    blocks: dict[int, list[Block]] = field(default_factory=dict)
    phases: dict[int, list[list[int]]] = field(default_factory=dict)


@dataclass
class _Run:
    subjects: Sequence[Subject]
    protocol: Protocol
    open_worker: OpenWorker
    progress: Progress
    judge: Judge | None
    senses: Senses
    first: int
    series: list[Series] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    launches: list[Surroundings] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.batches = sorted({batch for subject in self.subjects for batch in subject.feeds})
        self.started = self.senses.clock()
        self._lost: set[tuple[str, int | None]] = set()
        seeds = (self.protocol.seed, self.first) if self.first else (self.protocol.seed,)
        self._orders = {key: orders(len(self.subjects), *seeds, key) for key in (0, *self.batches)}

    def found(self, ended: str) -> Measured:
        """Everything so far."""
        return Measured(
            tuple(self.series), tuple(self.missing), tuple(self.rounds), tuple(self.launches), ended
        )  # fmt: skip

    def affordable(self) -> tuple[str, int]:
        """How many launches may be added, and what ends the measurement where it is none: `launches` or `time`."""
        done, protocol = len(self.launches), self.protocol
        spent = self.senses.clock() - self.started
        fitting = protocol.more if spent <= 0 else int((protocol.limit_s - spent) / (spent / max(done, 1)))
        allowed = min(protocol.more, protocol.max_launches - done)
        return ("launches", 0) if allowed <= 0 else ("time", max(0, min(allowed, fitting)))

    def plan(self, title: str, launches: int) -> None:
        """So many launches, one after another."""
        self.progress.stage(title, launches * len(self.subjects))
        done = len(self.launches)
        for launch in range(done, done + launches):
            self.launch(self.first + launch, f"launch {launch + 1} of {done + launches}")

    def launch(self, launch: int, said: str) -> None:
        """One fresh worker per subject, opened one after another, then measured in turns, then ended."""
        self.launches.append(self.senses.surroundings(launch))
        with ExitStack() as stack:  # Ctrl-C ends every worker here
            turns: dict[int, _Turn] = {}
            for index in next(self._orders[0]):
                subject = self.subjects[index]
                if self._wanted(subject):
                    turn = turns[index] = _Turn(subject, self.open_worker())
                    stack.callback(turn.worker.close)
                    self._start(turn, launch)
                gone = "" if self._wanted(subject) else ": given up"
                self.progress.step(f"{subject.name}, {said}{gone}")
            _share_repeats(turns.values())
            for index, (batch, order) in enumerate(self._rounds()):
                self._round(turns, batch, order, launch, index)
            for turn in turns.values():
                self._finish(turn, launch)

    def _rounds(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """(batch, order of the subjects): batch after batch, the subjects take turns within each."""
        for batch in self.batches:
            yield from ((batch, order) for order in islice(self._orders[batch], self.protocol.blocks))

    def _round(self, turns: dict[int, _Turn], batch: int, order: tuple[int, ...], launch: int, index: int) -> None:
        """A block of every subject, and what befell the machine meanwhile."""
        watch = Watch(self.senses)
        present = [turns[place] for place in order if place in turns and self._wanted(self.subjects[place], batch)]
        for turn in present:
            self._block(turn, batch, launch, index)
        if present:
            self.rounds.append(watch.ended(launch, batch, index))

    def _wanted(self, subject: Subject, batch: int | None = None) -> bool:
        if batch is None:
            return any(self._wanted(subject, one) for one in subject.feeds)
        return batch in subject.feeds and not self._lost & {(subject.name, None), (subject.name, batch)}

    def _call(self, turn: _Turn, step: str, **arguments: Any) -> Any:
        """Run a step while every other worker is frozen."""
        worker = turn.worker
        worker.resume()
        try:
            return worker.call(f"measure:{step}", timeout_s=self.protocol.step_limit_s, **arguments)
        finally:
            if worker.alive:
                worker.pause()

    def _lose(self, turn: _Turn, batch: int | None, launch: int, error: DeploykitError) -> None:
        """Record why; a worker that still lives can go on with the other batches."""
        batch = batch if turn.worker.alive else None
        if batch is None:
            turn.worker.close()
        name = turn.subject.name
        self._lost.add((name, batch))
        exit_code = 1 if error.code in _GATES else error.exit_code
        self.missing.append(Missing(name, batch, launch, error.code, error.message, exit_code))

    def _start(self, turn: _Turn, launch: int) -> None:
        """Open, compare with the reference (first launch only), warm up every batch."""
        subject, protocol = turn.subject, self.protocol
        try:
            turn.facts = self._call(
                turn,
                "open",
                runtime=subject.runtime,
                artifact=str(subject.artifact),
                input_names=list(subject.input_names),
                output_names=list(subject.output_names),
                settings=asdict(subject.settings),
                feeds=str(subject.feeds[min(batch for batch in subject.feeds if self._wanted(subject, batch))]),
            )
            _check_settings(subject, turn.facts)
            if launch == self.first:
                self._check_answer(turn)
        except DeploykitError as error:
            self._lose(turn, None, launch, error)
            return
        min_ns = protocol.warm_up_ns if subject.settings.provider == CPU else protocol.device_warm_up_ns
        for batch in sorted(subject.feeds):
            if self._wanted(subject, batch):
                limits = {"min_ns": min_ns, "limit_ns": protocol.warm_up_limit_ns}
                try:
                    warm = self._call(turn, "warm_up", batch=batch, feeds=str(subject.feeds[batch]), **limits)
                    turn.steady[batch], turn.repeats[batch] = warm["steady"], warm["repeats"]
                except DeploykitError as error:
                    self._lose(turn, batch, launch, error)

    def _check_answer(self, turn: _Turn) -> None:
        """Refuse to time a wrong answer.

        Raises:
            WorkError: PARITY.
        """
        case = turn.subject.check_case
        if self.judge is None or case is None:
            return
        with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
            path = Path(folder) / "answer.safetensors"
            order = self._call(turn, "check", case=str(case), answer=str(path))
            stored = load_arrays(path)
        reason = self.judge(turn.subject, {name: stored[name] for name in order})
        if reason:
            raise WorkError(turn.subject.name, reason, "run deploykit verify", "PARITY")

    def _block(self, turn: _Turn, batch: int, launch: int, index: int) -> None:
        """One block of one subject, kept with what was measured before."""
        protocol = self.protocol
        try:
            found = self._call(
                turn,
                "block",
                batch=batch,
                min_ns=protocol.block_ns,
                limit_ns=protocol.block_limit_ns,
                min_calls=protocol.block_calls,
                discard_ns=protocol.discard_ns,
                repeats=turn.repeats[batch],
            )
        except DeploykitError as error:
            self._lose(turn, batch, launch, error)
            return
        turn.blocks.setdefault(batch, []).append(Block(np.array(found["ns"], np.int64), found["repeats"], index))
        turn.phases.setdefault(batch, []).extend(found["phases"])

    def _finish(self, turn: _Turn, launch: int) -> None:
        """Read the memory, keep the series of every batch that went through, end the worker."""
        if not self._wanted(turn.subject):
            return
        try:
            peak = self._call(turn, "memory")["peak_rss_bytes"]
        except DeploykitError as error:
            self._lose(turn, None, launch, error)
            return
        turn.worker.close()
        facts = {name: turn.facts[name] for name in ("load_ms", "first_call_ms", "provider", "threads")}
        for batch, blocks in turn.blocks.items():
            if self._wanted(turn.subject, batch):
                self.series.append(
                    Series(
                        turn.subject.name, batch, launch, tuple(blocks), peak_rss_bytes=peak, steady=turn.steady[batch],
                        pools=tuple(turn.facts["pools"]), phases=_table(turn.phases[batch]), **facts,
                    )
                )  # fmt: skip


def _share_repeats(turns: Iterable[_Turn]) -> None:
    """Give twins the larger one's number of calls to a reading: calls in a row are faster than calls one by one."""
    by_name = {turn.subject.name: turn for turn in turns}
    for turn in by_name.values():
        twin = by_name.get(turn.subject.twin)
        if twin is None:
            continue
        for batch in turn.repeats.keys() & twin.repeats.keys():
            turn.repeats[batch] = twin.repeats[batch] = max(turn.repeats[batch], twin.repeats[batch])


def _table(phases: list[list[int]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(phases, np.int64).reshape(-1, 3)


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
