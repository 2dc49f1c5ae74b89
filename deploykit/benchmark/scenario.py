"""Which load a benchmark puts on a model, in the words of MLPerf Inference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

from deploykit.benchmark.objective import Objective
from deploykit.errors import UsageError

Kind: TypeAlias = Literal["single-stream", "offline", "server"]

KINDS: tuple[Kind, ...] = ("single-stream", "offline", "server")

SECONDS = 120.0
"""Wall time for a sweep or a server's load, all variants together, unless somebody asks for another."""

LONGEST_S = 86_400.0
"""A day."""

HIGHEST_RATE = 1e6
"""Requests per second: one process cannot send more, one microsecond apart, on time."""

REQUESTS = 50
"""Fewest requests that have to fit into the time limit: some seven in each of seven launches."""


@dataclass(frozen=True)
class Scenario:
    """A load.

    Attributes:
        kind: `single-stream`: one request after another; `offline`: all samples are there at once, in batches;
            `server`: requests arrive at their own times.
        rate: requests per second of a server; None looks for the highest that meets the objective.
        objective: what a server's latency has to keep.
        limit_s: wall time of `offline` and `server`.
    """

    kind: Kind = "single-stream"
    rate: float | None = None
    objective: Objective | None = None
    limit_s: float = SECONDS

    @classmethod
    def parse(cls, kind: Kind, rate: float | None, slo: str | None, seconds: float | None) -> Self:
        """The options of a command line; None for what was not given.

        Raises:
            UsageError: options that do not go together, or are no numbers one can use.
        """
        for option, given in (("--rate", rate), ("--slo", slo)):
            if given is not None and kind != "server":
                raise UsageError(option, f"does not go with --scenario {kind}", "add --scenario server", "BAD_SCENARIO")
        limit_s = SECONDS if seconds is None or kind == "single-stream" else seconds  # --tune has its own rule
        objective = None if slo is None else Objective.parse(slo)
        made = cls(kind, rate, objective, limit_s)
        made.check()
        return made

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            UsageError: BAD_RATE, BAD_SECONDS.
        """
        if not (math.isfinite(self.limit_s) and 1 <= self.limit_s <= LONGEST_S):
            hint = f"a wall time of 1 to {LONGEST_S:g} seconds"
            raise UsageError(f"--seconds {self.limit_s:g}", "no time to measure in", hint, "BAD_SECONDS")
        rate = self.rate
        if rate is None:
            return
        if not (math.isfinite(rate) and 0 < rate <= HIGHEST_RATE):
            hint = f"above 0, at most {HIGHEST_RATE:,.0f}; leave it out to look for the capacity"
            raise UsageError(f"--rate {rate:g}", "no number of requests per second", hint, "BAD_RATE")
        if rate * self.limit_s < REQUESTS:
            message = f"{rate * self.limit_s:.0f} requests in {self.limit_s:g} s say nothing"
            raise UsageError(f"--rate {rate:g}", message, f"--seconds {REQUESTS / rate:.0f} or more", "BAD_RATE")
