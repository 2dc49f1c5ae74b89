"""What the machine did to us while we measured: stolen time, throttling, load and pressure.

All of it is read beside the readings and never from them: a round is left out because the hypervisor or the control
group took the processor away, whatever the times look like. Every value is None where the system does not tell.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from deploykit.environment import control_groups

STEAL = 0.05
"""Largest share of the wall time of our cores that may be stolen in a round (the protocol's 5 %)."""

CLOCK_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
"""Ticks in a second, as /proc/stat counts."""

_STEAL_COLUMN = 8
"""`cpu0 user nice system idle iowait irq softirq steal …` (proc_stat(5))."""


@dataclass(frozen=True)
class Counters:
    """What the system has counted since it started.

    Attributes:
        steal_ticks: ticks in which the hypervisor ran somebody else, summed over the cores this process may use.
        cores: how many these are.
        throttled: periods in which a control group of ours had used up its quota.
        throttled_us: microseconds for which it was stopped then.
    """

    steal_ticks: int | None = None
    cores: int = 1
    throttled: int | None = None
    throttled_us: int | None = None


@dataclass(frozen=True)
class Round:
    """One turn of all subjects, and what befell it.

    Attributes:
        launch, batch, index: which round this is; `index` is that of the blocks made in it.
        seconds: wall time.
        steal: share of the wall time of our cores that was stolen.
        throttled: periods in which the control group's quota was used up.
        throttled_us: microseconds lost to that.
        disturbed: why the round cannot be used, by rules that do not look at the readings; empty when it can.
    """

    launch: int
    batch: int
    index: int
    seconds: float
    steal: float | None = None
    throttled: int | None = None
    throttled_us: int | None = None
    disturbed: str = ""


@dataclass(frozen=True)
class Surroundings:
    """The machine as a launch found it.

    Attributes:
        load_average: runnable processes over the last minute; of the time before, mostly.
        pressure: percent of the last ten seconds in which somebody waited for a core (PSI, `some avg10`).
    """

    launch: int
    load_average: float | None = None
    pressure: float | None = None


def counters(stat: Path = Path("/proc/stat")) -> Counters:
    """What the system has counted by now."""
    steal, cores = _steal(_text(stat), _usable())
    periods, waited = _throttling(_text(path) for path in _throttle_files())
    return Counters(steal, cores, periods, waited)


def surroundings(launch: int, pressure: Path = Path("/proc/pressure/cpu")) -> Surroundings:
    """The machine right now."""
    try:
        load: float | None = round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        load = None
    return Surroundings(launch, load, _some_avg10(_text(pressure)))


@dataclass(frozen=True)
class Senses:
    """How `measure` perceives time and the machine; tests bring others."""

    clock: Callable[[], float] = time.monotonic
    counters: Callable[[], Counters] = counters
    surroundings: Callable[[int], Surroundings] = surroundings


@dataclass
class Watch:
    """Watches one round from its beginning."""

    senses: Senses
    _started: float = field(init=False)
    _before: Counters = field(init=False)

    def __post_init__(self) -> None:
        self._started, self._before = self.senses.clock(), self.senses.counters()

    def ended(self, launch: int, batch: int, index: int) -> Round:
        """The round that began when this was made and has just ended."""
        after, before = self.senses.counters(), self._before
        seconds = self.senses.clock() - self._started
        ticks = _grown(before.steal_ticks, after.steal_ticks)
        wall = seconds * CLOCK_TICKS * after.cores
        steal = None if ticks is None or wall <= 0 else ticks / wall
        throttled = _grown(before.throttled, after.throttled)
        waited = _grown(before.throttled_us, after.throttled_us)
        why = _disturbed(ticks or 0, steal or 0.0, throttled or 0)
        return Round(launch, batch, index, seconds, steal, throttled, waited, why)


def _disturbed(ticks: int, steal: float, throttled: int) -> str:
    """Which rule a round breaks; a single tick is no more than the counter's resolution."""
    if throttled:
        return "throttled"
    return "steal" if ticks > 1 and steal > STEAL else ""


def _grown(before: int | None, after: int | None) -> int | None:
    """By how much a counter grew; one that went back (a core was taken away) says nothing."""
    if before is None or after is None or after < before:
        return None
    return after - before


def _usable() -> frozenset[int] | None:
    ask = getattr(os, "sched_getaffinity", None)  # absent on macOS
    return None if ask is None else frozenset(ask(0))


def _steal(stat: str, usable: frozenset[int] | None) -> tuple[int | None, int]:
    """Stolen ticks of the usable cores, and how many cores these are."""
    found = []
    for line in stat.splitlines():
        name, *values = line.split()
        number = name.removeprefix("cpu")
        if not name.startswith("cpu") or not number.isdecimal() or (usable is not None and int(number) not in usable):
            continue
        if len(values) >= _STEAL_COLUMN:
            found.append(int(values[_STEAL_COLUMN - 1]))
    return (sum(found), len(found)) if found else (None, os.cpu_count() or 1)


@cache
def _throttle_files() -> tuple[Path, ...]:
    """The `cpu.stat` of our control groups and those above, each once however many names it has."""
    files = (folder / "cpu.stat" for folder in control_groups())
    return tuple(dict.fromkeys(path.resolve() for path in files if path.is_file()))


def _throttling(stats: Iterable[str]) -> tuple[int | None, int | None]:
    """Throttled periods and microseconds over all groups; v1 counts `throttled_time` in nanoseconds."""
    periods: list[int] = []
    waited: list[int] = []
    for text in stats:
        known = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
        if known.get("nr_throttled", "").isdecimal():
            periods.append(int(known["nr_throttled"]))
        if known.get("throttled_usec", "").isdecimal():
            waited.append(int(known["throttled_usec"]))
        elif known.get("throttled_time", "").isdecimal():
            waited.append(int(known["throttled_time"]) // 1000)
    return sum(periods) if periods else None, sum(waited) if waited else None


def _some_avg10(text: str) -> float | None:
    """`some avg10=1.23 avg60=…` as 1.23."""
    for line in text.splitlines():
        kind, *values = line.split()
        for value in values:
            name, _, number = value.partition("=")
            if (kind, name) == ("some", "avg10"):
                try:
                    return float(number)
                except ValueError:
                    return None
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
