"""Reading and cleaning the Chrome traces that engines write about themselves. Pure.

The format: "Trace Event Format" of Chromium's catapult project; `ts` and `dur` are microseconds. Operators are what
ONNX Runtime files under `Node` and torch under `cpu_op`; torch files what ran on a device under `kernel` and `gpu_…`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

from deploykit.profile_results import OperatorTime

Event: TypeAlias = Mapping[str, Any]
"""One entry of a trace."""

RUN = "model_run"
"""How ONNX Runtime calls one call in its trace."""

MEMCPY = "Memcpy"
"""What nodes are counted as that onnxruntime put in to carry data between providers."""

_SUFFIX = "_kernel_time"
_HOST = {"Node", "cpu_op"}
_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}
_EXTERNAL = "External id"


@dataclass(frozen=True)
class Operators:
    """Where the time of some calls went.

    Attributes:
        times: largest first, by the median over calls.
        total_us: of all calls and operators, microseconds.
        median_us: sum of the operators' medians: a call that nothing interrupted.
        nodes: nodes per provider, and under `MEMCPY` those that only carry data; empty where an engine does not tell.
    """

    times: tuple[OperatorTime, ...]
    total_us: float
    median_us: float
    nodes: dict[str, int]


def events_of(document: Any) -> list[Event]:
    """The complete and the metadata events of a trace, be it a list or an object; others and broken ones are left out.

    Every event has a name, whole numbers for `pid` and `tid`, a `ts`, and a `dur` where it is complete.
    """
    found = document.get("traceEvents", []) if isinstance(document, dict) else document
    return [event for event in found if isinstance(event, dict) and _sound(event)]


def _sound(event: Event) -> bool:
    phase = event.get("ph")
    timed = _number(event.get("ts")) and (phase == "M" or (_number(event.get("dur")) and event["dur"] >= 0))
    whole = all(type(event.get(key)) is int for key in ("pid", "tid"))
    return phase in {"X", "M"} and timed and whole and isinstance(event.get("name"), str)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def cleaned(events: Sequence[Event], hidden: Iterable[str]) -> dict[str, Any]:
    """A trace for others to open: times from zero on, nothing about the machine.

    Args:
        events: from `events_of`.
        hidden: folders of this machine, taken out of every text.
    """
    start = min((event["ts"] for event in events), default=0)
    prefixes = sorted({prefix for prefix in hidden if len(prefix) > 1}, key=len, reverse=True)
    shifted = [{**event, "ts": event["ts"] - start} for event in events]
    return {"displayTimeUnit": "ms", "traceEvents": [_without(event, prefixes) for event in shifted]}


def _without(value: Any, prefixes: Sequence[str]) -> Any:
    if isinstance(value, str):
        for prefix in prefixes:
            value = value.replace(f"{prefix}/", "").replace(prefix, "")
        return value
    if isinstance(value, dict):
        return {_without(key, prefixes): _without(inner, prefixes) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without(inner, prefixes) for inner in value]
    return value


def operators(events: Sequence[Event], calls: int, provider: str) -> Operators:
    """Self times of operators over the last `calls` calls: what an operator calls in turn counts for that one.

    What an operator takes in a call is the median over calls, and shares are of those medians: when the scheduler
    takes the processor away for milliseconds, some operator was running, and it is not to be blamed.

    Where a trace has events of a device, their time is told, under the operator that launched them, and not the
    host's: the host only waits meanwhile.

    Args:
        events: from `events_of`.
        calls: how many calls were to be profiled; what ONNX Runtime wrote about those before them is left out.
        provider: full name, for engines that do not write one into their trace.
    """
    runs = sorted(event["ts"] for event in events if event["name"] == RUN and event.get("cat") == "Session")
    begins = runs[-calls:] if len(runs) >= calls > 0 else []
    begin = begins[0] if begins else float("-inf")
    spans = [event for event in events if event["ph"] == "X" and event["ts"] >= begin]
    host = [event for event in spans if event.get("cat") in _HOST]
    device = [event for event in spans if event.get("cat") in _DEVICE]
    found = _on_device(device, host) if device else _self_times(host)
    seen: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for event, us in found:
        seen[_identity(event, provider)].append((event["ts"], us))
    usual = {key: _per_call(sorted(events), calls, begins) for key, events in seen.items()}
    whole = sum(usual.values())
    times = [
        OperatorTime(
            *key, len(events), sum(us for _, us in events), usual[key] / whole if whole else 0.0, usual[key]
        )
        for key, events in seen.items()
    ]  # fmt: skip
    times.sort(key=lambda one: (-one.median_us, -one.total_us, one.name))
    return Operators(tuple(times), sum(one.total_us for one in times), whole, _nodes(host))


def _per_call(events: Sequence[tuple[float, float]], calls: int, begins: Sequence[float]) -> float:
    """Median over calls of an operator's time in one.

    Which call an event belongs to is told by when calls began. Where the engine does not write that down, an operator
    that ran n times in each call tells it by its order; one whose runs do not divide among the calls has its mean.

    Args:
        events: (begin, microseconds) of its runs, in order.
        calls: how many calls there were.
        begins: when each of them began; empty where that is unknown.
    """
    each = [0.0] * max(calls, 1)
    if not begins and len(events) % len(each):
        return sum(us for _, us in events) / len(each)
    for index, (begin, us) in enumerate(events):
        each[bisect_right(begins, begin) - 1 if begins else index * len(each) // len(events)] += us
    return float(median(each))


def _identity(event: Event, provider: str) -> tuple[str, str, str]:
    """Name, type and provider of an operator."""
    name, told = event["name"], event.get("args", {})
    if event.get("cat") == "Node":
        name = name.removesuffix(_SUFFIX)
        return name, str(told.get("op_name") or name), str(told.get("provider") or provider)
    return name, name.rpartition("::")[2], provider


def _self_times(events: Sequence[Event]) -> Iterator[tuple[Event, float]]:
    """Each event with its duration less that of the events directly inside of it, thread by thread."""
    threads: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in events:
        threads[event["pid"], event["tid"]].append(event)
    for spans in threads.values():
        open_: list[tuple[Event, list[float]]] = []
        for event in sorted(spans, key=lambda span: (span["ts"], -span["dur"])):
            while open_ and event["ts"] >= open_[-1][0]["ts"] + open_[-1][0]["dur"]:
                yield _closed(*open_.pop())
            if open_:
                open_[-1][1].append(event["dur"])
            open_.append((event, []))
        while open_:
            yield _closed(*open_.pop())


def _closed(event: Event, inside: Sequence[float]) -> tuple[Event, float]:
    return event, max(0.0, float(event["dur"]) - sum(inside))


def _on_device(device: Sequence[Event], host: Sequence[Event]) -> Iterator[tuple[Event, float]]:
    """Device events under the operator that launched them, else under their own name."""
    launched = {event["args"][_EXTERNAL]: event for event in host if _EXTERNAL in event.get("args", {})}
    for event in device:
        owner = launched.get(event.get("args", {}).get(_EXTERNAL), event)
        yield {**event, "name": owner["name"], "cat": "kernel"}, float(event["dur"])


def _nodes(events: Sequence[Event]) -> dict[str, int]:
    """Distinct nodes of an ONNX graph by the provider that ran them, largest first."""
    seen: dict[tuple[str, str], str] = {}
    for event in events:
        told = event.get("args", {})
        if event.get("cat") == "Node" and told.get("provider"):
            carried = str(told.get("op_name", "")).startswith(MEMCPY)
            key = (event["name"], str(told.get("node_index", "")))
            seen[key] = MEMCPY if carried else str(told["provider"])
    return dict(Counter(seen.values()).most_common())
