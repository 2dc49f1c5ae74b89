"""What a goal is measured in, and how a difference in it is told. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from deploykit.measurements import BenchRow, Comparison, Goal
from deploykit.units import duration, size, times

Compare: TypeAlias = Callable[[str, str, Goal], Comparison]
"""(base, candidate, goal) to their comparison at the batch in question: ratio of costs, below 1 is better.

The cost is time per call, time per sample, bytes in memory, bytes on disk; `faster` says that it is lower, `slower`
that it is higher.
"""


@dataclass(frozen=True)
class Measured:
    """How one goal reads a row.

    Attributes:
        cost: what is to be small; None where it was not measured.
        said: the number in words.
        better, worse: adjectives for `2.6× faster than eager`.
    """

    cost: Callable[[BenchRow], float | None]
    said: Callable[[BenchRow], str]
    better: str
    worse: str

    def against(self, found: Comparison) -> str:
        """`2.6× faster than eager`; empty when the two were not compared."""
        if found.ratio is None:
            return ""
        if found.verdict == "indistinguishable":
            return f"indistinguishable from {found.base}"
        word = self.better if found.verdict == "faster" else self.worse
        return f"{times(max(found.ratio, 1 / found.ratio))} {word} than {found.base}"


def _seconds_per_sample(row: BenchRow) -> float | None:
    return 1 / row.throughput_per_s if row.throughput_per_s else None


GOALS: dict[Goal, Measured] = {
    "latency": Measured(lambda row: row.median_ns, lambda row: f"median {duration(row.median_ns)}", "faster", "slower"),
    "throughput": Measured(
        _seconds_per_sample, lambda row: f"{row.throughput_per_s:,.0f} samples/s", "faster", "slower"
    ),
    "memory": Measured(
        lambda row: row.peak_rss_bytes,
        lambda row: f"peak memory {size(row.peak_rss_bytes)}",
        "smaller in memory",
        "larger in memory",
    ),
    "size": Measured(lambda row: row.file_bytes, lambda row: size(row.file_bytes), "smaller", "larger"),
}


def ratio(found: Comparison) -> str:
    """`ratio 1.27 [1.24, 1.30]`."""
    limits = "" if found.ci is None else f" [{found.ci[0]:.2f}, {found.ci[1]:.2f}]"
    return "ratio unknown" if found.ratio is None else f"ratio {found.ratio:.2f}{limits}"
