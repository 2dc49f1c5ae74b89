"""Can the gate fail? How far a mutant moves the answers, in budgets, and what a dozen of them say about the gate. Pure.

A mutant that moves the answers by three budgets or more is beyond every doubt: missing one is a hole in the gate. One
that moves them by less than a quarter of a budget (one R in fp32: eager's own rounding) computes the same thing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np

from deploykit.distances import rms, rmse, sqnr_db
from deploykit.parity import compare
from deploykit.parity.budget import FP32, Budget
from deploykit.parity.judge import Failure
from deploykit.parity.scale import IN_DISTRIBUTION, SMALL, Scale, truth
from deploykit.reference import Case
from deploykit.results import Mutant, SelfCheck, VariantVerdict
from deploykit.signature import Feeds

KILLABLE = 3.0
"""Budgets from which a mutant has to be caught. By the triangle inequality it is two budgets from the truth, too."""

EQUIVALENT = 0.25
"""Budgets up to which a mutant is rounding as the precision has it: one R in fp32, 12 dB below the limit elsewhere."""

MIN_REAL = 3
"""Mutants that change something, at least: fewer say nothing about the gate."""

MIN_SEEN = 0.6
"""Share of the mutants that change something that must be seen."""

MIN_SQNR_DB = 60.0
"""Eager's own centred SQNR under which the probes cannot show small faults: a signal 1,000 times its noise."""

MIN_SQNR_HALF_DB = 30.0
"""The same where the answers themselves are float16: its rounding alone leaves about 60 dB."""

TRUSTED = 10.0
"""A loosened limit is taken at its word up to this factor; beyond, mutants are measured with ten times the default."""


@dataclass(frozen=True)
class Unit:
    """What one budget is, for every output of every judged case.

    Attributes:
        scale: sizes that the reference alone gives.
        budget: see `unit_budget`.
        indices: outputs that are indices, of which a share may be reordered.
    """

    scale: Scale
    budget: Budget
    indices: Collection[str] = ()

    def of(self, case: Case, name: str) -> float:
        """The RMSE that the budget allows for a float output, in units of the output."""
        target = truth(case, name)
        if self.budget.max_r is not None:
            factor = self.budget.small_factor if target.size < SMALL else 1.0
            return factor * self.budget.max_r * self.scale.noise_of(case, name)
        signal = self.scale.signal_of(case, name) or rms(target)
        return float(signal * 10.0 ** (-(self.budget.min_sqnr_db or 0.0) / 20.0))

    def moved(self, case: Case, original: Feeds | Failure, mutant: Feeds | Failure) -> float:
        """How far `mutant` is from `original` on one case, the largest over the outputs, in budgets.

        Infinite where one of them failed, or where names, dtypes, shapes, NaN patterns or exact values differ. 0.0 on
        cases that are not judged, beyond that.
        """
        if isinstance(original, Failure) or isinstance(mutant, Failure):
            return math.inf if isinstance(original, Failure) != isinstance(mutant, Failure) else 0.0
        if compare.structure(tuple(original), tuple(mutant)):
            return math.inf
        if any(compare.form(name, array, mutant[name]) for name, array in original.items()):
            return math.inf
        if case.input_class not in IN_DISTRIBUTION or case.gate != "full":
            return 0.0
        return max((self._output(case, n, a, mutant[n]) for n, a in original.items() if n in case.expected), default=0)

    def _output(self, case: Case, name: str, original: np.ndarray, mutant: np.ndarray) -> float:
        if original.dtype.kind not in "fc":
            share = float(np.mean(original != mutant)) if original.size else 0.0
            return share / self.budget.max_flips if name in self.indices else math.inf if share else 0.0
        if compare.pattern(name, original, mutant):
            return math.inf
        allowed = self.of(case, name)
        if name in case.near:  # the gate asks nothing of elements that sit on a step
            smooth = compare.distance(*case.near[name]) <= allowed
            original, mutant = original[smooth], mutant[smooth]
        error = rmse(original, mutant)
        return error / allowed if allowed else (math.inf if error else 0.0)


def noise_budget() -> Budget:
    """A unit of one R: eager's own fp32 rounding, whatever the variant's precision."""
    return replace(FP32, max_r=1.0, small_factor=1.0)


