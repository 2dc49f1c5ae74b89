"""Steps: time one opened session. Raw readings go back; what they mean is worked out by the parent.

The session opened by `open` is the process's own and stays until it ends: one worker measures one subject.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from deploykit import registry, template
from deploykit.errors import InternalError
from deploykit.reference import load_arrays, part, save_arrays
from deploykit.session import Session, SessionSettings
from deploykit.signature import Feeds

READING_NS = 50_000
"""Shortest reading: reading the clock twice costs some 50 ns, a thousandth of this."""

WARM_UP_WINDOWS = 4
"""Windows in the shortest warm-up; two in a row must agree."""

WINDOW_CALLS = 3
"""Fewest calls in a window: the median of fewer is no median."""

WARM_UP_CALLS = 5
"""Fewest calls in a warm-up."""

AGREE = 0.02
"""Two windows agree when their medians differ by no more than this."""

PHASE_CALLS = 3
"""Calls per block taken apart into phases, where the session can do that."""


@dataclass
class _Bound:
    """The calls of one batch size, one per input set, and how many of them make a reading."""

    sets: list[Feeds]
    calls: Iterator[Callable[[], object]]
    repeats: int = 1


@dataclass
class _Opened:
    """The session of this process."""

    session: Session
    input_names: list[str]
    bound: dict[int, _Bound] = field(default_factory=dict)
    phased: bool = True


_opened: _Opened | None = None


def open(  # noqa: A001 - named by what the parent asks for: measure:open
    *,
    runtime: str,
    artifact: str,
    input_names: list[str],
    output_names: list[str],
    settings: dict[str, Any],
    feeds: str,
) -> dict[str, Any]:
    """Open the artifact and make the first call.

    Args:
        runtime: plugin that opens `artifact`.
        artifact: path of the file.
        input_names: the call order.
        output_names: names for outputs of engines whose artifacts do not name theirs.
        settings: fields of a SessionSettings.
        feeds: file with the input sets of the first call.

    Returns:
        `load_ms` (the engine's import included; of a fork, that of its template), `first_call_ms`, `provider` and
        `threads` read back from the engine, `pools` as threadpoolctl sees them.

    Raises:
        WorkError: the engine cannot open the artifact as wanted.
    """

    def opening() -> Session:
        session: Session = registry.load("runtimes", runtime)().open(
            Path(artifact), tuple(output_names), SessionSettings(**settings)
        )
        return session

    return begin(opening, input_names, feeds)


def begin(opening: Callable[[], Session], input_names: list[str], feeds: str) -> dict[str, Any]:
    """Make what `opening` gives the session of this process, and the first call; gives the facts that `open` gives."""
    global _opened  # noqa: PLW0603 - one session per process is the design
    first = input_sets(feeds, input_names)[0]
    inherited = template.inherited
    started = time.perf_counter()
    session = opening()
    loaded = time.perf_counter()
    session.prepare(first)()
    called = time.perf_counter()
    _opened = _Opened(session, input_names)
    return {
        "load_ms": (loaded - started) * 1e3 + inherited.import_ms,
        "first_call_ms": (called - loaded) * 1e3,
        "provider": session.provider,
        "threads": session.threads,
        "pools": _pools(),
    }


def check(case: str, answer: str) -> list[str]:
    """Answer the reference case in file `case`, write the outputs to file `answer`; gives their names in order."""
    opened = _current()
    stored = part(load_arrays(Path(case)), "inputs")
    outputs = opened.session.run({name: stored[name] for name in opened.input_names})
    save_arrays(outputs, Path(answer))
    return list(outputs)


def warm_up(batch: int, feeds: str, min_ns: int, limit_ns: int) -> dict[str, Any]:
    """Call until the time of a call settles, and find how many calls make a reading.

    Args:
        batch: the batch size that `feeds` holds; later blocks name it.
        feeds: file with the input sets.
        min_ns: shortest warm-up.
        limit_ns: where it is given up.

    Returns:
        `steady`: two windows agreed in time; `calls`, `ns` spent, `repeats` per reading.
    """
    opened = _current()
    sets = input_sets(feeds, opened.input_names)
    bound = opened.bound[batch] = _Bound(sets, cycle([opened.session.prepare(one) for one in sets]))
    started = time.perf_counter_ns()
    calls, previous, steady = 0, math.inf, False
    while True:
        window = _readings(bound.calls, 1, min_ns // WARM_UP_WINDOWS, limit_ns // 2, WINDOW_CALLS)
        calls += len(window)
        typical, spent = median(window), time.perf_counter_ns() - started
        steady = abs(typical - previous) <= AGREE * min(typical, previous)
        if (steady and calls >= WARM_UP_CALLS and spent >= min_ns) or spent >= limit_ns:
            break
        previous = typical
    bound.repeats = 1 if typical >= READING_NS else _autorange(bound.calls)
    return {"steady": steady, "calls": calls, "ns": spent, "repeats": bound.repeats}


def block(
    batch: int, min_ns: int, limit_ns: int, min_calls: int, discard_ns: int, repeats: int | None = None
) -> dict[str, Any]:
    """Time calls for one block.

    Args:
        batch: a batch size that was warmed up.
        min_ns: shortest block.
        limit_ns: the block ends here, however few calls it holds.
        min_calls: fewest calls, unless `limit_ns` comes first.
        discard_ns: the first calls are not recorded for this long, at least one of them.
        repeats: calls in each reading; None takes what the warm-up found.

    Returns:
        `ns`: wall time of each reading, `repeats`: calls in each; `phases`: `[h2d, compute, d2h]` in nanoseconds of a
        few further calls, empty where a call needs no transfer.
    """
    opened = _current()
    bound = opened.bound[batch]
    collecting = gc.isenabled()
    gc.disable()
    try:
        _readings(bound.calls, 1, discard_ns, discard_ns, 1)
        readings = _readings(bound.calls, repeats or bound.repeats, min_ns, limit_ns, min_calls)
    finally:
        if collecting:
            gc.enable()
    return {"ns": readings, "repeats": repeats or bound.repeats, "phases": _phases(opened, bound)}


def memory() -> dict[str, Any]:
    """Peak resident memory of this process in bytes, None where the system does not tell.

    VmHWM and not getrusage's ru_maxrss: the latter starts from what the parent had before this program was executed.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {"peak_rss_bytes": None}
    found = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")]
    return {"peak_rss_bytes": found[0] if found else None}


def calls_of(batch: int) -> Iterator[Callable[[], object]]:
    """The calls of a batch size that was warmed up, input sets in rotation; for the other steps of this process."""
    return _current().bound[batch].calls


def sets_of(batch: int) -> list[Feeds]:
    """The input sets of a batch size that was warmed up."""
    return _current().bound[batch].sets


def _readings(
    calls: Iterator[Callable[[], object]], repeats: int, min_ns: int, limit_ns: int, min_calls: int
) -> list[int]:
    """Wall times of readings of `repeats` calls each, until both minima or the limit are reached; at least one."""
    clock = time.perf_counter_ns
    readings: list[int] = []
    started = clock()
    while True:
        if repeats == 1:
            call = next(calls)
            begin = clock()
            call()
            end = clock()
        else:
            begin = clock()
            for call in islice(calls, repeats):
                call()
            end = clock()
        readings.append(end - begin)
        spent = end - started
        if spent >= limit_ns or (spent >= min_ns and len(readings) * repeats >= min_calls):
            return readings


def _autorange(calls: Iterator[Callable[[], object]]) -> int:
    """How many calls make a reading, tried and not computed: in a row they are faster than one by one."""
    repeats = 2
    while (reading := min(_readings(calls, repeats, 0, 0, 1)[0] for _ in range(3))) < READING_NS:
        repeats = max(repeats + 1, math.ceil(repeats * READING_NS / max(reading, 1)))
    return repeats


def _phases(opened: _Opened, bound: _Bound) -> list[list[int]]:
    found: list[list[int]] = []
    for feeds in islice(cycle(bound.sets), PHASE_CALLS if opened.phased else 0):
        phases = opened.session.phases(feeds)
        if phases is None:
            opened.phased = False
            break
        found.append([phases.h2d_ns, phases.compute_ns, phases.d2h_ns])
    return found


def _current() -> _Opened:
    if _opened is None:
        raise InternalError("session", "no session is open in this process", "please report this")
    return _opened


def input_sets(file: str, input_names: list[str]) -> list[Feeds]:
    """The input sets of a feeds file in order of their index, each in call order."""
    arrays = load_arrays(Path(file))
    indices = sorted({int(key.partition("/")[0]) for key in arrays})
    return [{name: arrays[f"{index}/{name}"] for name in input_names} for index in indices]


def _pools() -> list[dict[str, Any]]:
    """The thread pools loaded in this process, without the paths of their libraries."""
    from threadpoolctl import threadpool_info  # after the clock has stopped

    kept = ("user_api", "internal_api", "num_threads")
    return [{key: pool.get(key) for key in kept} for pool in threadpool_info()]
