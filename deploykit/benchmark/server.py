"""The Server scenario: fresh workers serve an open loop, at a given rate or at the highest that meets an objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deploykit.benchmark import load
from deploykit.benchmark.hunt import Hunt
from deploykit.benchmark.launch import Setting, launched, lost
from deploykit.benchmark.load import Facts, Serving
from deploykit.benchmark.objective import Objective
from deploykit.benchmark.plan import Subject
from deploykit.benchmark.schedule import orders
from deploykit.benchmark.series import Missing
from deploykit.errors import DeploykitError
from deploykit.measurements import Load
from deploykit.progress import Progress

SHORTEST_S = 0.5
"""A launch that was opened serves for at least this long, however late it is."""


@dataclass(frozen=True)
class Ask:
    """What is asked of the scenario.

    Attributes:
        rate: requests per second; None looks for the highest that meets the objective.
        objective: None asks of a rate only that it is sustained, and of a search p99 ≤ 10 × the single median.
        limit_s: wall time for all subjects together.
        launches: fresh workers per subject at a given rate.
    """

    rate: float | None
    objective: Objective | None
    limit_s: float
    launches: int = 7


@dataclass
class Server:
    """The scenario for several subjects; there is never more than one of them at work.

    Attributes:
        subjects: who serves, names unique.
        setting: what launches share.
        ask: what is asked.
        batch: samples in a request.
        progress: told one step per launch at a given rate, two per subject in a search.
        clock: seconds, from any origin.
        missing: who could not be measured, and why.
        raw: the schedules behind the results, by subject.
    """

    subjects: Sequence[Subject]
    setting: Setting
    ask: Ask
    batch: int
    progress: Progress
    clock: Callable[[], float] = time.monotonic
    missing: list[Missing] = field(default_factory=list)
    raw: dict[str, list[Serving]] = field(default_factory=dict)

    def run(self) -> tuple[Load, ...]:
        """One Load per subject, in their order."""
        until = self.clock() + self.ask.limit_s
        found = self._searched(until) if self.ask.rate is None else self._rated(self.ask.rate, until)
        return tuple(found.get(one.name) or self._nothing(one) for one in self.subjects)

    def nothing(self) -> tuple[Load, ...]:
        """The same for subjects of which none is measured."""
        return tuple(self._nothing(one) for one in self.subjects)

    def _rated(self, rate: float, until: float) -> dict[str, Load]:
        """Every subject at the same rate, launches in balanced order."""
        count = self.ask.launches
        turns = count * len(self.subjects)
        rounds = orders(len(self.subjects), self.setting.protocol.seed, 0)
        facts: dict[str, Facts] = {}
        self.progress.stage("server", turns)
        for launch in range(count):
            for index in next(rounds):
                subject = self.subjects[index]
                said = f"{subject.name}, launch {launch + 1} of {count}"
                if self._gone(subject) or (launch and self.clock() >= until):
                    said += ": given up"
                else:
                    share = (until - self.clock()) / turns
                    self._launch(subject, rate, launch, self.clock() + share, facts)
                turns -= 1
                self.progress.step(said)
        seed = self.setting.protocol.seed
        return {
            one.name: load.load_of(facts[one.name], rate, self.ask.objective, self.raw[one.name], seed)
            for one in self.subjects
            if one.name in self.raw and not self._gone(one)
        }

    def _launch(self, subject: Subject, rate: float, launch: int, until: float, facts: dict[str, Facts]) -> None:
        """One launch at the given rate; it serves fewer requests where its share of the time is too short."""
        objective = self.ask.objective
        try:
            with launched(subject, self.setting, check=launch == 0) as opened:
                single = opened.alone(self.batch)
                facts[subject.name] = Facts.of(opened, self.batch)
                wanted = max(load.calls_for(rate, one, self.ask.launches) for one in (objective, None))  # p99 is shown
                calls = max(1, min(wanted, math.floor(rate * max(until - self.clock(), SHORTEST_S))))
                bounds = load.bounds_for(rate, calls, objective)
                served = opened.serve(self.batch, rate, calls, (self.setting.protocol.seed, launch), bounds)
        except DeploykitError as error:
            self.missing.append(lost(subject.name, launch, error))
            return
        self.raw.setdefault(subject.name, []).append(Serving(served, single))

    def _searched(self, until: float) -> dict[str, Load]:
        """The capacity of each subject, one after another; each has its share of the time that is left."""
        self.progress.stage("capacity", 2 * len(self.subjects))
        found: dict[str, Load] = {}
        for done, index in enumerate(next(orders(len(self.subjects), self.setting.protocol.seed, 0))):
            subject = self.subjects[index]
            share = (until - self.clock()) / (len(self.subjects) - done)
            until_then = self.clock() + share
            hunt = Hunt(subject, self.setting, self.batch, self.ask.objective, until_then, self.clock, self.progress)
            try:
                found[subject.name] = hunt.run()
                self.raw[subject.name] = hunt.found
            except DeploykitError as error:
                self.missing.append(lost(subject.name, 0, error))
            for _ in range(hunt.ahead):
                self.progress.step(f"{subject.name}: given up")
        return found

    def _gone(self, subject: Subject) -> bool:
        return any(one.subject == subject.name for one in self.missing)

    def _nothing(self, subject: Subject) -> Load:
        """What is said of a subject without a measurement."""
        why = next((one for one in self.missing if one.subject == subject.name), None)
        reason = f"{why.code}: {why.reason}" if why else "nothing was measured"
        settings = subject.settings
        who = (subject.name, settings.provider, self.batch, settings.threads)
        return Load(*who, "not_measured", reason, clients=subject.clients)
