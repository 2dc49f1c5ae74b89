"""A few numbers that stand for a large answer: enough to see later that eager answers differently. Pure numpy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from deploykit.distances import rms
from deploykit.parity.scale import IN_DISTRIBUTION, Scale, truth
from deploykit.reference import Case
from deploykit.signature import Feeds

PROJECTIONS = 16
"""Numbers per output. The RMS of their changes estimates the RMSE of the answers with a relative error of
1/√(2·16) = 18 %; what it has to tell apart is a rounding error and a change a thousand times larger."""

_BLOCK = 1 << 16
"""Elements at a time: the signs of one block are 16 times as many numbers."""


@dataclass(frozen=True)
class Sketch:
    """What is kept of the reference's answer for one float output of one judged case.

    Attributes:
        inputs: sha256 over names, dtypes, shapes and bytes of the case's inputs: only the same question compares.
        strong: whether the answer is eager's in float64, not in fp32.
        elements, finite: how many numbers the answer has, and how many of them are finite.
        rms: of the finite ones.
        noise: one R in the output's own units: eager's fp32 RMSE with its floors, see `Scale.noise_of`.
        projections: the answer times `PROJECTIONS` vectors of random signs, over √elements.
    """

    case: str
    output: str
    inputs: str
    strong: bool
    elements: int
    finite: int
    rms: float
    noise: float
    projections: tuple[float, ...]


def sketches(cases: Iterable[Case], scale: Scale) -> tuple[Sketch, ...]:
    """A sketch per judged case and float output, in the order of the cases."""
    return tuple(
        _sketch(case, name, scale)
        for case in cases
        if case.input_class in IN_DISTRIBUTION
        for name, array in case.expected.items()
        if array.dtype.kind == "f"
    )


def distance(before: Sketch, after: Sketch) -> float:
    """Estimated RMSE between the two answers that were sketched; 0.0 when they are the same."""
    change = np.subtract(after.projections, before.projections)
    return float(np.sqrt(np.mean(change**2)))


def projected(array: NDArray[np.generic]) -> tuple[float, ...]:
    """`PROJECTIONS` sums of the elements with random signs, over √elements; what is not finite counts as zero.

    With signs of mean zero the expected square of a projection of y - x is the mean square of y - x: the
    Johnson-Lindenstrauss lemma in Achlioptas' form (J. Comput. Syst. Sci. 66, 2003). The signs are the raw bits of
    PCG64, whose stream numpy keeps for ever (NEP 19), unlike those of its distributions.
    """
    flat = np.where(np.isfinite(array), array, 0).astype(np.float64).reshape(-1)
    bits = np.random.PCG64(flat.size)
    total = np.zeros(PROJECTIONS)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        words = bits.random_raw(-(-block.size * PROJECTIONS // 64)).astype("<u8")
        signs = np.unpackbits(words.view(np.uint8), count=block.size * PROJECTIONS, bitorder="little")
        total += 2.0 * (block @ signs.reshape(block.size, PROJECTIONS)) - block.sum()
    return tuple(float(value) for value in total / np.sqrt(max(flat.size, 1)))


def inputs_digest(inputs: Feeds) -> str:
    """sha256 over what is asked, in hexadecimal."""
    digest = sha256()
    for name, array in sorted(inputs.items()):
        digest.update(f"{name}:{array.dtype.str}:{array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _sketch(case: Case, name: str, scale: Scale) -> Sketch:
    exact = truth(case, name)
    return Sketch(
        case.id,
        name,
        inputs_digest(case.inputs),
        name in case.expected64,
        exact.size,
        int(np.isfinite(exact).sum()),
        rms(exact),
        scale.noise_of(case, name),
        projected(exact),
    )
