"""`export --keep-float auto`: which nodes have to stay in float so that a variant is precise enough.

The variant is made, held to the reference, and its nodes are ranked by what they cost. The most expensive ones are
left in float, as few as the ranking says are enough, it is made again and held to the reference again: what counts is
measured, the ranking only says where to begin. It ends at the target, when nothing improves, or when more than half
of the weights would stay in float.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit.bundle import Bundle, Manifest, VariantRecord
from deploykit.errors import DeploykitError, UsageError, WorkError
from deploykit.isolation import Pool
from deploykit.parity.values import ORDINARY
from deploykit.pipeline.quantized import rank
from deploykit.progress import Progress
from deploykit.results import Ranked

if TYPE_CHECKING:
    from deploykit.pipeline.judging import Gate  # imports scipy, which export does without

AUTO = "auto"

MOST_WEIGHTS = 0.5
"""Share of the weights that may stay in float: with more the variant is not what its name says."""

LEAST_GAIN_DB = 0.1
"""Rounds that bring less have brought nothing."""

MAX_IDLE = 2
"""Rounds in a row that may bring nothing: a neighbour left in integers can make one node in float useless."""

MOST_DB = 400.0
"""More than float64 can tell apart."""

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


@dataclass(frozen=True)
class _Attempt:
    """A form of the variant: what it reaches in dB, what stays in float in it, what it was made with."""

    db: float
    kept: tuple[Ranked, ...] = ()
    made: dict[str, Any] = field(default_factory=dict)


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

    def improve(self, record: VariantRecord, artifact: Path) -> dict[str, Any]:
        """Make the variant at `artifact` again until it is precise enough; the best one stays there.

        Returns:
            `options` and `facts` of what stays there; empty when its precision is not told in dB.

        Raises:
            DeploykitError: the variant could not be opened.
        """
        target = self.target_db or self.gate.budget(record).warn_sqnr_db
        first = self._measured(record, artifact)
        if target is None or first is None:
            return {}
        best, rounds, stop = _Attempt(first), 0, ""
        if first < target:
            best, rounds, stop = self._searched(record, artifact, best, target)
        facts: dict[str, Any] = {"keep_float_rounds": rounds, "keep_float_db": round(best.db, 1)}
        if best.kept:
            facts |= {"kept": _readable(best.kept), "before_db": round(first, 1)}
        if stop:
            facts["keep_float_stopped"] = stop
            self.progress.note(f"{record.name}: {best.db:.1f} dB of {target:g} dB wanted: {stop}")
        return {
            "options": best.made.get("options", dict(record.options)),
            "facts": {**dict(record.facts), **best.made.get("facts", {}), **facts},
        }

    def _searched(
        self, record: VariantRecord, artifact: Path, best: _Attempt, target: float
    ) -> tuple[_Attempt, int, str]:
        """The best attempt, after how many rounds, and why it is not good enough; empty when it is."""
        try:
            ranked = rank(self.gate, record, artifact, self.pool)
        except DeploykitError as error:  # the variant itself is made and stays
            return best, 0, f"its nodes cannot be ranked: {error.message}"
        if not ranked:
            return best, 0, "no node of it can be ranked"
        count, step, idle = _enough(ranked, best.db, target), 1, 0
        for rounds in range(1, MAX_ROUNDS + 1):
            chosen = _affordable(ranked[:count])
            added = [entry for entry in chosen if entry not in best.kept]
            if not added:
                return best, rounds - 1, "more than half of the weights would stay in float"
            try:
                found = self._round(record, artifact, chosen, best)
            except WorkError as error:
                return best, rounds, error.message
            text = f"{best.db:.1f} dB, keeping {_readable(added)} in float → {found.db:.1f} dB"
            self.progress.note(f"{record.name}: {text}")
            if found.db >= target:
                return found, rounds, ""
            idle = 0 if found.db >= best.db + LEAST_GAIN_DB else idle + 1
            best = found if found.db > best.db else best
            if idle == MAX_IDLE:
                return best, rounds, "keeping more nodes brings nothing"
            count, step = count + step, step * 2
        return best, MAX_ROUNDS, f"{MAX_ROUNDS} rounds were not enough"

    def _round(self, record: VariantRecord, artifact: Path, chosen: tuple[Ranked, ...], best: _Attempt) -> _Attempt:
        """The variant with the `chosen` nodes in float; it takes the place of `best` when it is better."""
        with tempfile.TemporaryDirectory(prefix=".keep-", dir=artifact.parent.parent) as folder:
            other = Path(folder) / artifact.name
            made = self.make(tuple(dict.fromkeys(name for entry in chosen for name in entry.keep)), other)
            value = self._measured(record, other)
            if value is not None and value > best.db:
                for path in artifact.parent.iterdir():
                    path.unlink()
                for path in list(Path(folder).iterdir()):
                    path.replace(artifact.parent / path.name)
        return _Attempt(-math.inf if value is None else value, chosen, made)

    def _measured(self, record: VariantRecord, artifact: Path) -> float | None:
        """The worst centred SQNR that verify would hold it to, in dB; None where it is not held to one."""
        judged = tuple(
            case.id
            for case in self.gate.records
            if case.input_class in ORDINARY and case.gate == "full" and not case.layout
        )
        with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
            answers = self.gate.answers(record, artifact, self.pool, Path(folder), cases=judged)
            judge = self.gate.judged(record, answers)
        found = [check.value for check in judge.checks if check.metric == "centred_sqnr_db" and check.value is not None]
        return min((_told(value) for value in found), default=None)


def _told(value_db: float) -> float:
    """A number that a manifest can hold: NaN is as bad as it gets."""
    return -MOST_DB if math.isnan(value_db) else max(-MOST_DB, min(value_db, MOST_DB))


def _enough(ranked: tuple[Ranked, ...], value: float, target: float) -> int:
    """How many nodes the ranking says are enough: noises add up, and `value` dB is what they amount to together."""
    total = sum(entry.noise for entry in ranked)
    left = total
    for count, entry in enumerate(ranked, 1):
        left -= entry.noise
        if left <= 0.0 or value + 10.0 * math.log10(total / left) >= target:
            return count
    return max(1, len(ranked))


def _affordable(ranked: tuple[Ranked, ...]) -> tuple[Ranked, ...]:
    """The nodes that can stay in float together, the most expensive ones first."""
    chosen, weights = [], 0.0
    for entry in ranked:
        if weights + entry.weights <= MOST_WEIGHTS:
            chosen.append(entry)
            weights += entry.weights
    return tuple(chosen)


def _readable(chosen: Sequence[Ranked]) -> str:
    names = [entry.module for entry in chosen]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
