"""How far a value is off, and which bad one comes first, pure: expected before actual, everything in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from deploykit import distances
from deploykit.distances import Array, centred_rms, rms, rmse

BAD = 16.0
"""Times the local noise from which a value is bad. Healthy operators of onnxruntime measure at most 2.8 on the networks
of `benchmarks/localization.py`; what an operator only passes on does not count, it is fed the reference's inputs."""

GRAVE = 1e-3
"""A value with less than this part of the largest local error is passed over at first: sloppy, but not the fault."""

_UNIT = {"float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}


@dataclass(frozen=True)
class Deviation:
    """One value of the candidate against the reference.

    Attributes:
        value: its name in the graph.
        local: error when computed from the reference's inputs, in units of the noise.
        cumulative: error as the whole graph computes it, in the same units.
    """

    value: str
    local: float
    cumulative: float


def deviation(expected: Array, actual: Array, noise: float = 0.0) -> float:
    """RMSE of `actual` in units of the noise; infinite for another shape, kind or non-finite pattern.

    Args:
        expected: the reference's value; whole numbers and bools are compared exactly.
        actual: the candidate's.
        noise: RMS that no float32 evaluation can be blamed for, absolute; at least one rounding of the values is taken.
    """
    if expected.shape != actual.shape:
        return math.inf
    if expected.dtype.kind not in "fc":
        return 0.0 if np.array_equal(expected, actual) else math.inf
    if actual.dtype.kind not in "fc" or not same_pattern(expected, actual):
        return math.inf
    error, base = rmse(expected, actual), floor(expected, actual, noise)
    return error / base if base else (0.0 if error == 0.0 else math.inf)


def floor(expected: Array, actual: Array, noise: float = 0.0) -> float:
    """The RMSE that is one unit of noise: one rounding of the values at least, in the coarser of both dtypes."""
    unit = max(_UNIT.get(str(expected.dtype), 2.0**-24), _UNIT.get(str(actual.dtype), 0.0))
    return max(noise, unit * rms(expected))


def same_pattern(expected: Array, actual: Array) -> bool:
    """NaN, +Inf and -Inf in the same places."""
    return all(bool(np.array_equal(m(expected), m(actual))) for m in (np.isnan, np.isposinf, np.isneginf))


def sqnr_db(expected: Array, actual: Array) -> float:
    """Centred SQNR of a value, as the budget has it; minus infinity for another shape or non-finite pattern."""
    if expected.shape != actual.shape or not same_pattern(expected, actual):
        return -math.inf
    signal = centred_rms(expected, len(expected) if expected.ndim else None)
    return distances.sqnr_db(signal, rmse(expected, actual))


def suspects(deviations: list[Deviation], bad: float = BAD) -> list[Deviation]:
    """Values born bad, the first in topological order first; those beside which they look harmless come last."""
    born = [entry for entry in deviations if entry.local > bad]
    worst = max((entry.local for entry in born if math.isfinite(entry.local)), default=0.0)
    grave = [e for e in born if e.local >= GRAVE * worst]
    return grave + [entry for entry in born if entry not in grave]
