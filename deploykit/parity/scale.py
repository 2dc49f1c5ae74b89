"""What the reference alone says about sizes: the truth, how large a signal is, and how noisy eager itself is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deploykit.distances import centred_rms, rms
from deploykit.parity.budget import ULP32
from deploykit.reference import Case, Noise

IN_DISTRIBUTION = ("real", "in range")
"""Input classes on which every kind of variant answers for its values: the judged cases."""

UNDERFLOW = 2.0**-63
"""Below this a square is no normal float32 any more, and norms by squares and by other ways part."""

SMALL = 1000
"""Elements under which a case is small: a handful of them can come out exact by luck."""

MIN_ROWS = 8
"""A batch mean over fewer rows is mostly the rows themselves: such cases use the signal of the judged ones."""


@dataclass(frozen=True)
class Scale:
    """Sizes by output, over the judged cases.

    Attributes:
        signal: centred RMS of the float64 answer, the largest: what depends on the input.
        noise: eager's own fp32 RMSE relative to the RMS of its answer, the largest.
        spread: the median row's distance from the median answer, RMS: like `signal`, but an outlier does not count.
        classifier: the output whose largest element is the decision; None where there is none.
    """

    signal: dict[str, float]
    noise: dict[str, float] = field(default_factory=dict)
    classifier: str | None = None
    spread: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, cases: Iterable[Case]) -> Scale:
        """The scale of a reference; cases of other classes are passed over."""
        signal: dict[str, float] = {}
        noise: dict[str, float] = {}
        spread: dict[str, float] = {}
        classifier, first = None, True
        for case in cases:
            if case.input_class not in IN_DISTRIBUTION:
                continue
            if first:
                classifier, first = classifier_output(case), False
            for name in (name for name, array in case.expected.items() if array.dtype.kind == "f"):
                exact = truth(case, name)
                signal[name] = max(signal.get(name, 0.0), centred_rms(exact, case.rows))
                spread.setdefault(name, _typical(exact, case.rows))  # of the first: real samples, where there are any
                own, level = case.noise.get(name, Noise(None)).fp32 or 0.0, rms(exact)
                noise[name] = max(noise.get(name, 0.0), own / level if level else 0.0)
        return cls(signal, noise, classifier, spread)

    def signal_of(self, case: Case, name: str) -> float:
        """The signal an error is compared with: the case's own where it has rows enough, at least the judged one."""
        own = centred_rms(truth(case, name), case.rows) if (case.rows or MIN_ROWS) >= MIN_ROWS else 0.0
        return max(own, self.signal.get(name, 0.0))

    def noise_of(self, case: Case, name: str) -> float:
        """The RMSE that is one R: eager's own, at least half a unit in the last place.

        Other cases than the judged ones are held to the pooled noise of those where that is larger: of a few elements
        luck makes exact ones. A case without a float64 answer has no noise of its own and is compared with eager,
        which is noisy, too: four times the pooled noise.
        """
        exact = truth(case, name)
        strong = name in case.expected64
        judged = case.input_class in IN_DISTRIBUTION and exact.size >= SMALL
        pooled = 0.0 if judged and strong else self.noise.get(name, 0.0)
        unit = {"float64": 2.0**-53, "float16": 2.0**-11}.get(case.expected[name].dtype.name, ULP32)
        floor = max(unit, pooled) * rms(exact)
        own = case.noise.get(name, Noise(None)).fp32 or 0.0
        if case.input_class == "extreme":
            own = max(own, UNDERFLOW)
        return max(own, floor) if strong else 4.0 * floor


def _typical(exact: NDArray[np.generic], rows: int | None) -> float:
    """The median over rows of a row's RMS distance from the elementwise median; 0.0 without rows to compare."""
    if rows is None or rows < 2 or exact.shape[:1] != (rows,) or not np.isfinite(exact).all():
        return 0.0
    apart = (exact.astype(np.float64) - np.median(exact.astype(np.float64), axis=0)).reshape(rows, -1)
    return float(np.median(np.sqrt(np.mean(apart**2, axis=1)))) if apart.size else 0.0


def is_small(case: Case, size: int) -> bool:
    """Whether luck decides on eager's own noise: few elements, rows all alike, or activations that saturate."""
    return size < SMALL or case.input_class == "constant" or case.gate == "accurate"


def truth(case: Case, name: str) -> NDArray[np.generic]:
    """The float64 answer; eager's own where there is none, and where eager overflows: its pattern is what counts."""
    expected, exact = case.expected[name], case.expected64.get(name)
    return expected if exact is None else np.where(np.isfinite(expected), exact, expected)


def classifier_output(case: Case) -> str | None:
    """The output that decides: the only output, when it is a float matrix [rows, classes ≥ 2]; else None."""
    if len(case.expected) != 1:
        return None
    ((name, array),) = case.expected.items()
    return name if array.dtype.kind == "f" and array.ndim == 2 and array.shape[1] >= 2 else None
