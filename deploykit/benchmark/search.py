"""Which settings a session should have for a goal: a search within a time limit. Pure.

Coordinate descent: one setting after another is tried at all its values, from the default settings on, until a whole
pass changes nothing, or there is no time for what was not tried. The values of one setting race (O. Maron and A. Moore,
"Hoeffding races", NIPS 1993): a few launches for all, more for those that may still be the best. Every round is one
interleaved measurement with the default and the present best in it, so all ratios are paired.

What a search found is its luck, too. So the winner is measured against the default once more, in fresh launches that
chose nothing, and has to be better there: beyond the interval, and by more than `MATTERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from deploykit.benchmark import stats
from deploykit.benchmark.space import Candidate, Space
from deploykit.benchmark.stats import Interval
from deploykit.measurements import MATTERS
from deploykit.tune_results import Goal

RUNGS = (2, 4)
"""Launches that the values of one setting get: all of them first, then those that may still be the best."""

FINALISTS, FINALISTS_LAUNCHES = 4, 4
FULL_LAUNCHES, LEAST_LAUNCHES = 10, 6
"""Launches of the last comparison; under six there is no interval with 95 % confidence."""

DESCENT = 0.8
"""The part of the time before the last comparison that the descent has, once something has to be chosen and proven."""

LAST = 0.35
"""The part of the time that the last comparison may ask for, where it needs no more for the fewest launches."""

FULL_EXTRA_S = 0.3
"""What a launch of the last comparison takes longer, for one candidate: two more blocks and a longer warm-up."""

FIRST_GUESS_S = 1.0
"""Seconds for one candidate in one launch, before any was seen."""

GAIN, WEAK_STEPS = 0.05, 2
"""A batch twice as large has to gain this much per sample; a sweep ends after this many steps that do not."""

SLOWER_AT_MOST = 1.10
"""What a smaller memory may cost in time, as a ratio to the default."""


@dataclass(frozen=True)
class Found:
    """What one measurement says of a candidate.

    Attributes:
        costs: what the goal makes small, by launch: nanoseconds per call or sample, or bytes.
        times: nanoseconds per call by launch.
        reason: why it is out; it then has no costs.
    """

    costs: Mapping[int, float] = field(default_factory=dict)
    times: Mapping[int, float] = field(default_factory=dict)
    reason: str = ""


class Rate(Protocol):
    """Measures candidates in one interleaved run of `launches`.

    With `seconds` it is the last comparison: in longer launches, as many of `launches` as end within that time.
    """

    def __call__(
        self, candidates: Sequence[Candidate], launches: int, *, seconds: float | None = None
    ) -> Mapping[Candidate, Found]:
        """What was found of each."""


@dataclass(frozen=True)
class Try:
    """One candidate that was measured, and its ratio to the default settings at its batch.

    That of default settings at another batch is to those at the batch asked for.
    """

    candidate: Candidate
    ratio: Interval | None
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a search.

    Attributes:
        chosen: the default, or what the last comparison showed to be better.
        ratio: of costs, from the last comparison; None where there was none.
        time_ratio: of times, likewise.
        tried: everything measured on the way, with what it looked like there.
        said: why this one.
        measured: False when the default itself could not be.
    """

    chosen: Candidate
    ratio: Interval | None
    time_ratio: Interval | None
    tried: tuple[Try, ...]
    said: str
    measured: bool = True


def search(space: Space, goal: Goal, rate: Rate, clock: Callable[[], float], seconds: float) -> Outcome:
    """The best settings for a goal, never slower than the default beyond noise.

    Args:
        space: what can be chosen.
        goal: what is made small.
        rate: measures.
        clock: seconds, monotonic.
        seconds: wall time for all of it.
    """
    run = _Run(space, goal, rate, clock, clock(), seconds)
    best = run.descend()
    if reason := run.reason(space.plain):
        return Outcome(space.plain, None, None, run.tried(), f"the default settings: {reason}", measured=False)
    if not run.seen:
        why = "there is nothing to choose" if space.is_empty else "no time to try anything else (more --seconds)"
        return Outcome(space.plain, None, None, (), f"the default stays: {why}")
    best = run.select(best)
    plain = space.plain_at(best.batch)
    if best == plain:
        said = f"the default stays: nothing that was tried looked better{run.untried}"
        return Outcome(plain, None, None, run.tried(), said)
    return run.compare(plain, best)


def decide(goal: Goal, ratio: Interval | None, time_ratio: Interval | None) -> tuple[bool, str]:
    """Whether the last comparison is for the candidate, and what it shows.

    Args:
        goal: what is to be small.
        ratio: of costs, candidate to default; None where it could not be had.
        time_ratio: of times.
    """
    if ratio is None or ratio.level < stats.CONFIDENCE:
        return False, "the last comparison had too few launches"
    shown = verdict(goal, ratio)
    if stats.verdict(ratio) != "faster":
        return False, f"the best that was found is {shown} {'from it' if shown == 'indistinguishable' else 'than it'}"
    if goal == "memory" and (time_ratio is None or time_ratio.high > SLOWER_AT_MOST):
        limit = f"{SLOWER_AT_MOST - 1:.0%}"
        return False, f"what needs less memory is not surely within +{limit} of its time"
    return True, shown


