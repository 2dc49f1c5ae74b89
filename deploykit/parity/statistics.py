"""How sure a task metric on a finite sample makes us, pure.

Clopper-Pearson (1934) for one proportion; Tango's score interval (Statistics in Medicine 17, 1998) for the difference
of two proportions measured on the same samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import bdtr, betaincinv, ndtri

CONFIDENCE = 0.95
"""One-sided confidence of every bound."""

MAX_NEEDED = 10_000_000
"""Sample sizes above this are not worth naming."""


@dataclass(frozen=True)
class Paired:
    """Two classifiers on the same labelled samples.

    Attributes:
        n: samples.
        lost: eager right, candidate wrong.
        won: eager wrong, candidate right.
        expected_right: samples that eager gets right.
    """

    n: int
    lost: int
    won: int
    expected_right: int

    @property
    def drop(self) -> float:
        """Accuracy of eager less that of the candidate."""
        return (self.lost - self.won) / self.n

    @property
    def ratio(self) -> float:
        """Accuracy of the candidate relative to eager's."""
        right = self.expected_right - self.lost + self.won
        return right / self.expected_right if self.expected_right else (1.0 if right == 0 else math.inf)


def proportion_upper(count: int, n: int) -> float:
    """Clopper-Pearson's one-sided upper bound for a proportion of `count` in `n`."""
    return 1.0 if count >= n else float(betaincinv(count + 1, n - count, CONFIDENCE))


def proportion_bounds(count: int, n: int) -> tuple[float, float]:
    """Clopper-Pearson's bounds for a proportion of `count` in `n`, each one-sided at `CONFIDENCE`."""
    low = 0.0 if count <= 0 else float(betaincinv(count, n - count + 1, 1.0 - CONFIDENCE))
    return low, proportion_upper(count, n)


def rows_needed(count: int, n: int, limit: float) -> int | None:
    """Samples with which the same rate would put the upper bound at or below `limit`; None when none would."""
    rate = count / n
    if rate >= limit:
        return None
    low, high = n, n
    while proportion_upper(math.ceil(rate * high), high) > limit:
        low, high = high, high * 2
        if high > MAX_NEEDED:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = proportion_upper(math.ceil(rate * middle), middle) <= limit
        low, high = (low, middle) if enough else (middle, high)
    return high


def mcnemar_p(pair: Paired) -> float:
    """McNemar's exact two-sided p-value. Shown and never a gate: "no significant difference" is not parity."""
    discordant = pair.lost + pair.won
    return min(1.0, 2.0 * float(bdtr(min(pair.lost, pair.won), discordant, 0.5))) if discordant else 1.0


def drop_bounds(pair: Paired) -> tuple[float, float]:
    """Tango's score bounds for the accuracy drop, each one-sided at `CONFIDENCE`."""
    z = float(ndtri(CONFIDENCE))
    upper = _root(pair.lost, pair.won, pair.n, -z, pair.drop, 1.0)
    lower = _root(pair.lost, pair.won, pair.n, z, -1.0, pair.drop)
    return lower, upper


def samples_needed(pair: Paired, margin: float) -> int | None:
    """Samples with which the same rates would put the upper bound below `margin`; None when none would."""
    if pair.drop >= margin:
        return None
    z = float(ndtri(CONFIDENCE))

    def enough(n: int) -> bool:
        scale = n / pair.n
        return _root(pair.lost * scale, pair.won * scale, n, -z, pair.drop, 1.0) < margin

    low, high = pair.n, pair.n
    while not enough(high):
        low, high = high, high * 2
        if high > MAX_NEEDED:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _score(lost: float, won: float, n: float, delta: float) -> float:
    """Tango's statistic for H0: drop = delta; falls as delta grows."""
    a = 2.0 * n
    b = -lost - won + (2.0 * n - lost + won) * delta
    c = -won * delta * (1.0 - delta)
    q = (math.sqrt(max(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
    variance = n * (2.0 * q + delta * (1.0 - delta))
    distance = lost - won - n * delta
    return distance / math.sqrt(variance) if variance > 0.0 else math.copysign(math.inf, distance)


def _root(lost: float, won: float, n: float, target: float, low: float, high: float) -> float:
    """The delta at which the statistic is `target`, by bisection to 1e-12 (it is monotone)."""
    for _ in range(60):
        middle = (low + high) / 2.0
        if _score(lost, won, n, middle) > target:
            low = middle
        else:
            high = middle
    return high if target < 0 else low
