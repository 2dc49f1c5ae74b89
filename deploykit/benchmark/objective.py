"""A service-level objective: which percentile of latency has to stay under which limit. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from deploykit.errors import UsageError
from deploykit.units import duration, nanoseconds

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
"""The percentiles of latency under load, as people write them."""

LONGEST_NS = 600e9
"""A limit beyond ten minutes is a slip of the finger."""

DEFAULT_FACTOR = 10
"""The objective nobody gave: p99 within this many times the median of a request alone. A convention, no law."""


@dataclass(frozen=True)
class Objective:
    """`percentile` (a key of `QUANTILES`) of the latency is at most `limit_ns`."""

    percentile: str
    limit_ns: float

    @property
    def quantile(self) -> float:
        """The percentile as a fraction."""
        return QUANTILES[self.percentile]

    def __str__(self) -> str:
        return f"{self.percentile} ≤ {duration(self.limit_ns)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """`p99=5ms`, `p90=800us`, `p99.9=0.2s`.

        Raises:
            UsageError: BAD_SLO.
        """
        name, _, limit = text.strip().partition("=")
        try:
            value = nanoseconds(limit)
        except ValueError:
            value = math.nan
        if name not in QUANTILES or not 0 < value <= LONGEST_NS:
            hint = f"PERCENTILE=TIME, for example p99=5ms ({', '.join(QUANTILES)}; ns, us, ms or s)"
            raise UsageError(f"--slo {text}", "no objective for a latency", hint, "BAD_SLO")
        return cls(name, value)

    @classmethod
    def usual(cls, median_ns: float) -> Self:
        """What is aimed at where nobody said anything: p99 within ten times the median of a request alone."""
        return cls("p99", DEFAULT_FACTOR * median_ns)
