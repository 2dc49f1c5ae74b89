"""Steps: time a running server, asked by one client or by several at once.

`open` makes the first client the session of this process: `measure:check`, `measure:warm_up` and, for one client,
`measure:block` and `serving:serve` go on with it. Several clients are threads with a connection each.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from deploykit.benchmark import clients as crew
from deploykit.benchmark import open_loop
from deploykit.benchmark.open_loop import Bounds
from deploykit.errors import InternalError
from deploykit.reference import save_arrays
from deploykit.remote.session import Connection, RemoteSession
from deploykit.steps import measure

SWITCH_S = 1e-4
"""How long a thread may keep the others from running, instead of 5 ms: about the time that encoding a request takes."""

_PR_SET_TIMERSLACK = 29


@dataclass
class _Asking:
    """The clients of this process, and their calls by batch size."""

    sessions: list[RemoteSession]
    calls: dict[int, list[crew.Calls]] = field(default_factory=dict)


_asking: _Asking | None = None


def open(  # noqa: A001 - named by what the parent asks for: asking:open
    *,
    runtime: str,
    artifact: str,
    input_names: list[str],
    output_names: list[str],
    settings: dict[str, Any],
    feeds: str,
    clients: int,
) -> dict[str, Any]:
    """Connect, and ask once.

    Args:
        runtime: empty.
        artifact: path of a `Connection`.
        input_names: the call order.
        output_names: not used: the connection knows them.
        settings: not used: the server's sessions are its own.
        feeds: file with the input sets of the first request.
        clients: connections that will be used at once.

    Returns:
        As `measure.open`, the server's name as `provider`.

    Raises:
        DeploykitError: as `Endpoint.infer`.
    """
    global _asking  # noqa: PLW0603 - one server per process is the design
    del runtime, output_names, settings
    connection = Connection.load(Path(artifact))
    found = _asking = _Asking([connection.open() for _ in range(clients)])
    return measure.begin(lambda: found.sessions[0], input_names, feeds)


def block(
    batch: int, min_ns: int, limit_ns: int, min_calls: int, discard_ns: int, repeats: int | None = None
) -> dict[str, Any]:
    """Let every client ask again as soon as it has its answer, for one block.

    Args:
        batch: a batch size that was warmed up.
        min_ns: shortest block.
        limit_ns: the block ends here, however few requests it holds.
        min_calls: fewest requests of all clients, unless `limit_ns` comes first.
        discard_ns: the first requests of every client are not counted for this long, at least one of them.
        repeats: not used: a request is longer than any reading has to be.

    Returns:
        `ns`: wall time of each request, `wall_ns`: of the block; `repeats`: 1, `phases`: none.
    """
    del repeats
    with _undisturbed():
        span = crew.Span(min_ns, limit_ns, min_calls, discard_ns)
        readings, wall_ns = crew.ask(_calls(batch), span, crew.SharedClock())
    return {"ns": readings, "wall_ns": wall_ns, "repeats": 1, "phases": []}


def serve(batch: int, rate: float, calls: int, seed: list[int], bounds: dict[str, Any], answer: str) -> dict[str, Any]:
    """Serve seeded Poisson arrivals with all clients.

    Args:
        batch: a batch size that was warmed up; each request is one call with that many samples.
        rate: requests per second.
        calls: requests of the schedule.
        seed: of the schedule.
        bounds: fields of a `Bounds` where it is given up; those that are absent have no limit.
        answer: file for `due`, `begun`, `ended` and `free`: int64[n] nanoseconds from the origin of the schedule.

    Returns:
        `stopped`: why the rest of the schedule was given up, see `Served`.
    """
    due = open_loop.poisson(rate, calls, *seed)
    with _undisturbed():
        clients = _calls(batch)
        for one in clients:
            next(one)()  # a connection that the server closed meanwhile is opened again here
        served = crew.serve(due, clients, Bounds(**bounds), crew.SharedClock())
    assert served.free is not None
    arrays = {"due": served.due, "begun": served.begun, "ended": served.ended, "free": served.free}
    save_arrays(arrays, Path(answer))
    return {"stopped": served.stopped}


def _calls(batch: int) -> list[crew.Calls]:
    """The calls of every client at a batch size that was warmed up; each begins with another input set."""
    if _asking is None:
        raise InternalError("clients", "no server is asked in this process", "please report this")
    if batch not in _asking.calls:
        sets = measure.sets_of(batch)
        _asking.calls[batch] = [
            islice(cycle([session.prepare(one) for one in sets]), index % len(sets), None)
            for index, session in enumerate(_asking.sessions)
        ]
    return _asking.calls[batch]


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No collection of garbage meanwhile, sleeps that end on time, and threads that give way to each other."""
    collecting, interval = gc.isenabled(), sys.getswitchinterval()
    gc.collect()
    gc.disable()
    sys.setswitchinterval(SWITCH_S)
    _timer_slack(1)  # a sleep ends up to 50 µs late otherwise (prctl(2)); threads started now inherit it
    try:
        yield
    finally:
        _timer_slack(0)
        sys.setswitchinterval(interval)
        if collecting:
            gc.enable()


def _timer_slack(ns: int) -> None:
    """How late this thread's sleeps may end; 0 is the system's own choice."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_TIMERSLACK, ns)
