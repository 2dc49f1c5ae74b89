"""What a search for settings asks: candidates of one variant, measured side by side in fresh processes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from deploykit.benchmark import summary
from deploykit.benchmark.measure import measure
from deploykit.benchmark.metrics import METRICS
from deploykit.benchmark.plan import MS, Protocol, Subject
from deploykit.benchmark.search import Found
from deploykit.benchmark.series import Measured, Series
from deploykit.benchmark.space import Candidate, Space
from deploykit.bundle import VariantRecord
from deploykit.measurements import BenchRow
from deploykit.pipeline.measuring import Field
from deploykit.progress import Progress
from deploykit.tune_results import Goal

SHORT = Protocol(launches=2, blocks=2, block_ns=50 * MS, warm_up_ns=100 * MS, warm_up_limit_ns=1000 * MS, quick=True)
"""A launch of the search: many of them are made, and none of them is the answer."""

FULL = Protocol(launches=10, blocks=4, block_ns=50 * MS, warm_up_ns=300 * MS, warm_up_limit_ns=2000 * MS)
"""A launch of the last comparison: `search.FULL_EXTRA_S` longer, or more where the warm-up does not settle at once."""

FIRST = 2
"""Launches of the last comparison that tell what one of them takes."""


@dataclass
class Rating:
    """Measures candidates for one variant.

    Attributes:
        rows: the table of the last comparison.
        exit_code: of what kept the default from being measured.
    """

    ground: Field
    record: VariantRecord
    space: Space
    goal: Goal
    progress: Spending
    rows: list[BenchRow] = field(default_factory=list)
    exit_code: int = 0
    runs: int = 0

    def __call__(
        self, candidates: Sequence[Candidate], launches: int, *, seconds: float | None = None
    ) -> Mapping[Candidate, Found]:
        """One interleaved run; a candidate whose answer is wrong is out before it is timed.

        Args:
            candidates: all different.
            launches: how many; with `seconds` at most.
            seconds: for the last comparison, its time: what `FIRST` launches took tells how many fit in.
        """
        subjects = {one: self._subject(one) for one in candidates}
        seed = self.ground.request.seed + self.runs
        self.runs += 1
        protocol = replace(SHORT, launches=launches, max_launches=launches, seed=seed)
        if seconds is not None:
            more = launches - FIRST
            protocol = replace(FULL, launches=FIRST, more=more, max_launches=launches, limit_s=seconds, seed=seed)
        last = "" if seconds is None else ", the last comparison"
        progress = replace(self.progress, title=f"tune {self.record.name}{last}")
        every = list(subjects.values())
        measured = measure(
            every, protocol, self.ground.open_worker, progress, self.ground.subjects.judge,
            None if seconds is None else _never,
        )  # fmt: skip
        if seconds is not None:
            self.rows += summary.rows(every, measured)
        plain = subjects.get(self.space.plain)
        if plain is not None and (lost := measured.reason(plain.name, self.space.plain.batch)) is not None:
            self.exit_code = lost.exit_code
        return {one: self._found(measured, subject.name, one.batch) for one, subject in subjects.items()}

    def name(self, candidate: Candidate) -> str:
        """`onnx@threads=1`; the variant's own name for the default."""
        words = [self.space.words(candidate)]
        if candidate.batch != self.space.plain.batch:
            words.append(f"batch={candidate.batch}")
        said = ",".join(filter(None, words))
        return f"{self.record.name}@{said}" if said else self.record.name

    def _subject(self, candidate: Candidate) -> Subject:
        subjects, plain = self.ground.subjects, self.space.plain_at(candidate.batch)
        subject = subjects.subject(self.record, candidate.settings, self.name(candidate))
        twin = "" if candidate == plain else self.name(plain)
        return replace(subject, feeds={candidate.batch: subjects.feeds(candidate.batch)}, twin=twin)

    def _found(self, measured: Measured, name: str, batch: int) -> Found:
        lost = measured.reason(name, batch)
        launches = measured.of(name, batch)
        if lost is not None or not launches:
            return Found(reason=f"{lost.code}: {lost.reason}" if lost else "nothing was measured")
        costs = {one.launch: cost for one in launches if (cost := self._cost(one)) is not None}
        if not costs:
            return Found(reason="the system does not tell the peak memory of a process")
        return Found(costs, {one.launch: one.median_ns for one in launches})

    def _cost(self, one: Series) -> float | None:
        """What the goal makes small in one launch; of a throughput the time per sample, whatever the batch."""
        metric = METRICS["median" if self.goal == "latency" else self.goal]
        if metric.refusal(one):
            return None
        return metric.value(one) / (one.batch if self.goal == "throughput" else 1)


def _never(_: Measured) -> bool:
    """The last comparison has as many launches as there is time for, whatever they say."""
    return False


@dataclass(frozen=True)
class Spending:
    """Progress of a search as one stage, whose steps are the seconds it may take.

    Attributes:
        began, seconds: of all of it, by `time.monotonic`.
        title: of the measurement that goes on.
    """

    progress: Progress
    began: float
    seconds: float
    title: str = "tune"

    def begin(self) -> None:
        """Tell how long it may take."""
        self.progress.stage("tune, seconds", self._whole)

    def stage(self, title: str, total: int) -> None:
        """Nothing: how many rounds there will be is not known."""

    def step(self, text: str) -> None:
        """One launch of one candidate: how much of the time is over, never more than all of it."""
        done = min(self._whole, int(time.monotonic() - self.began))
        self.progress.reach(done)
        self.progress.note(f"{self.title}, {done} of {self._whole} s: {text}")

    def reach(self, done: int) -> None:
        """Nothing: the clock decides."""

    def note(self, text: str) -> None:
        """Nothing: what a measurement says of its launches is no news here."""

    @property
    def _whole(self) -> int:
        return math.ceil(self.seconds)
