"""Several clients of one running server, each in a thread with a connection of its own. Pure but for clock and threads.

In the open loop requests arrive when they are scheduled to. The next one is taken by whichever client is free; when
all are busy it waits, and its latency counts from the scheduled time, as in `open_loop.py`. In the closed loop each
client asks again as soon as it has its answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deploykit.benchmark.open_loop import Bounds, Clock, Served, Stopped, why_stop

START_NS = 20_000_000
"""The schedule begins so long after the call: until then all threads have started."""

YIELD_NS = 50_000
"""The last stretch before a request is waited for in turns with the other threads."""

Calls: TypeAlias = Iterator[Callable[[], object]]
"""The calls of one client, as many as it may get to make."""

Together: TypeAlias = Callable[[Sequence[Callable[[], None]]], None]
"""Runs the clients at the same time and comes back when all are through."""


class SharedClock:
    """`perf_counter_ns` for threads of one process.

    Whoever waits sleeps, and gives way to the others in the last stretch: a thread that spins would keep those whose
    answer has come from reading the clock, for as long as the interpreter's switch interval.
    """

    now = staticmethod(time.perf_counter_ns)

    def wait_until(self, ns: int) -> int:
        """Come back at `ns`, within what the system's scheduler and the other threads allow."""
        clock = time.perf_counter_ns
        while (rest := ns - clock()) > YIELD_NS:
            time.sleep((rest - YIELD_NS) / 1e9)
        while (now := clock()) < ns:
            time.sleep(0)
        return now


def threads(works: Sequence[Callable[[], None]]) -> None:
    """A thread for each."""
    running = [threading.Thread(target=one, daemon=True) for one in works]
    for one in running:
        one.start()
    for one in running:
        one.join()


@dataclass
class _Failures:
    """What went wrong in some client: the first error ends the work of all, and is raised by the caller's thread."""

    errors: list[BaseException] = field(default_factory=list)

    def guarded(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work`, its error kept."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for this one
                self.errors.append(error)

        return run

    def run(self, works: Sequence[Callable[[], None]], together: Together) -> None:
        """All of them, then the first error."""
        together([self.guarded(work) for work in works])
        if self.errors:
            raise self.errors[0]


@dataclass
class _Desk:
    """Hands out the requests in their order, and decides when it is enough."""

    times: list[int]
    bounds: Bounds
    failures: _Failures
    lock: Any = field(default_factory=threading.Lock)
    taken: int = 0
    slow: int = 0
    stopped: Stopped = ""

    @property
    def closed(self) -> bool:
        """Nobody begins with another request."""
        return bool(self.stopped or self.failures.errors)

    def take(self) -> int | None:
        """The next request, None when there is none."""
        with self.lock:
            if self.closed or self.taken == len(self.times):
                return None
            self.taken += 1
            return self.taken - 1

    def served(self, request: int, now: int) -> None:
        """It was answered."""
        with self.lock:
            self.slow += now - self.times[request] > self.bounds.slow_ns
            self.stopped = self.stopped or why_stop(self.bounds, self.times, self.taken, now, self.slow)


def serve(
    due: NDArray[np.int64], clients: Sequence[Calls], bounds: Bounds, clock: Clock, together: Together = threads
) -> Served:
    """Serve a schedule with several clients.

    Args:
        due: int64[n] times of the requests from the origin, which is `START_NS` from now; ascending, in nanoseconds.
        clients: the calls of each.
        bounds: where it ends early; requests that are under way then are still answered.
        clock: tells the time and waits; used by all clients.
        together: runs them.
    """
    times = [int(one) for one in due]
    failures = _Failures()
    desk = _Desk(times, bounds, failures)
    begun, ended, free = [0] * len(times), [0] * len(times), [0] * len(times)
    answered = [False] * len(times)
    origin = clock.now() + START_NS

    def client(calls: Calls) -> None:
        idle = int(np.iinfo(np.int64).min)
        while (request := desk.take()) is not None:
            now = clock.now() - origin
            if now < times[request]:
                now = clock.wait_until(origin + times[request]) - origin
            if desk.closed:
                break
            call = next(calls)
            begun[request], free[request] = now, idle
            call()
            idle = ended[request] = clock.now() - origin
            answered[request] = True
            desk.served(request, idle)

    failures.run([lambda calls=calls: client(calls) for calls in clients], together)  # type: ignore[misc]
    kept = np.array(answered, bool)
    taken = [np.array(one, np.int64)[kept] for one in (times, begun, ended, free)]
    return Served(taken[0], taken[1], taken[2], "" if kept.all() else desk.stopped, taken[3])


@dataclass(frozen=True)
class Span:
    """How long a closed loop is measured.

    Attributes:
        min_ns: at least so long, and until all clients together had `min_calls` answers.
        limit_ns: it ends here, however few they had.
        discard_ns: what each client asks before does not count; at least one call.
    """

    min_ns: int
    limit_ns: int
    min_calls: int
    discard_ns: int


@dataclass
class _Window:
    """The time that counts: from the answer with which the last client was warm, to the one with which it is enough.

    Every client is busy during all of it, and it begins and ends with an answer: its length is that of as many gaps
    between answers as answers are counted.
    """

    span: Span
    cold: int
    failures: _Failures
    lock: Any = field(default_factory=threading.Lock)
    opened: int | None = None
    closed: int | None = None
    ns: list[int] = field(default_factory=list)

    def warm(self, now: int) -> None:
        """One more client is."""
        with self.lock:
            self.cold -= 1
            if not self.cold:
                self.opened = now

    def over(self, begin: int, end: int) -> bool:
        """Count a request; gives whether there is no need for more."""
        with self.lock:
            if self.opened is None or self.closed is not None or end <= self.opened:
                return self.closed is not None or bool(self.failures.errors)
            self.ns.append(end - begin)
            spent = end - self.opened
            enough = spent >= self.span.min_ns and len(self.ns) >= self.span.min_calls
            if enough or spent >= self.span.limit_ns:
                self.closed = end
            return self.closed is not None or bool(self.failures.errors)


def ask(clients: Sequence[Calls], span: Span, clock: Clock, together: Together = threads) -> tuple[list[int], int]:
    """Let every client ask again as soon as it has its answer.

    Args:
        clients: the calls of each.
        span: what counts.
        clock: tells the time; used by all clients.
        together: runs them.

    Returns:
        Nanoseconds of every request whose answer came within the time that counts, and the length of that time.
    """
    failures = _Failures()
    window = _Window(span, len(clients), failures)

    def client(calls: Calls) -> None:
        started, warm, over = clock.now(), False, False
        while not over:
            call = next(calls)
            begin = clock.now()
            call()
            end = clock.now()
            if not warm and end - started >= span.discard_ns:
                warm = True
                window.warm(end)
            over = window.over(begin, end)

    failures.run([lambda calls=calls: client(calls) for calls in clients], together)  # type: ignore[misc]
    assert window.opened is not None
    assert window.closed is not None
    return window.ns, window.closed - window.opened
