"""Whether the gate's answer is worse than a stored one. Pure: two records in, a report out.

A budget says how wrong a variant may be at all. A baseline says how wrong it was: an upgrade that makes an artifact
three times noisier stays within the budget, and is still worth stopping for. Eager itself is watched in the same way,
since an exporter that follows a changed eager faithfully passes every comparison with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from deploykit.parity.baseline import RANK, Baseline, Key, Value, VariantValues, rounded
from deploykit.parity.budget import FP32
from deploykit.parity.sketch import Sketch, distance
from deploykit.results import EXIT_OF, BaselineReport, CheckVerdict, Drift, VariantVerdict

FACTOR = 1.63
"""Spread of the RMSE over legitimate fp32 evaluations of one module (MLP, ResNet18, MobileNetV3, ViT, BERT): within it
two values are the same. For decibels it is 20·log10(1.63) = 4.2 dB."""

STEP = 1.0
"""A value in units of eager's own noise is not worse before it grew by one such unit, too."""

SHARE = 0.25
"""For other values with a limit: by a quarter of the limit, which is what STEP is of the fp32 limit."""

CLEAR_DB = 120.0
"""Above this a signal-to-noise ratio says how lucky the rounding was: fp32 arithmetic itself has 120 to 140 dB."""

AGREEMENT_STEP = 0.005
"""Decisions that may differ: the half point that an accuracy may lose."""

_IN_NOISE = {"R", "half_ratio"}


def against(before: Baseline, now: Baseline, asked: tuple[str, ...] | None = None) -> BaselineReport:
    """What became worse, what changed in the reference, and what improved.

    Args:
        before: the baseline.
        now: the same of the answer just had; its `source` is the baseline's.
        asked: variants that were to be verified, None for all: only those can have vanished.
    """
    drifts = [*_reference(before, now)]
    known = [variant for variant in before.variants if asked is None or variant.name in asked]
    drifts += [drift for variant in known for drift in _variant(variant, now)]
    drifts.sort(key=lambda drift: -RANK[drift.verdict])
    failed = [drift for drift in drifts if drift.verdict == "fail"]
    open_ = [drift for drift in drifts if drift.verdict == "inconclusive"]
    verdict: VariantVerdict = "fail" if failed else "inconclusive" if open_ else "pass"
    compared = sum(len(variant.checks) for variant in known)
    reason = f"{compared} checks and {len(before.reference)} answers of eager: none is worse"
    if failed:
        reason = f"{len(failed)} worse than the baseline"
    elif open_:
        reason = open_[0].reason
    code = next((drift.code for drift in (*failed, *open_)), "")
    return BaselineReport(verdict, EXIT_OF[verdict], code, reason, tuple(drifts), changed_packages(before, now))


def changed_packages(before: Baseline, now: Baseline) -> tuple[str, ...]:
    """`torch 2.14.0 → 2.15.0`, for every package that is not the same; the processor, too."""
    here = list(_changes(before.packages, now.packages))
    there = [f"{text} (at export)" for text in _changes(before.made_with, now.made_with) if text not in here]
    machine = [f"cpu {before.cpu} → {now.cpu}"] if before.cpu != now.cpu else []
    return (*here, *there, *machine)


def _changes(before: Mapping[str, str | None], now: Mapping[str, str | None]) -> Iterator[str]:
    for name in sorted({*before, *now}):
        if (old := before.get(name)) != (new := now.get(name)):
            yield f"{name} {old or 'absent'} → {new or 'absent'}"


def _variant(before: VariantValues, now: Baseline) -> Iterator[Drift]:
    after = next((variant for variant in now.variants if variant.name == before.name), None)
    if after is None:
        yield _row(before.name, "fail", "the variant has vanished")
        return
    graver = RANK[after.verdict] > RANK[before.verdict]
    if before.checks and not after.checks:
        reason = f"{before.verdict} → {after.verdict}{f', {after.code}' if after.code else ''}: nothing was compared"
        yield _row(before.name, "fail", reason)
        return
    found = list(_checks(before, after))
    yield from found
    if graver and not any(drift.verdict == "fail" for drift in found):
        yield _row(before.name, "fail", f"{before.verdict} → {after.verdict}{f', {after.code}' if after.code else ''}")


def _checks(before: VariantValues, after: VariantValues) -> Iterator[Drift]:
    now = {value.key: value for value in after.checks}
    places: dict[tuple[str, str], list[Value]] = {}
    for value in after.checks:
        places.setdefault((value.id, value.output), []).append(value)
    known = {value.key for value in before.checks}
    told: set[Key] = set()
    for old in before.checks:
        new = now.get(old.key)
        if new is not None:
            yield from _value(before.name, old, new)
            continue
        # the same place may be judged by something else now: a wrong pattern or shape ends the comparison before R
        others = [value for value in places.get((old.id, old.output), []) if value.key not in known]
        graver = [value for value in others if RANK[value.verdict] > RANK[old.verdict]]
        if graver:
            worst = max(graver, key=lambda value: RANK[value.verdict])
            if worst.key not in told:
                told.add(worst.key)
                reason = f"{old.metric} {old.verdict} → {worst.metric} {worst.verdict}"
                yield _drift(before.name, old, _graded(old, worst), reason, None)
        elif old.verdict in {"pass", "skipped"} or not others:
            yield _drift(before.name, old, "fail", "the check has vanished", None)


