"""Run the launches: fresh workers, one at a time on the processor, in balanced random turns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from deploykit.benchmark.covariates import Round, Senses, Surroundings, Watch
from deploykit.benchmark.launch import Judge, Launch, Setting, lost
from deploykit.benchmark.plan import Protocol, Subject
from deploykit.benchmark.schedule import orders
from deploykit.benchmark.series import Block, Measured, Missing, Series
from deploykit.benchmark.worker import OpenWorker
from deploykit.errors import DeploykitError
from deploykit.progress import Progress

Enough: TypeAlias = Callable[[Measured], bool]
"""Whether what was measured so far is precise enough; it must not ask which way the answer goes."""


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
        open_worker: starts the child process of a subject.
        progress: told one step per launch and subject.
        judge: asked once per subject, about its answer to `check_case`, before anything is timed.
        enough: asked after the planned launches; as long as it says no, some are added. None adds none.
        senses: the clock and what is read beside the readings; None takes this machine's.
        first: number of the first launch, where others were made before.
    """
    run = _Run(subjects, Setting(protocol, open_worker, judge), progress, senses or Senses(), first)
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
class _Run:
    subjects: Sequence[Subject]
    setting: Setting
    progress: Progress
    senses: Senses
    first: int
    series: list[Series] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    launches: list[Surroundings] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.protocol = self.setting.protocol
        self.batches = sorted({batch for subject in self.subjects for batch in subject.feeds})
        self.started = self.senses.clock()
        self._lost: set[tuple[str, int | None]] = set()
        self._blocks: defaultdict[tuple[str, int], list[Block]] = defaultdict(list)
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
        self._blocks.clear()
        with ExitStack() as stack:  # Ctrl-C ends every worker here
            turns: dict[int, Launch] = {}
            for index in next(self._orders[0]):
                subject = self.subjects[index]
                if self._wanted(subject):
                    turn = turns[index] = Launch(subject, self.setting, self.setting.open_worker(subject))
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

    def _round(self, turns: dict[int, Launch], batch: int, order: tuple[int, ...], launch: int, index: int) -> None:
        """A block of every subject, and what befell the machine meanwhile."""
        watch = Watch(self.senses)
        present = [turns[place] for place in order if place in turns and self._wanted(self.subjects[place], batch)]
        for turn in present:
            try:
                self._blocks[turn.subject.name, batch].append(turn.block(batch, index))
            except DeploykitError as error:
                self._lose(turn, batch, launch, error)
        if present:
            self.rounds.append(watch.ended(launch, batch, index))

    def _wanted(self, subject: Subject, batch: int | None = None) -> bool:
        if batch is None:
            return any(self._wanted(subject, one) for one in subject.feeds)
        return batch in subject.feeds and not self._lost & {(subject.name, None), (subject.name, batch)}

    def _lose(self, turn: Launch, batch: int | None, launch: int, error: DeploykitError) -> None:
        """Record why; a worker that still lives can go on with the other batches."""
        batch = batch if turn.worker.alive else None
        if batch is None:
            turn.worker.close()
        self._lost.add((turn.subject.name, batch))
        self.missing.append(lost(turn.subject.name, launch, error, batch))

    def _start(self, turn: Launch, launch: int) -> None:
        """Open, compare with the reference (first launch only), warm up every batch."""
        subject = turn.subject
        try:
            turn.open(subject.feeds[min(batch for batch in subject.feeds if self._wanted(subject, batch))])
            if launch == self.first:
                turn.check_answer()
        except DeploykitError as error:
            self._lose(turn, None, launch, error)
            return
        for batch in sorted(subject.feeds):
            if self._wanted(subject, batch):
                try:
                    turn.warm_up(batch, subject.feeds[batch])
                except DeploykitError as error:
                    self._lose(turn, batch, launch, error)

    def _finish(self, turn: Launch, launch: int) -> None:
        """Read the memory, keep the series of every batch that went through, end the worker."""
        if not self._wanted(turn.subject):
            return
        try:
            peak = turn.memory()
        except DeploykitError as error:
            self._lose(turn, None, launch, error)
            return
        turn.worker.close()
        facts = {name: turn.facts[name] for name in ("load_ms", "first_call_ms", "provider", "threads")}
        for batch in turn.repeats:
            if self._wanted(turn.subject, batch):
                blocks = tuple(self._blocks[turn.subject.name, batch])
                self.series.append(
                    Series(
                        turn.subject.name, batch, launch, blocks, peak_rss_bytes=peak, steady=turn.steady[batch],
                        pools=tuple(turn.facts["pools"]), phases=_table(turn.phases[batch]), **facts,
                    )
                )  # fmt: skip


def _share_repeats(turns: Iterable[Launch]) -> None:
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
