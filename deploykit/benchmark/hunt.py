"""The search for one subject's capacity: one launch looks for the knee, fresh ones confirm it."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from deploykit.benchmark import capacity, load
from deploykit.benchmark.launch import Launch, Setting, launched
from deploykit.benchmark.load import Facts, Serving
from deploykit.benchmark.objective import Objective
from deploykit.benchmark.plan import Subject
from deploykit.measurements import Load, Probe
from deploykit.progress import Progress
from deploykit.units import duration, per_second

CONFIRMING = 3
"""Fresh launches that confirm the rate a search found."""

WALK = 8
"""Steps that the confirming launches should have time for; what is left over makes their schedules longer."""

HASTY = 3
"""Where there is no time for that many steps, the walk begins as many steps below the rate that was found."""

START = 0.5
"""The first rate, as a share of what calls one after another would give."""


@dataclass
class Hunt:
    """The search for the capacity of `subject`.

    Attributes:
        setting: what launches share.
        batch: samples in a request.
        asked: the objective; None aims at p99 ≤ 10 × the median of a request alone.
        until: when the time is up, by `clock`, in seconds.
        progress: told of every rate that was tried, and one step for each of the two phases.
        ahead: phases that are not through.
        probes: what was tried, in order.
        found: the schedules at the capacity.
    """

    subject: Subject
    setting: Setting
    batch: int
    asked: Objective | None
    until: float
    clock: Callable[[], float]
    progress: Progress
    ahead: int = 2
    probes: list[Probe] = field(default_factory=list)
    found: list[Serving] = field(default_factory=list)
    _opening_s: float = 0.0
    _hurried: str = ""
    _tried: bool = False
    _late: bool = False
    _calls: int = 0
    _best: Load | None = None

    def run(self) -> Load:
        """Search, then confirm.

        Raises:
            DeploykitError: the subject cannot be opened or run.
        """
        started = self.clock()
        with launched(self.subject, self.setting, check=True) as scout:
            self._single = scout.alone(self.batch)
            self._who = Facts.of(scout, self.batch)
            self._opening_s = self.clock() - started
            self._objective = self.asked or Objective.usual(self._single)
            if self._single > self._objective.limit_ns:
                return self._none("missed", f"a request alone takes {duration(self._single)}")
            bracket = capacity.search(lambda rate: self._probe(scout, rate), START * 1e9 / self._single)
        self._step("search")
        if bracket.low is not None:
            return self._confirmed(bracket.low)
        if any(probe.verdict == "inconclusive" for probe in self.probes):
            return self._none("inconclusive", load.UNPACED)
        if self._hurried or bracket.high is None:
            return self._none("inconclusive", self._hurried)
        return self._none("missed", f"even {per_second(bracket.high)} requests per second miss it")

    def _step(self, phase: str) -> None:
        self.ahead -= 1
        self.progress.step(f"{self.subject.name}: {phase}")

    def _probe(self, scout: Launch, rate: float) -> bool | None:
        """Does the rate meet the objective? None where the time does not allow to find out."""
        calls = load.calls_for(rate, self._objective)
        one_s = calls / rate
        if self.clock() + one_s + CONFIRMING * (self._opening_s + one_s) > self.until:
            each = "each of the search's and the confirming launches"
            self._hurried = (
                f"the time was up: {calls:,} requests at {per_second(rate)} per second take {one_s:,.0f} s in {each}"
            )
            return None
        bounds = load.bounds_for(rate, calls, self._objective, decided=True)
        served = scout.serve(self.batch, rate, calls, (self.setting.protocol.seed, 0), bounds)
        found = [Serving(served, self._single)]
        if load.overloaded(rate, found, self._who.clients):
            return self._said(rate, "search", "overloaded")
        ns = None
        if not served.stopped:
            ns = float(np.quantile(served.latency_ns, self._objective.quantile, method="inverted_cdf"))
            if ns <= self._objective.limit_ns:
                return self._said(rate, "search", "met", ns)
        unpaced = load.unpaced(self._objective, found)
        return self._said(rate, "search", "inconclusive" if unpaced else "missed", ns)

    def _said(
        self,
        rate: float,
        phase: Literal["search", "confirm"],
        verdict: Literal["met", "missed", "overloaded", "inconclusive"],
        ns: float | None = None,
    ) -> bool:
        self.probes.append(Probe(rate, phase, verdict, ns))
        left_s = max(0.0, self.until - self.clock())
        self.progress.note(
            f"{self.subject.name}: {per_second(rate)} requests per second {verdict}, at most {left_s:.0f} s left"
        )
        return verdict == "met"

    def _confirmed(self, start: float) -> Load:
        """The highest rate around `start` that fresh launches together meet."""
        with ExitStack() as stack:
            opened: list[tuple[Launch, float]] = []
            for _ in range(CONFIRMING):
                launch = stack.enter_context(launched(self.subject, self.setting, check=False))
                opened.append((launch, launch.alone(self.batch)))
            left_s = self.until - self.clock()
            if left_s * start < HASTY * CONFIRMING * load.calls_for(start, self._objective):
                start /= capacity.STEP**HASTY  # too late to find out by missing
            spare = start * left_s / (CONFIRMING * WALK)
            self._calls = math.ceil(max(load.calls_for(start, self._objective), min(spare, load.MOST_CALLS)))
            settled = capacity.settle(lambda rate: self._confirm(opened, rate), start)
        if self._best is None:
            why = f"fresh launches did not confirm {per_second(start)} requests per second"
            return self._none("inconclusive", f"{why}, and the time was up" if self._late else why)
        self._step("confirmation")
        early = "" if settled.high else f"at least: {self._ended}"
        return replace(self._best, verdict="met", reason=early, probes=tuple(self.probes))

    @property
    def _ended(self) -> str:
        """Why the walk ended before a rate missed."""
        if self._late:
            return "the time was up before the search was through"
        return f"all of the {capacity.STEPS} rates that the confirming launches tried met it"

    def _confirm(self, opened: list[tuple[Launch, float]], rate: float) -> bool | None:
        """Do all requests of the fresh launches together meet the objective? None where there is no more time."""
        calls = self._calls
        if self._tried and self.clock() + CONFIRMING * calls / rate > self.until:
            self._late = True
            return None
        self._tried = True
        bounds = load.bounds_for(rate, calls, self._objective)
        seed = self.setting.protocol.seed
        found = [
            Serving(launch.serve(self.batch, rate, calls, (seed, number), bounds), single)
            for number, (launch, single) in enumerate(opened, 1)
        ]
        assumed = self.asked is None
        there = load.load_of(self._who, rate, self._objective, found, seed, searched=True, slo_assumed=assumed)
        ns = next(one.ns for one in there.latency if one.percentile == self._objective.percentile)
        if there.overloaded:
            return self._said(rate, "confirm", "overloaded", ns)
        if ns is not None and ns <= self._objective.limit_ns:
            self._best, self.found = there, found
            return self._said(rate, "confirm", "met", ns)
        return self._said(rate, "confirm", "missed", ns)

    def _none(self, verdict: Literal["missed", "inconclusive"], reason: str) -> Load:
        """No capacity, and why."""
        self.found = []
        who, objective = self._who, self._objective
        return Load(
            who.name, who.provider, who.batch, who.threads, verdict, reason,
            slo=str(objective),
            slo_ns=objective.limit_ns,
            slo_assumed=self.asked is None,
            searched=True,
            single_ns=self._single,
            closed_loop_per_s=1e9 / self._single if who.clients <= 1 else None,
            probes=tuple(self.probes),
            clients=who.clients,
        )  # fmt: skip