def _value(variant: str, old: Value, new: Value) -> Iterator[Drift]:
    """One check, then and now."""
    graver = RANK[new.verdict] - RANK[old.verdict]
    words = f"{old.verdict} → {new.verdict}" if graver else ""
    if old.value is not None and new.value is not None and _worse(old, new.value, new):
        yield _drift(variant, old, "fail", words or "worse by more than its noise", new.value)
    elif graver > 0:
        yield _drift(variant, old, _graded(old, new), words, new.value)
    elif old.value is not None and new.value is None and new.verdict != "skipped":
        yield _drift(variant, old, "warn", "there is no value any more", None)
    elif graver < 0 or (old.value is not None and new.value is not None and _worse(new, old.value, old)):
        yield _drift(variant, old, "pass", words or "improved", new.value)


def _graded(old: Value, new: Value) -> CheckVerdict:
    """A new warning is told and stops nothing; everything graver does."""
    return "warn" if (old.verdict, new.verdict) == ("pass", "warn") else "fail"


def _worse(old: Value, after: float, new: Value) -> bool:
    """Whether `after` is worse than the old value by more than the noise of its metric.

    `new` gives the direction and the limit; see `FACTOR`, `STEP`, `SHARE`, `CLEAR_DB` and `AGREEMENT_STEP`.
    """
    before = old.value
    if before is None or math.isnan(before):
        return False
    if math.isnan(after):
        return True
    if new.metric == "agreement":
        return after < before - AGREEMENT_STEP
    if new.metric.endswith("_db"):
        lost = min(before, CLEAR_DB) - min(after, CLEAR_DB)
        return new.at_least and lost > 20.0 * math.log10(FACTOR)
    if new.limit is None:  # no limit, no known direction
        return False
    if new.at_least:
        return before - after > SHARE * abs(before - new.limit)
    if new.limit == 0.0:  # a count of what must not be
        return after > before
    step = STEP if new.metric in _IN_NOISE else SHARE * new.limit
    return after > before * FACTOR and after > before + step


# --- eager itself -----------------------------------------------------------------------------------------------------


def _reference(before: Baseline, now: Baseline) -> Iterator[Drift]:
    """What eager answered then and now, case by case."""
    after = {(item.case, item.output): item for item in now.reference}
    other: list[Sketch] = []
    for old in before.reference:
        new = after.get((old.case, old.output))
        if new is None:
            yield _eager(old, "fail", "the case has vanished from the reference", None, None)
        elif old.inputs != new.inputs:
            other.append(old)
        else:
            yield from _answer(old, new)
    if not other:
        return
    cases = ", ".join(dict.fromkeys(item.case for item in other))
    every = len(other) == len(before.reference)
    reason = f"other inputs than the baseline's ({cases}): eager itself is not compared; --update-baseline takes these"
    yield Drift("", "", "", "inputs", "inconclusive" if every else "warn", "BASELINE_INPUTS", None, None, reason)


def _answer(old: Sketch, new: Sketch) -> Iterator[Drift]:
    """One answer of eager to the same question.

    The float64 answer of the same arithmetic moves by 1e-9 of eager's fp32 noise; a module that rounds to fp32 inside
    by about that noise itself. FACTOR is beyond both.
    """
    if (old.elements, old.finite) != (new.elements, new.finite):
        reason = f"eager gave {old.finite} finite of {old.elements} numbers, now {new.finite} of {new.elements}"
        yield _eager(old, "fail", reason, None, None)
    elif old.strong and not new.strong:
        yield _eager(old, "fail", "eager has no float64 answer any more", None, None)
    elif old.strong == new.strong:
        moved = _in_units(distance(old, new), old.noise)
        if moved > FACTOR:
            reason = "eager answers the same question differently, in units of its own fp32 noise"
            yield _eager(old, "fail", reason, 0.0, moved)
        yield from _noise(old, new)


def _noise(old: Sketch, new: Sketch) -> Iterator[Drift]:
    """A noisier eager loosens R for every variant, so it is held to what a variant is."""
    grown = _in_units(new.noise, old.noise)
    limit = FP32.max_r or 0.0
    if grown > FACTOR:
        reason = f"eager's own fp32 noise is {grown:.3g} times the baseline's: R hides as much"
        yield _eager(old, "fail" if grown > limit else "warn", reason, 1.0, grown)


def _in_units(value: float, noise: float) -> float:
    return value / noise if noise else (0.0 if value == 0.0 else math.inf)


# --- rows -------------------------------------------------------------------------------------------------------------


def _eager(old: Sketch, verdict: CheckVerdict, reason: str, before: float | None, after: float | None) -> Drift:
    return Drift("", old.case, old.output, "eager", verdict, "REFERENCE_DRIFT", before, rounded(after), reason)


def _row(variant: str, verdict: CheckVerdict, reason: str) -> Drift:
    return Drift(variant, "", "", "", verdict, "BASELINE_DRIFT", None, None, reason)


def _drift(variant: str, old: Value, verdict: CheckVerdict, reason: str, after: float | None) -> Drift:
    code = "" if verdict == "pass" else "BASELINE_DRIFT"
    return Drift(variant, old.id, old.output, old.metric, verdict, code, old.value, after, reason)
