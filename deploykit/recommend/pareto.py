"""Which variants are worth a choice at all: those that no other one beats on every side. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deploykit.measurements import BenchRow, Choice, Comparison, Goal
from deploykit.recommend.constraints import ACCURACY
from deploykit.recommend.goals import GOALS, Compare
from deploykit.recommend.traits import Traits, variant_of
from deploykit.results import VariantReport

SIDES: tuple[Goal, ...] = ("latency", "memory", "size")
"""What is measured of a variant; its exactness is the fourth side."""

POINTS = 0.001
"""Difference of two upper limits of the accuracy drop that counts, as a share: below it they differ by a handful of
samples that happened to lie near a boundary."""


def front(
    rows: Mapping[str, BenchRow],
    compare: Compare,
    traits: Mapping[str, Traits],
    verified: Mapping[str, VariantReport],
) -> tuple[tuple[str, ...], tuple[Choice, ...]]:
    """The front in the order of `rows`, and every other variant with what beats it.

    One variant beats another when it is better on one side and not worse on any. A difference within noise is none:
    latency and memory go by the verdicts of their comparisons over launches, sizes count from 2 %. A side that was not
    measured lets nothing beat anything.

    Args:
        rows: candidates by name, at the batch that decides; best first, so that the best is named as what beats.
        compare: see `goals.Compare`.
        traits: by variant.
        verified: by variant; what labels say of the accuracy.
    """
    beaten: dict[str, dict[str, str]] = {
        name: {
            other: said
            for other in rows
            if other != name and (said := _beats(other, name, compare, traits, verified)) is not None
        }
        for name in rows
    }
    best = [name for name, by in beaten.items() if not by] or list(rows)  # noise may close a circle: then nobody wins
    dominated = []
    for name, by in beaten.items():
        if name not in best:
            other = next((other for other in by if other in best), next(iter(by)))
            dominated.append(Choice(name, f"{other} is {by[other]}"))
    return tuple(best), tuple(dominated)


def _beats(
    winner: str,
    loser: str,
    compare: Compare,
    traits: Mapping[str, Traits],
    verified: Mapping[str, VariantReport],
) -> str | None:
    """What `winner` is better in, `1.8× faster, 2.1× smaller, and no worse elsewhere`; None when it does not beat."""
    better: list[str] = []
    for goal in SIDES:
        found: Comparison = compare(loser, winner, goal)
        if found.verdict in {"slower", "not_measured"}:
            return None
        if found.verdict == "faster":
            better.append(GOALS[goal].against(found).removesuffix(f" than {loser}"))
    loss = _inexactness(winner, loser, traits, verified)
    if loss > 0:
        return None
    if loss < 0:
        better.append("more exact")
    if not better:
        return None
    return ", ".join(better) + ("" if len(better) == len(SIDES) + 1 else ", and no worse in anything else")


def _inexactness(first: str, second: str, traits: Mapping[str, Traits], verified: Mapping[str, VariantReport]) -> int:
    """1 when `first` is less exact than `second`, -1 when it is more so, 0 when nothing tells them apart."""
    one, other = variant_of(first), variant_of(second)
    classes = [traits.get(name, Traits()).exactness for name in (one, other)]
    if classes[0] != classes[1]:
        return 1 if classes[0] > classes[1] else -1
    drops = [_drop(verified.get(name)) for name in (one, other)]
    if drops[0] is None or drops[1] is None or abs(drops[0] - drops[1]) <= POINTS:
        return 0
    return 1 if drops[0] > drops[1] else -1


def _drop(report: VariantReport | None) -> float | None:
    """The worst upper limit of the accuracy drop, None without labels."""
    values: Sequence[float] = [
        check.value for check in (report.checks if report else ()) if check.id == ACCURACY and check.value is not None
    ]
    return max(values, default=None)
