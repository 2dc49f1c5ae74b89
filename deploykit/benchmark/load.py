"""From served schedules to what a server could promise. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Self

import numpy as np

from deploykit.benchmark import tails
from deploykit.benchmark.capacity import md1_wait
from deploykit.benchmark.launch import Launch
from deploykit.benchmark.objective import QUANTILES, Objective
from deploykit.benchmark.open_loop import Bounds, Served, queue_bound
from deploykit.measurements import LatencyPercentile, Load

MOST_CALLS = 20_000
"""Requests of one schedule at most, unless its percentile needs more."""

SPARE = 2
"""A percentile is asked of this many times the calls it needs at least."""

SCHEDULE_S = 1.0
"""Shortest schedule, so that fast models are seen for longer than a stall of the machine lasts."""


@dataclass(frozen=True)
class Serving:
    """One launch's schedule at one rate.

    Attributes:
        single_ns: median of this launch's calls one after another.
    """

    served: Served
    single_ns: float


@dataclass(frozen=True)
class Facts:
    """Who served: what the results of one subject begin with.

    Attributes:
        clients: of a running server, see `Subject`.
    """

    name: str
    provider: str
    batch: int
    threads: int | None
    clients: int = 0

    @classmethod
    def of(cls, launch: Launch, batch: int) -> Self:
        """What an opened launch tells."""
        subject = launch.subject
        return cls(subject.name, launch.facts["provider"], batch, launch.facts["threads"], subject.clients)


def calls_for(rate: float, objective: Objective | None, launches: int = 1) -> int:
    """Requests of one launch's schedule, where `launches` share what the percentile needs (p99 without objective)."""
    needed = SPARE * tails.NEEDED[objective.quantile if objective else QUANTILES["p99"]] / launches
    return math.ceil(max(needed, min(rate * SCHEDULE_S, MOST_CALLS)))


def bounds_for(rate: float, calls: int, objective: Objective | None, *, decided: bool = False) -> Bounds:
    """Where a schedule is given up: at overload, and at twice its length should that not be seen.

    With `decided`, also as soon as more requests are slower than the objective allows in all.
    """
    limit_ns = objective.limit_ns if objective else 0.0
    bounds = Bounds(queue_bound(rate, limit_ns), 2e9 * calls / rate + 10 * limit_ns + 1e9)
    if decided and objective:
        bounds = replace(bounds, slow_ns=limit_ns, slow=(1 - objective.quantile) * calls)
    return bounds


def utilization(rate: float, launches: Sequence[Serving], clients: int = 1) -> float:
    """Rate × mean service time over clients: the share of the time in which they are busy, 1 where nobody rests."""
    calls = np.concatenate([one.served.service_ns for one in launches])
    return float(rate * calls.mean() / 1e9) / max(clients, 1)


def overloaded(rate: float, launches: Sequence[Serving], clients: int = 1) -> bool:
    """Requests arrive faster than they are served: by the calls' length, or in at least half the launches' queues."""
    full = sum(one.served.stopped == "queue" for one in launches)
    return 2 * full >= len(launches) or utilization(rate, launches, clients) >= 1


UNPACED = "this machine could not send enough requests on time to judge such a limit"


def unpaced(objective: Objective, launches: Sequence[Serving]) -> bool:
    """In at least half the launches the generator alone missed the objective by its own error."""
    bad = sum(one.served.unpaced(objective.limit_ns, objective.quantile) for one in launches)
    return 2 * bad >= len(launches)


def percentiles(launches: Sequence[Serving], seed: int = 0) -> tuple[tails.Estimate, ...]:
    """All of `QUANTILES`; none of them where a schedule was given up, for those are the slow requests."""
    cut = sum(bool(one.served.stopped) for one in launches)
    if cut:
        reason = f"{cut} of {len(launches)} launches did not serve all of their requests"
        return tuple(tails.Estimate(name, None, reason=reason) for name in QUANTILES)
    latencies = [one.served.latency_ns for one in launches]
    return tuple(tails.estimate(latencies, name, seed) for name in QUANTILES)


def load_of(
    facts: Facts, rate: float, objective: Objective | None, launches: Sequence[Serving], seed: int = 0, **more: Any
) -> Load:
    """What the launches at one rate say.

    Args:
        facts: who served.
        rate: requests per second.
        objective: what the rate is held to; None asks only whether it is sustained.
        launches: at least one.
        seed: of the bootstrap.
        more: further fields of the Load.
    """
    found = percentiles(launches, seed)
    too_much, busy = overloaded(rate, launches, facts.clients), utilization(rate, launches, facts.clients)
    verdict, reason = _verdict(found, objective, too_much, busy)
    if verdict == "missed" and not too_much and objective is not None and unpaced(objective, launches):
        verdict, reason = "inconclusive", UNPACED
    single = median(one.single_ns for one in launches)
    service = float(np.concatenate([one.served.service_ns for one in launches]).mean())
    pacing = np.concatenate([one.served.pacing_ns for one in launches])
    load = Load(
        facts.name, facts.provider, facts.batch, facts.threads, verdict, reason,
        rate_per_s=rate,
        overloaded=too_much,
        latency=tuple(_shown(one) for one in found),
        mean_wait_ns=None if too_much else float(np.concatenate([one.served.wait_ns for one in launches]).mean()),
        md1_wait_ns=md1_wait(rate / 1e9, service) if facts.clients <= 1 else None,
        service_ns=service,
        single_ns=single,
        utilization=busy,
        closed_loop_per_s=1e9 / single if facts.clients <= 1 else None,
        late=sum(one.served.late for one in launches),
        pacing_ns=float(np.quantile(pacing, 0.99)) if len(pacing) else None,
        calls=sum(len(one.served.due) for one in launches),
        launches=len(launches),
        clients=facts.clients,
    )  # fmt: skip
    if objective is not None:
        load = replace(load, slo=str(objective), slo_ns=objective.limit_ns)
    return replace(load, **more)


def _shown(found: tails.Estimate) -> LatencyPercentile:
    sure = found.low is not None and found.high is not None
    limits = (found.low, found.high) if sure else None
    level = found.level if sure else None
    return LatencyPercentile(found.percentile, found.ns, limits, found.reason, level)  # type: ignore[arg-type]


def _verdict(
    found: Sequence[tails.Estimate], objective: Objective | None, too_much: bool, busy: float
) -> tuple[Any, str]:
    """The verdict on a rate and why."""
    if too_much:
        return "missed", f"overloaded: requests arrive faster than they are served (utilization {busy:.2f})"
    if objective is None:
        return "measured", ""
    asked = next(one for one in found if one.percentile == objective.percentile)
    verdict = tails.judged(asked, objective)
    if verdict == "inconclusive":
        return verdict, asked.reason or _undecided(asked, objective)
    return verdict, ""


def _undecided(asked: tails.Estimate, objective: Objective) -> str:
    """Why an interval decides nothing."""
    if asked.low is not None and asked.high is not None and not asked.low <= objective.limit_ns < asked.high:
        factor = f"{tails.FAR:.3g}"
        return (
            f"the interval of {asked.percentile} has {asked.level:.0%} confidence only, "
            f"and is not a factor of {factor} away from the limit: more launches decide"
        )
    return f"the interval of {asked.percentile} holds the limit"
