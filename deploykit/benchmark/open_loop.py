"""An open loop: requests arrive when they are scheduled to, not when the last one is done. Pure but for its clock.

One session serves one request after another, first come, first served, and the same thread waits for the next one.
A request that comes while another is served waits in a queue, and its latency counts from the scheduled time: a
stall is felt by everybody behind it, and cannot hide (G. Tene, "How NOT to measure latency", 2013, calls the loss of
those requests coordinated omission).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

SPIN_NS = 200_000
"""The last stretch before a request is spun: a sleep ends some 60 µs late, more on a busy machine."""

LATE_NS = 50_000
"""A request that an idle session begins later than this after its time was sent late by the generator."""

QUEUE = 200
"""Requests that may always wait: at 95 % utilization the M/D/1 queue is longer about once in 10⁹ requests."""

QUEUE_S = 0.25
"""Arrivals of this many seconds may wait as well: one stall of the machine is no overload."""


Stopped: TypeAlias = Literal["", "queue", "slow", "time"]


class Clock(Protocol):
    """Time in nanoseconds from any origin; tests bring one that nobody waits for."""

    def now(self) -> int:
        """The time."""

    def wait_until(self, ns: int) -> int:
        """Come back no earlier than `ns`; gives the time then."""


class WallClock:
    """`perf_counter_ns`; waits by sleeping, and the last stretch by spinning."""

    now = staticmethod(time.perf_counter_ns)

    def wait_until(self, ns: int) -> int:
        """Come back at `ns`, within what the system's scheduler allows."""
        clock = time.perf_counter_ns
        while (rest := ns - clock()) > SPIN_NS:
            time.sleep((rest - SPIN_NS) / 1e9)
        while (now := clock()) < ns:
            pass
        return now


@dataclass(frozen=True)
class Served:
    """What became of a schedule; nanoseconds from its origin, int64[n] for the n requests that were served.

    Attributes:
        due: when each request was scheduled.
        begun: when the session began with it.
        ended: when its answer was there.
        stopped: why the rest of the schedule was given up: the `queue` grew beyond its bound, too many requests
            were `slow` for the objective ever to be met, the `time` was up; empty where all were served.
        free: with several clients, since when the one that took the request had been free; None where one session
            serves one request after another.
    """

    due: NDArray[np.int64]
    begun: NDArray[np.int64]
    ended: NDArray[np.int64]
    stopped: Stopped = ""
    free: NDArray[np.int64] | None = None

    @property
    def latency_ns(self) -> NDArray[np.int64]:
        """From the scheduled time to the answer."""
        return self.ended - self.due

    @property
    def wait_ns(self) -> NDArray[np.int64]:
        """From the scheduled time to the begin of the call."""
        return self.begun - self.due

    @property
    def service_ns(self) -> NDArray[np.int64]:
        """The calls themselves."""
        return self.ended - self.begun

    @property
    def pacing_ns(self) -> NDArray[np.int64]:
        """int64[m]: how late the m requests began that found a session or client idle: the generator's own error."""
        free = np.concatenate([[np.iinfo(np.int64).min], self.ended[:-1]]) if self.free is None else self.free
        return self.wait_ns[free < self.due]

    def unpaced(self, limit_ns: float, quantile: float) -> bool:
        """The generator alone used up half of `limit_ns`, more often than `quantile` allows: it cannot judge that."""
        return int((self.pacing_ns > limit_ns / 2).sum()) > (1 - quantile) * len(self.due)

    @property
    def late(self) -> int:
        """Requests that the generator could not send on time; they count all the same."""
        return int((self.pacing_ns > LATE_NS).sum())


def poisson(rate: float, count: int, *seed: int) -> NDArray[np.int64]:
    """int64[count] scheduled times of a Poisson process, nanoseconds, first one after one gap.

    The same `seed` gives the same process at every rate, only faster or slower: what a search compares differs by
    the rate and by nothing else.

    Args:
        rate: requests per second.
        count: how many.
        seed: of the gaps, which are exponential with mean 1/rate (as in the Server scenario of MLPerf Inference).
    """
    gaps = np.random.default_rng(seed).standard_exponential(count)
    return np.asarray(np.cumsum(gaps) * (1e9 / rate), np.int64)


def queue_bound(rate: float, limit_ns: float | None = None) -> int:
    """Requests that may wait before a rate counts as overload.

    Args:
        rate: requests per second.
        limit_ns: a latency that is allowed: twice that much of arrivals may wait.
    """
    return max(QUEUE, math.ceil(rate * max(QUEUE_S, 2e-9 * (limit_ns or 0.0))))


@dataclass(frozen=True)
class Bounds:
    """Where the serving of a schedule is given up.

    Attributes:
        queue: more requests than this waiting are overload.
        time_ns: from the origin.
        slow_ns: a request that takes longer is slow; more than `slow` of them decide a probe.
    """

    queue: int
    time_ns: float = math.inf
    slow_ns: float = math.inf
    slow: float = math.inf


def serve(due: NDArray[np.int64], calls: Iterator[Callable[[], object]], bounds: Bounds, clock: Clock) -> Served:
    """Serve a schedule.

    Args:
        due: int64[n] times of the requests from the origin, which is now; ascending, in nanoseconds.
        calls: each serves one request; as many as there are requests.
        bounds: where it ends early.
        clock: tells the time and waits.
    """
    times = [int(one) for one in due]
    count = len(times)
    begun, ended = [0] * count, [0] * count
    done = now = slow = 0
    stopped: Stopped = ""
    origin = clock.now()
    for at in times:
        if now < at:
            now = clock.wait_until(origin + at) - origin
        call = next(calls)
        begun[done] = now
        call()
        now = ended[done] = clock.now() - origin
        done += 1
        slow += now - at > bounds.slow_ns
        stopped = why_stop(bounds, times, done, now, slow)
        if stopped:
            break
    taken = [np.array(one[:done], np.int64) for one in (times, begun, ended)]
    return Served(taken[0], taken[1], taken[2], stopped if done < count else "")


def why_stop(bounds: Bounds, times: list[int], done: int, now: int, slow: int) -> Stopped:
    """Why to stop after `done` requests were served or begun with, if at all."""
    behind = done + bounds.queue  # the first request that may not be waiting yet
    if behind < len(times) and times[behind] <= now:
        return "queue"
    if slow > bounds.slow:
        return "slow"
    return "time" if now > bounds.time_ns else ""
