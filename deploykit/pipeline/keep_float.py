"""`export --keep-float auto`: which nodes have to stay in float so that a variant is precise enough.

The variant is made, held to the reference, and its nodes are ranked by what they cost. The most expensive ones are
left in float, as few as the ranking says are enough, it is made again and held to the reference again: what counts is
measured, the ranking only says where to begin. It ends at the target, when nothing improves, or when more than half
of the weights would stay in float.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploykit.bundle import Bundle, Manifest, VariantRecord
from deploykit.errors import UsageError
from deploykit.isolation import Pool
from deploykit.parity.scale import IN_DISTRIBUTION
from deploykit.pipeline.judging import Gate
from deploykit.pipeline.quantized import Ranked, rank
from deploykit.progress import Progress

AUTO = "auto"

MOST_WEIGHTS = 0.5
"""Share of the weights that may stay in float: with more the variant is not what its name says."""

LEAST_GAIN_DB = 0.1
"""Rounds that bring less have brought nothing."""

MAX_ROUNDS = 6
"""Nodes double from round to round, so this reaches 32 times as many as the ranking said."""

Make = Callable[[tuple[str, ...], Path], dict[str, Any]]
"""Makes the variant again with nodes kept in float; gives its `options` and `facts`."""


@dataclass(frozen=True)
class Wanted:
    """What the user asked for.

    Attributes:
        nodes: names that stay in float in every variant that can keep them; empty with `auto`.
        auto: find them.
        target_db: centred SQNR that is enough; None takes what the variant's budget warns at.
    """

    nodes: tuple[str, ...] = ()
    auto: bool = False
    target_db: float | None = None

    @classmethod
    def parse(cls, given: str | tuple[str, ...] | None, target_db: float | None = None) -> Wanted:
        """`auto`, or node names: a tuple, or a text with commas.

        Raises:
            UsageError: BAD_KEEP_FLOAT, no node is named, or the target is no positive number or nobody looks for it.
        """
        hint = "give auto, or node names separated by commas"
        if target_db is not None and not (math.isfinite(target_db) and target_db > 0.0):
            raise UsageError(
                f"--keep-float-target {target_db}", "not a positive number", "for example 25", "BAD_KEEP_FLOAT"
            )
        if target_db is not None and given != AUTO:
            raise UsageError("--keep-float-target", "only --keep-float auto looks for it", hint, "BAD_KEEP_FLOAT")
        if given is None or given == ():
            return cls()
        if given == AUTO:
            return cls(auto=True, target_db=target_db)
        parts = given.split(",") if isinstance(given, str) else given
        nodes = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
        if not nodes or AUTO in nodes:
            raise UsageError("--keep-float", "no node is named", hint, "BAD_KEEP_FLOAT")
        return cls(nodes)


class Staged(Bundle):
    """A bundle in the making: the reference is there, the manifest is not written yet."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest, self.digest = path, manifest, ""


