"""What a search for settings can choose from. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

from deploykit.session import GRAPH_LEVELS, SessionSettings
from deploykit.tune_results import Goal

AXES: dict[Goal, tuple[str, ...]] = {
    "latency": ("threads", "spinning", "graph_level", "binding", "arena"),
    "throughput": ("threads", "spinning", "graph_level", "binding", "arena"),
    "memory": ("arena", "threads", "graph_level", "binding"),
}
"""Settings in the order in which they are tried: what usually matters most comes first."""


@dataclass(frozen=True)
class Candidate:
    """Settings at one batch size."""

    settings: SessionSettings
    batch: int


@dataclass(frozen=True)
class Space:
    """What can be chosen.

    Attributes:
        plain: the default settings at the batch asked for.
        cores: no candidate has more threads.
        axes: names of settings, in order.
        batches: sizes to try, ascending; none where the batch is given.
    """

    plain: Candidate
    cores: int
    axes: tuple[str, ...]
    batches: tuple[int, ...] = ()

    @property
    def is_empty(self) -> bool:
        """There is nothing but the default."""
        return not self.batches and not any(self.others(self.plain, axis) for axis in self.axes)

    def plain_at(self, batch: int) -> Candidate:
        """The default settings at another batch."""
        return replace(self.plain, batch=batch)

    def words(self, candidate: Candidate) -> str:
        """What differs from the default: `threads=1,spinning=off`; empty for the default."""
        settings = candidate.settings
        return (replace(settings, threads=None) if settings.threads == self.plain.settings.threads else settings).words

    def differing(self, candidate: Candidate) -> list[str]:
        """Names of the settings that differ from the default."""
        mine, plain = candidate.settings, self.plain.settings
        return [one.name for one in fields(mine) if getattr(mine, one.name) != getattr(plain, one.name)]

    def others(self, at: Candidate, axis: str) -> list[Candidate]:
        """The candidates that differ from `at` in one setting; none where it cannot matter."""
        if axis == "batch":
            near = [pair for pair in pairwise(self.batches) if at.batch in pair]
            return [replace(at, batch=batch) for pair in near for batch in pair if batch != at.batch]
        if axis == "spinning" and at.settings.threads == 1:  # nobody is there to spin
            return []
        values = {"threads": thread_counts(self.cores), "graph_level": GRAPH_LEVELS[::-1]}.get(axis, (True, False))
        now = getattr(at.settings, axis)
        return [self.changed(at, axis, value) for value in values if value != now]

    def changed(self, at: Candidate, name: str, value: object) -> Candidate:
        """`at` with another value of one setting, and without what then means nothing."""
        changes: dict[str, Any] = {name: value}
        if changes.get("threads", at.settings.threads) == 1:
            changes["spinning"] = self.plain.settings.spinning
        return replace(at, settings=replace(at.settings, **changes))


def thread_counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4, … and `cores` itself, ascending."""
    return tuple(sorted({*(2**n for n in range(cores.bit_length()) if 2**n <= cores), cores}))