def verdict(goal: Goal, ratio: Interval) -> str:
    """`faster`, `slower` or `indistinguishable`; of memory `smaller` and `larger`."""
    said = stats.verdict(ratio)
    return {"faster": "smaller", "slower": "larger"}.get(said, said) if goal == "memory" else said


@dataclass
class _Run:
    space: Space
    goal: Goal
    rate: Rate
    clock: Callable[[], float]
    started: float
    seconds: float
    seen: dict[Candidate, dict[tuple[int, int], tuple[float, float]]] = field(default_factory=dict)
    out: dict[Candidate, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._guess, self._runs = FIRST_GUESS_S, 0
        self._met: set[tuple[Candidate, Candidate]] = set()
        self._asked: set[str] = set()
        self._skipped: dict[str, None] = {}
        self._found = False

    @property
    def untried(self) -> str:
        """The settings that there was no time to try; empty when every one was."""
        return f"; not tried for lack of time: {', '.join(self._skipped)} (more --seconds)" if self._skipped else ""

    def descend(self) -> Candidate:
        """The end of the descent, or where it was when its time was over.

        What a pass had no time for is asked again in the next one: a round may have been cheaper than was foreseen.
        """
        at = self._sweep()
        axes = (*self.space.axes, *(("batch",) if self.space.batches else ()))
        while True:
            before, runs = at, self._runs
            for axis in axes:
                at = self._step(at, axis)
                self._found = at != self.space.plain_at(at.batch)
            self._skipped = {name: None for name in self._skipped if name not in axes or self.space.others(at, name)}
            if self._runs == runs or (at == before and not self._skipped):
                return at

    def select(self, best: Candidate) -> Candidate:
        """The simplest of those that cannot be told from the best: itself, the runner-up, and itself with less."""
        plain = self.space.plain_at(best.batch)
        if best == plain:
            return best
        simpler = [self.space.changed(best, name, getattr(plain.settings, name)) for name in self.space.differing(best)]
        looked = [one for one in self.seen if one.batch == best.batch and self._gain(plain, one) < 1 - MATTERS]
        looked = [one for one in looked if self._bearable(one)]
        looked.sort(key=lambda one: self._gain(plain, one))
        group = [one for one in dict.fromkeys((best, *simpler, *looked)) if one != plain and one not in self.out]
        group = group[:FINALISTS]
        if len(group) > 1 and self._affordable(len(group) + 1, FINALISTS_LAUNCHES):
            self._measure([plain, *group], FINALISTS_LAUNCHES)
        group = [one for one in group if one not in self.out and self._gain(plain, one) < 1 and self._bearable(one)]
        if not group:
            return plain
        fastest = min(group, key=lambda one: self._gain(plain, one))
        same = [one for one in group if one == fastest or self._alike(fastest, one)]
        return min(same, key=lambda one: (len(self.space.differing(one)), self._gain(plain, one)))

    def compare(self, plain: Candidate, best: Candidate) -> Outcome:
        """The last comparison, over launches of its own: as many as there is time for."""
        if self._left < 2 * LEAST_LAUNCHES * self._guess:
            return Outcome(plain, None, None, self.tried(), self._unproven(best))
        found = self.rate([plain, best], FULL_LAUNCHES, seconds=self._left)
        if lost := [found[one].reason for one in (plain, best) if found[one].reason]:
            return Outcome(plain, None, None, self.tried(), f"the default stays: {lost[0]}")
        ratio = _paired(found[plain].costs, found[best].costs)
        time_ratio = _paired(found[plain].times, found[best].times)
        if len(found[plain].costs.keys() & found[best].costs.keys()) < LEAST_LAUNCHES:
            return Outcome(plain, ratio, time_ratio, self.tried(), self._unproven(best))
        accepted, said = decide(self.goal, ratio, time_ratio)
        chosen, why = (best, f"{said} than the default") if accepted else (plain, f"the default stays: {said}")
        return Outcome(chosen, ratio, time_ratio, self.tried(), f"{why}{self.untried}")

    def _unproven(self, best: Candidate) -> str:
        words, needed = self.space.words(best), self.clock() - self.started + self._last(LEAST_LAUNCHES)
        why = f"no time was left to prove it (more --seconds, about {needed:.0f})"
        return f"the default stays: {words} looked better, but {why}{self.untried}"

    def reason(self, candidate: Candidate) -> str:
        """Why a candidate is out; empty when it is not."""
        return self.out.get(candidate, "")

    def tried(self) -> tuple[Try, ...]:
        """Every candidate but the default, in the order of its first measurement."""
        plain = self.space.plain
        kept = [one for one in dict.fromkeys((*self.seen, *self.out)) if one != plain]
        bases = [plain if one.settings == plain.settings else self.space.plain_at(one.batch) for one in kept]
        return tuple(
            Try(one, self.ratio(base, one), self.out.get(one, "")) for one, base in zip(kept, bases, strict=True)
        )

    def ratio(self, base: Candidate, candidate: Candidate) -> Interval | None:
        """Ratio of costs over all launches that had both; None where none had."""
        return _paired(*({key: cost for key, (cost, _) in self.seen.get(one, {}).items()} for one in (base, candidate)))

    def _sweep(self) -> Candidate:
        """The smallest batch at which twice as many samples gain next to nothing, with the default settings."""
        best = last = self.space.plain
        weak = 0
        for batch in (size for size in self.space.batches if size > best.batch):
            candidate = self.space.plain_at(batch)
            group = list(dict.fromkeys((best, last, candidate)))
            if not self._affordable(len(group), RUNGS[0], part=0.5):
                self._skipped[f"batches from {batch} on"] = None
                break
            self._measure(group, RUNGS[0])
            self._asked.add("batch")
            if candidate in self.out or self.space.plain in self.out:
                break
            weak = weak + 1 if self._gain(last, candidate) > 1 - GAIN else 0
            best = candidate if self._gain(best, candidate) <= 1 - GAIN else best
            last = candidate
            if weak == WEAK_STEPS:
                break
        return best

    def _step(self, at: Candidate, axis: str) -> Candidate:
        """The best of the other values of one setting, when it looks better than `at`."""
        alive = [one for one in self.space.others(at, axis) if one not in self.out and (at, one) not in self._met]
        for launches in RUNGS:
            if not alive or self.space.plain in self.out:
                break
            group = list(dict.fromkeys((self.space.plain_at(at.batch), at, *alive)))
            if not self._affordable(len(group), launches, part=DESCENT if self._found else 1.0):
                if axis not in self._asked:
                    self._skipped[axis] = None
                break
            self._asked.add(axis)
            self._skipped.pop(axis, None)
            self._met.update((at, one) for one in alive)
            self._measure(group, launches)
            alive = [one for one in alive if self._may_gain(at, one) and self._bearable(one)]
            alive.sort(key=lambda one: self._gain(at, one))
            alive = [one for one in alive if one == alive[0] or self._low(alive[0], one) < 1]
        return next((one for one in alive if self._gain(at, one) < 1 - MATTERS), at)

    def _may_gain(self, base: Candidate, candidate: Candidate) -> bool:
        """What was seen allows a gain that matters: two launches that went against a candidate do not end its race."""
        return self._low(base, candidate) < 1 - MATTERS

    def _low(self, base: Candidate, candidate: Candidate) -> float:
        """The lower limit of the ratio of costs, with the confidence that its launches give; infinite if out."""
        found = self.ratio(base, candidate)
        return float("inf") if found is None else found.low

    def _measure(self, group: Sequence[Candidate], launches: int) -> None:
        began = self.clock()
        found = self.rate(group, launches)
        self._guess = (self.clock() - began) / (launches * len(group))
        self._runs += 1
        for candidate in group:
            one = found[candidate]
            if one.reason:
                self.out[candidate] = one.reason
                self.seen.pop(candidate, None)
            for launch, cost in one.costs.items():
                self.seen.setdefault(candidate, {})[self._runs, launch] = (cost, one.times.get(launch, cost))

    @property
    def _left(self) -> float:
        """Seconds until the time is over."""
        return self.started + self.seconds - self.clock()

    def _last(self, launches: int) -> float:
        """Seconds for so many launches of the last comparison, by what launches took so far."""
        return 2 * launches * (self._guess + FULL_EXTRA_S)

    def _affordable(self, count: int, launches: int, part: float = 1.0) -> bool:
        """So many candidates and launches end before that part of the time is over, as far as can be foreseen.

        The last comparison's time is kept free. Before anything was measured nobody knows how long it takes, and once
        the fewest launches do not fit any more there is no use in waiting for it.
        """
        kept = min(self._last(FULL_LAUNCHES), max(self._last(LEAST_LAUNCHES), LAST * self.seconds))
        if not self._runs or self._left < 2 * LEAST_LAUNCHES * self._guess:
            kept = 0.0
        ends = self.started + part * (self.seconds - kept)
        return self.clock() + count * launches * self._guess <= ends

    def _gain(self, base: Candidate, candidate: Candidate) -> float:
        """The estimated ratio of costs; infinite where they never met."""
        found = self.ratio(base, candidate)
        return float("inf") if found is None else found.estimate

    def _alike(self, base: Candidate, candidate: Candidate) -> bool:
        found = self.ratio(base, candidate)
        return found is not None and stats.verdict(found) == "indistinguishable"

    def _bearable(self, candidate: Candidate) -> bool:
        """For memory: it does not look too slow."""
        if self.goal != "memory":
            return True
        plain = self.space.plain_at(candidate.batch)
        times = ({key: time for key, (_, time) in self.seen.get(one, {}).items()} for one in (plain, candidate))
        found = _paired(*times)
        return found is not None and found.estimate <= SLOWER_AT_MOST


def _paired(base: Mapping[Any, float], candidate: Mapping[Any, float]) -> Interval | None:
    shared = [key for key in base if key in candidate]
    return stats.ratio_interval([base[key] for key in shared], [candidate[key] for key in shared]) if shared else None