def unit_budget(asked: Budget, default: Budget) -> Budget:
    """The limits in which mutants are measured: those asked for, as far as they can be believed (`TRUSTED`)."""
    if default.max_r is not None:
        return replace(default, max_r=min(asked.max_r or 0.0, TRUSTED * default.max_r))
    floor = (default.min_sqnr_db or 0.0) - 20.0 * math.log10(TRUSTED)
    return replace(default, min_sqnr_db=max(asked.min_sqnr_db or 0.0, floor))


def eager_sqnr_db(scale: Scale, cases: Iterable[Case]) -> tuple[float | None, float]:
    """Eager's own centred SQNR on the judged cases for the clearest output, and what it should be at least.

    None where no judged case has a float output.
    """
    best, needed = None, MIN_SQNR_DB
    for case in cases:
        if case.input_class not in IN_DISTRIBUTION:
            continue
        for name, array in case.expected.items():
            if array.dtype.kind != "f":
                continue
            value = sqnr_db(scale.signal_of(case, name), scale.noise_of(case, name))
            if best is None or value > best:
                best, needed = value, MIN_SQNR_HALF_DB if array.dtype.itemsize == 2 else MIN_SQNR_DB
    return best, needed


def is_equivalent(moved: float, *, caught: bool) -> bool:
    """Whether a mutant computes the same thing as far as anybody could tell; what was caught surely does not."""
    return not caught and moved < EQUIVALENT


@dataclass(frozen=True)
class Probe:
    """What is known beside the mutants.

    Attributes:
        eager_db: eager's own centred SQNR, None where there is none; `needed_db` what it should be.
        silent: mutants that got through and move the answers by no more than eager's own fp32 rounding.
        smallest: smallest relative change of one weight that was caught, and `place`, which weight.
        loosened: the limits that the user widened, in words.
        seconds: wall time of the whole check.
        obstacle: why no mutant could be made, where that is known.
    """

    eager_db: float | None
    needed_db: float
    silent: int = 0
    smallest: float | None = None
    place: str = ""
    loosened: tuple[str, ...] = ()
    seconds: float = 0.0
    obstacle: str = ""


def conclude(variant: str, mutants: Iterable[Mutant], probe: Probe) -> SelfCheck:
    """The verdict on the gate: blind when a killable mutant got through, without power when too little is seen."""
    tried = tuple(mutants)
    real = [mutant for mutant in tried if not mutant.equivalent]
    killable = [mutant for mutant in tried if mutant.moved >= KILLABLE]
    seen = sum(mutant.caught for mutant in tried)
    verdict, code, reason = _verdict(tried, real, killable, probe)
    return SelfCheck(
        variant,
        verdict,
        code,
        len(tried),
        seen,
        len(killable),
        sum(mutant.caught for mutant in killable),
        probe.smallest,
        probe.eager_db,
        reason,
        probe.seconds,
        tried,
        len(tried) - len(real),
        probe.place,
    )


def _verdict(
    tried: tuple[Mutant, ...], real: list[Mutant], killable: list[Mutant], probe: Probe
) -> tuple[VariantVerdict, str, str]:
    missed = [mutant for mutant in killable if not mutant.caught]
    if missed:
        worst = max(missed, key=lambda mutant: mutant.moved)
        reason = f"{worst.fault} at {worst.place} moves the answers by {worst.moved:.3g} budgets and passes the gate"
        loosened = f"; loosened: {', '.join(probe.loosened)}" if probe.loosened else ""
        return "fail", "GATE_BLIND", reason + loosened
    if not tried:
        return (
            "inconclusive",
            "PROBE_POWER",
            f"no mutant of this artifact could be made{f': {probe.obstacle}' if probe.obstacle else ''}",
        )
    if probe.eager_db is not None and probe.eager_db < probe.needed_db:
        reason = f"eager itself has {probe.eager_db:.0f} dB on these inputs, under {probe.needed_db:.0f}"
        return "inconclusive", "PROBE_POWER", f"{reason}: they hardly move the model"
    if 2 * probe.silent > len(tried):
        return "inconclusive", "PROBE_POWER", f"{probe.silent} of {len(tried)} mutants change no answer"
    if len(real) < min(MIN_REAL, len(tried)):
        return "inconclusive", "PROBE_POWER", f"only {len(real)} of {len(tried)} mutants change more than rounding does"
    seen = sum(mutant.caught for mutant in real)
    if seen < MIN_SEEN * len(real):
        return "inconclusive", "PROBE_POWER", f"only {seen} of {len(real)} mutants that change an answer are seen"
    return "pass", "", f"{seen} of {len(real)} mutants that change an answer are seen"
