"""The highest rate that meets an objective: bracketed, then halved on the logarithm of the rate. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

RESOLUTION = 0.08
"""The search ends when the highest rate that met and the lowest that did not are this close together: one launch and
one schedule know it no better."""

STEP = 1.03
"""By how much the rate changes on the fresh launches that confirm it."""

STEPS = 16
"""Steps after which they give up: a factor of 1.6."""

FACTOR = 2.0
"""By how much the rate changes while one side of the bracket is missing."""

BRACKETING = 12
"""Steps after which no bracket is looked for any more: a factor of 4096."""


@dataclass(frozen=True)
class Bracket:
    """The highest rate that met the objective and the lowest that did not; None where there was none."""

    low: float | None
    high: float | None

    def within(self, resolution: float) -> bool:
        """The two are that close to each other."""
        return self.low is not None and self.high is not None and self.high <= self.low * (1 + resolution)


def search(probe: Callable[[float], bool | None], start: float) -> Bracket:
    """Narrow down the knee.

    Args:
        probe: True when a rate (requests per second) meets the objective, False when it does not, None to end the
            search: there is no time left to find out.
        start: the first rate.
    """
    low: float | None = None
    high: float | None = None
    steps = 0
    while not Bracket(low, high).within(RESOLUTION):
        if low is None or high is None:
            steps += 1
            if steps > BRACKETING:
                break
        rate = _between(low, high, start)
        met = probe(rate)
        if met is None:
            break
        if met:
            low = rate
        else:
            high = rate
    return Bracket(low, high)


def settle(probe: Callable[[float], bool | None], start: float) -> Bracket:
    """Walk from `start` to the knee in steps of `STEP`: up while the objective is met, down until it is.

    Args:
        probe: as for `search`.
        start: the first rate.
    """
    low: float | None = None
    high: float | None = None
    for _ in range(STEPS):
        rate = start if low is None and high is None else low * STEP if low is not None else (high or start) / STEP
        met = probe(rate)
        if met is None:
            break
        if met:
            low = rate
        else:
            high = rate
        if low is not None and high is not None:
            break
    return Bracket(low, high)


def _between(low: float | None, high: float | None, start: float) -> float:
    """The next rate to try."""
    if low is not None and high is not None:
        return math.sqrt(low * high)
    if low is not None:
        return low * FACTOR
    return start if high is None else high / FACTOR


def md1_wait(rate: float, service: float) -> float | None:
    """Mean wait in a queue of Poisson arrivals and calls of constant length, in the unit of `service`.

    ρs / 2(1 - ρ) with ρ = rate × service, the Pollaczek-Khinchine formula (L. Kleinrock, "Queueing Systems", vol. 1,
    1975, section 5.6); None where the queue grows for ever.

    Args:
        rate: arrivals per unit of time of `service`.
        service: length of a call.
    """
    utilization = rate * service
    return utilization * service / (2 * (1 - utilization)) if utilization < 1 else None
