"""Steps: where the time of a call goes, told by the engine's own profiler, and what a device tells besides.

Each needs a process of its own: a profiler costs time and memory that no other figure may contain.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

from deploykit import registry
from deploykit.benchmark import trace as traces
from deploykit.errors import WorkError
from deploykit.session import CPU, Session, SessionSettings
from deploykit.signature import Feeds
from deploykit.steps.measure import input_sets

WARM_UP_CALLS = 5
"""Calls before those that are profiled."""

MOST_CALLS = 200
"""Calls after which a profile has enough of them: a trace grows by some kilobytes with each."""

TOP = 20
"""Operators that a profile names."""


@dataclass
class _Calls:
    """Calls in rotation over the input sets; how many there were and how long they took."""

    session: Session
    sets: list[Feeds]
    min_calls: int
    limit_ns: int
    walls_ns: list[int] = field(default_factory=list)

    def plan(self) -> Callable[[], object]:
        """Warm up, and give the calls to profile."""
        calls = cycle([self.session.prepare(one) for one in self.sets])
        for _ in range(WARM_UP_CALLS):
            next(calls)()
        clock = time.perf_counter_ns

        def make() -> None:
            started = clock()
            while len(self.walls_ns) < MOST_CALLS:
                call = next(calls)
                begin = clock()
                call()
                end = clock()
                self.walls_ns.append(end - begin)
                if len(self.walls_ns) >= self.min_calls and end - started >= self.limit_ns:
                    return

        return make


def profile(
    *,
    runtime: str,
    artifact: str,
    input_names: list[str],
    output_names: list[str],
    settings: dict[str, Any],
    feeds: str,
    trace: str,
    min_calls: int,
    limit_ns: int,
) -> dict[str, Any]:
    """Open the artifact under the engine's profiler and make some calls.

    Args:
        runtime: plugin that opens `artifact`.
        artifact: path of the file.
        input_names: the call order.
        output_names: names for outputs of engines whose artifacts do not name theirs.
        settings: fields of a SessionSettings.
        feeds: file with the input sets.
        trace: file to write the cleaned Chrome trace to.
        min_calls: fewest calls to profile.
        limit_ns: after this time no call is added to those; there are `MOST_CALLS` at most.

    Returns:
        `provider` read back, `calls`, `wall_us` of all of them and the median
        `call_us`, `total_us` of all operators and the sum of their medians `median_us`, `operators` (fields of
        OperatorTime, `TOP` of them), `operator_count`, `nodes`.

    Raises:
        WorkError: NO_PROFILER, the runtime has none; otherwise as opening and calling.
    """
    plugin = registry.load("runtimes", runtime)()
    if not hasattr(plugin, "profile"):
        raise WorkError(runtime, "has no profiler of its own", "profile another variant", "NO_PROFILER")
    made: list[_Calls] = []

    def plan(session: Session) -> Callable[[], object]:
        made.append(_Calls(session, input_sets(feeds, input_names), min_calls, limit_ns))
        return made[0].plan()

    path = Path(artifact)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        raw = Path(folder) / "trace.json"
        plugin.profile(path, tuple(output_names), SessionSettings(**settings), raw, plan)
        events = traces.events_of(json.loads(raw.read_text(encoding="utf-8", errors="replace")))
        cleaned = traces.cleaned(events, _folders(path, Path(folder)))
    Path(trace).write_text(json.dumps(cleaned, allow_nan=False), encoding="utf-8")
    (calls,) = made
    found = traces.operators(events, len(calls.walls_ns), calls.session.provider)
    return {
        "provider": calls.session.provider,
        "calls": len(calls.walls_ns),
        "wall_us": sum(calls.walls_ns) / 1e3,
        "call_us": median(calls.walls_ns) / 1e3,
        "total_us": found.total_us,
        "median_us": found.median_us,
        "operators": [asdict(one) for one in found.times[:TOP]],
        "operator_count": len(found.times),
        "nodes": found.nodes,
    }


def on_device(
    *,
    runtime: str,
    artifact: str,
    input_names: list[str],
    output_names: list[str],
    settings: dict[str, Any],
    feeds: str,
    calls: int,
) -> dict[str, Any]:
    """What a device tells of some calls without a profiler; arguments as of `profile`.

    Returns:
        `events_ns`: median time of the compute phase by events of the device; `gpu_memory_bytes`: the most held. Each
        is None, and `events_reason` or `gpu_memory_reason` says why, where it cannot be told.
    """
    plugin = registry.load("runtimes", runtime)()
    session = plugin.open(Path(artifact), tuple(output_names), SessionSettings(**settings))
    sets = input_sets(feeds, input_names)
    for one in sets:
        session.prepare(one)()
    if session.provider == CPU:
        reason = "it runs on the CPU"
        return _told(None, reason, None, reason)
    phases = [session.phases(sets[index % len(sets)]) for index in range(calls)]
    events = [one.events_ns for one in phases if one is not None and one.events_ns is not None]
    reason = next((one.events_reason for one in phases if one is not None), "the engine takes no call apart")
    memory, why = session.gpu_memory() if hasattr(session, "gpu_memory") else (None, "the engine does not tell")
    return _told(median(events) if events else None, reason, memory, why)


def _told(events_ns: float | None, events_reason: str, memory: int | None, memory_reason: str) -> dict[str, Any]:
    return {
        "events_ns": events_ns,
        "events_reason": None if events_ns is not None else events_reason,
        "gpu_memory_bytes": memory,
        "gpu_memory_reason": None if memory is not None else memory_reason,
    }


def _folders(artifact: Path, temporary: Path) -> list[str]:
    """Folders of this machine that an engine may have written into its trace, as given and with links followed."""
    places = [artifact.parent, temporary, temporary.parent, Path.cwd(), Path.home(), Path(sys.prefix)]
    places += [Path(entry) for entry in sys.path if Path(entry).is_absolute()]
    return [str(form) for place in places for form in (place, place.resolve()) if form != Path(form.anchor)]
