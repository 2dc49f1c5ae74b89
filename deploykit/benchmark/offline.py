"""Offline: all samples are there at once. A sweep over batch sizes until larger ones bring no more throughput."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from deploykit.benchmark import stats
from deploykit.benchmark.launch import Launch, Setting, launched, lost
from deploykit.benchmark.plan import Subject
from deploykit.benchmark.schedule import orders
from deploykit.benchmark.series import Missing
from deploykit.errors import DeploykitError
from deploykit.measurements import Sweep, SweepRow
from deploykit.progress import Progress

GAIN = 0.05
"""A doubling of the batch that brings less is a step of saturation; two of them in a row end the sweep."""

LARGEST = 1 << 16
"""No sweep goes beyond this batch."""

FEEDS_BYTES = 512 << 20
"""Largest file of input sets: they all stay in the worker's memory."""

EXTRA_ROUNDS = 3
"""Launches beyond the protocol's, for batches that a later launch was the first to reach."""


@dataclass
class Ladder:
    """What is known of one subject's sweep. Pure.

    Attributes:
        launches: readings that each batch size should have.
        only: the one batch size there is, for models that take no other; None for all powers of two.
        throughput: samples per second by batch size, one reading per launch.
        call_ns: median time of a call, likewise.
        end: why no batch larger than those measured is tried; empty as long as nothing speaks against it.
    """

    launches: int
    only: int | None = None
    throughput: dict[int, list[float]] = field(default_factory=dict)
    call_ns: dict[int, list[float]] = field(default_factory=dict)
    end: str = ""

    def add(self, batch: int, throughput: float, call_ns: float) -> None:
        """A reading of one launch."""
        self.throughput.setdefault(batch, []).append(throughput)
        self.call_ns.setdefault(batch, []).append(call_ns)

    def next(self, done: Collection[int]) -> int | None:
        """The batch that a launch which has tried `done` measures next; None when it is through.

        Every launch measures what another one has measured, and goes on while the medians still rise.
        """
        steps = [1 << power for power in range(LARGEST.bit_length())] if self.only is None else [self.only]
        for batch in steps:
            known = batch in self.throughput
            if not known and (self.end or self.saturating is not None):
                return None
            if batch not in done and len(self.throughput.get(batch, ())) < self.launches:
                return batch
        return None

    def gains(self) -> dict[int, float | None]:
        """By how much the median throughput of a batch is above that of half the batch."""
        pooled = {batch: median(found) for batch, found in sorted(self.throughput.items())}
        return {b: pooled[b] / pooled[b // 2] - 1 if b // 2 in pooled else None for b in pooled}

    @property
    def saturating(self) -> int | None:
        """The batch after which two doublings in a row gained less than `GAIN`; None while there is none."""
        small = [batch for batch, gain in self.gains().items() if gain is not None and gain < GAIN]
        return next((batch // 2 for batch in small if 2 * batch in small), None)

    @property
    def stopped(self) -> str:
        """Why the sweep ended where it did."""
        if self.only is not None:
            return f"the model's batch is fixed at {self.only}"
        if (best := self.saturating) is not None:
            return f"saturated: neither {2 * best} nor {4 * best} gains {GAIN:.0%} over half of it"
        return self.end or f"{LARGEST} is the largest batch tried"

    def rows(self) -> tuple[SweepRow, ...]:
        """A row per batch size."""
        rows = []
        for batch, gain in self.gains().items():
            found = stats.median_interval(self.throughput[batch])
            sure = found.level > 0
            rows.append(
                SweepRow(
                    batch,
                    found.estimate,
                    (found.low, found.high) if sure else None,
                    found.level if sure else None,
                    median(self.call_ns[batch]),
                    gain,
                    len(self.throughput[batch]),
                )
            )
        return tuple(rows)


@dataclass
class Offline:
    """The sweep of several subjects.

    Attributes:
        subjects: what to measure, names unique.
        setting: what launches share; the protocol says how many there are.
        feeds: gives the file with the input sets of a batch size.
        batched: the model takes any batch size; else the subjects have their one.
        memory_bytes: what a worker may use.
        limit_s: wall time for all of it; every turn of a subject has its share.
        progress: told one step per launch and subject.
        clock: seconds, from any origin.
        missing: who could not be measured, and why.
        ladders: the readings, in the order of the subjects.
    """

    subjects: Sequence[Subject]
    setting: Setting
    feeds: Callable[[int], Path]
    batched: bool
    memory_bytes: int
    limit_s: float
    progress: Progress
    clock: Callable[[], float] = time.monotonic
    missing: list[Missing] = field(default_factory=list)
    ladders: list[Ladder] = field(default_factory=list)

    def run(self) -> tuple[Sweep, ...]:
        """Sweep; a subject that fails is in `missing` with its reason, the others go on."""
        launches = self.setting.protocol.launches
        self.ladders = [Ladder(launches, None if self.batched else min(one.feeds)) for one in self.subjects]
        self._facts: dict[int, dict[str, object]] = {}
        self._lost: set[int] = set()
        self._until = self.clock() + self.limit_s
        self._turns = launches * len(self.subjects)
        self.progress.stage("offline", self._turns)
        rounds = orders(len(self.subjects), self.setting.protocol.seed, 0)
        for launch in range(launches + EXTRA_ROUNDS):
            for index in next(rounds):
                extra = launch >= launches
                if self._wanted(index, launch):
                    self._turn(index, launch)
                if not extra:
                    self._turns -= 1
                    self.progress.step(f"{self.subjects[index].name}, launch {launch + 1} of {launches}")
        return tuple(self._sweep(index) for index in range(len(self.subjects)))

    def _wanted(self, index: int, launch: int) -> bool:
        """The first launch is always made; later ones while there is time and something to measure."""
        if index in self._lost or self.ladders[index].next(()) is None:
            return False
        return launch == 0 or self.clock() < self._until

    def _turn(self, index: int, launch: int) -> None:
        """One launch of one subject, from batch 1 upwards."""
        subject, ladder = self.subjects[index], self.ladders[index]
        share = (self._until - self.clock()) / max(self._turns, 1)
        until = self.clock() + share
        done: set[int] = set()
        try:
            with launched(subject, self.setting, check=launch == 0) as worker:
                self._facts[index] = worker.facts
                while (batch := ladder.next(done)) is not None:
                    if batch not in ladder.throughput and done and self.clock() > until:
                        ladder.end = f"its share of {self.limit_s:g} s was used up after batch {max(done)}"
                        break
                    if done and self.clock() > self._until:
                        break
                    done.add(batch)
                    if not self._reading(worker, ladder, batch):
                        break
        except DeploykitError as error:
            self._lost.add(index)
            self.missing.append(lost(subject.name, launch, error))

    def _reading(self, worker: Launch, ladder: Ladder, batch: int) -> bool:
        """Measure one batch; False where the worker is of no further use."""
        try:
            feeds = self.feeds(batch)
            worker.warm_up(batch, feeds)
            block = worker.block(batch)
            peak = worker.memory()
        except DeploykitError as error:
            if not ladder.throughput or batch in ladder.throughput:
                raise
            ladder.end = f"batch {batch} did not run: {error.code}: {error.message}"
            return worker.worker.alive
        typical = float(np.median(block.call_ns))
        ladder.add(batch, stats.throughput(block.calls, batch, block.busy_ns), typical)
        if not ladder.end and batch == max(ladder.throughput):
            ladder.end = self._too_much(batch, typical, peak, feeds.stat().st_size)
        return True

    def _too_much(self, batch: int, call_ns: float, peak: int | None, feeds_bytes: int) -> str:
        """Why twice the batch is not tried; empty where nothing speaks against it."""
        if 2 * call_ns > self.setting.protocol.block_limit_ns:
            return f"one call of batch {batch} takes {call_ns / 1e9:.1f} s"
        if peak is not None and 2 * peak > self.memory_bytes:
            return f"memory: the worker used {peak / 1e6:.0f} MB at batch {batch}"
        if 2 * feeds_bytes > FEEDS_BYTES:
            return f"memory: the inputs of batch {batch} are {feeds_bytes / 1e6:.0f} MB"
        return ""

    def _sweep(self, index: int) -> Sweep:
        """What came of one subject."""
        subject, ladder = self.subjects[index], self.ladders[index]
        why = next((one for one in self.missing if one.subject == subject.name), None)
        rows = () if why else ladder.rows()
        facts = self._facts.get(index, {})
        settings = subject.settings
        if not rows:
            reason = f"{why.code}: {why.reason}" if why else "nothing was measured"
            return Sweep(subject.name, settings.provider, settings.threads, "not_measured", reason)
        best = max(rows, key=lambda row: row.throughput_per_s)
        chosen = next((row for row in rows if row.batch == ladder.saturating), best)
        threads = facts.get("threads")
        return Sweep(
            subject.name,
            str(facts["provider"]),
            threads if isinstance(threads, int) else None,
            "measured",
            "",
            rows,
            chosen.batch,
            chosen.throughput_per_s,
            ladder.saturating is not None,
            ladder.stopped,
        )