@dataclass
class Search:
    """Looks for the nodes that one variant has to keep in float.

    Attributes:
        gate: over the bundle in the making.
        make: makes the variant again.
        pool: gives children.
        progress: is told of every round.
        target_db: see `Wanted`.
    """

    gate: Gate
    make: Make
    pool: Pool
    progress: Progress
    target_db: float | None = None
    tried: dict[tuple[str, ...], float] = field(default_factory=dict)

    def improve(self, record: VariantRecord, artifact: Path) -> dict[str, Any]:
        """Make the variant at `artifact` again until it is precise enough; the best one stays there.

        Returns:
            `options` and `facts` of what stays there; empty when its precision is not told in dB.

        Raises:
            DeploykitError: a variant could not be made, opened or ranked.
        """
        target = self.target_db or self.gate.budget(record).warn_sqnr_db
        first = self._measured(record, artifact)
        if target is None or first is None:
            return {}
        ranked = rank(self.gate, record, artifact, self.pool) if first < target else ()
        best, answer, kept = first, {}, 0
        stop = "no node of it can be ranked" if not ranked else ""
        count = _enough(ranked, first, target)
        step, rounds = 1, 0
        while not stop and best < target and rounds < MAX_ROUNDS:
            chosen = _affordable(ranked[:count])
            if len(chosen) <= kept:
                stop = "more than half of the weights would stay in float"
                break
            rounds += 1
            value, made = self._round(record, artifact, _names(chosen), best)
            added = _readable(chosen[kept:])
            self.progress.step(f"{record.name}: {best:.1f} dB, keeping {added} in float → {value:.1f} dB")
            if made is not None:
                stop = "" if value > best + LEAST_GAIN_DB or value >= target else "keeping more nodes brings nothing"
                best, answer, kept = value, made, len(chosen)
            else:
                stop = "keeping more nodes brings nothing"
            if count >= len(ranked):
                stop = stop or "every node is in float"
            count, step = min(count + step, len(ranked)), step * 2
        return self._told(record, answer, _affordable(ranked[:kept_of]), best, target, rounds, stop)

    def _round(
        self, record: VariantRecord, artifact: Path, nodes: tuple[str, ...], best: float
    ) -> tuple[float, dict[str, Any] | None]:
        """What the variant reaches with `nodes` in float, and what it was made with; None where the old one stays."""
        with tempfile.TemporaryDirectory(prefix=".keep-", dir=artifact.parent.parent) as folder:
            other = Path(folder) / artifact.name
            made = self.make(nodes, other)
            value = self._measured(record, other)
            if value is None or value <= best:
                return value if value is not None else -math.inf, None
            for path in artifact.parent.iterdir():
                path.unlink()
            for path in list(Path(folder).iterdir()):
                path.replace(artifact.parent / path.name)
        return value, made

    def _measured(self, record: VariantRecord, artifact: Path) -> float | None:
        """The worst centred SQNR inside the distribution in dB; None where the budget has none, or nothing answered."""
        judged = tuple(
            case.id
            for case in self.gate.records
            if case.input_class in (*IN_DISTRIBUTION, "shapes") and case.gate == "full" and not case.layout
        )
        with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
            answers = self.gate.answers(record, artifact, self.pool, Path(folder), cases=judged)
            judge = self.gate.judged(record, answers)
        found = [check.value for check in judge.checks if check.metric == "centred_sqnr_db" and check.value is not None]
        return min(found, default=None)

    def _told(
        self, record: VariantRecord, answer: dict[str, Any], kept: tuple[Ranked, ...], first: float, best: float,
        target: float, rounds: int, stop: str,
    ) -> dict[str, Any]:  # fmt: skip
        """The answer with what was found out, and one line where the target was missed."""
        reached = best >= target
        if not reached:
            reason = stop or f"{rounds} rounds were not enough"
            self.progress.step(f"{record.name}: {best:.1f} dB of {target:g} dB wanted: {reason}")
        facts = {
            "keep_float_rounds": rounds,
            "keep_float_db": round(best, 1),
            "keep_float_before_db": round(first, 1),
            "keep_float_target_db": target,
            "kept": _readable(kept) if kept else "",
        }
        if not reached:
            facts["keep_float_stopped"] = reason
        return {
            "options": answer.get("options", dict(record.options)),
            "facts": {**dict(record.facts), **answer.get("facts", {}), **facts},
        }


def _enough(ranked: tuple[Ranked, ...], value: float, target: float) -> int:
    """How many nodes the ranking says are enough: noises add up, and `value` dB is what they amount to together."""
    total = sum(entry.noise for entry in ranked)
    left = total
    for count, entry in enumerate(ranked, 1):
        left -= entry.noise
        if left <= 0.0 or value + 10.0 * math.log10(total / left) >= target:
            return count
    return max(1, len(ranked))


def _names(chosen: tuple[Ranked, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for entry in chosen for name in entry.keep))


def _readable(chosen: tuple[Ranked, ...]) -> str:
    names = [entry.module for entry in chosen]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
