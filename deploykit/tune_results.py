"""What `bench --tune` finds out, as its report shows it. Frozen, and JSON by `results.to_json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Goal = Literal["latency", "throughput", "memory"]
"""What is made small: the time of one call, the time per sample, the peak resident memory."""

GOALS: tuple[Goal, ...] = get_args(Goal)


@dataclass(frozen=True)
class Tried:
    """Settings that a search measured: `ratio` to the default as it looked there, `verdict` why not, or how it looked.

    Attributes:
        settings: what differs from the default; default settings at another batch are held against the batch asked for.
    """

    settings: str
    batch: int
    ratio: float | None
    verdict: str


@dataclass(frozen=True)
class Tuned:
    """What `--tune` found for one variant and goal.

    Attributes:
        chosen: settings that differ from the default; empty when the default stays.
        default: the default settings, in the same words.
        batch: samples in a call; for `throughput` it was looked for, too.
        ratio: of times (peak memory for `memory`) to the default at that batch, from the last comparison; `ci` with
            confidence `ci_level`. None where there was none.
        time_ratio, time_ci: of times, where the goal is memory.
        tried: everything that was measured on the way.
        seconds: wall time it took.
        said: why these settings.
    """

    variant: str
    goal: Goal
    chosen: str
    default: str
    batch: int
    ratio: float | None
    ci: tuple[float, float] | None
    ci_level: float | None
    time_ratio: float | None
    time_ci: tuple[float, float] | None
    tried: tuple[Tried, ...]
    seconds: float
    said: str
