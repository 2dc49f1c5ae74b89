"""Where the module jumps: floor, round or a comparison exactly on its edge, found by asking a hair beside."""

from __future__ import annotations

import numpy as np
import torch

from deploykit.capture.calling import arrays, call
from deploykit.signature import Feeds

HAIR = 2.0**-21
"""Relative distance to the inputs: a few units in the last place of float32, more than exports round apart."""

JUMP = 2.0**-10
"""Share of the output's RMS that counts as a jump: a smooth module would have to magnify 2,000 times to move so far."""

WHOLE = 2.0**22
"""Float32 has halves below this: whole numbers are no accident."""


def beside(module: torch.nn.Module, feeds: Feeds, expected: Feeds) -> Feeds:
    """Eager's answers a hair below and above the inputs, [2, ...] per output; only for outputs that jump somewhere.

    Args:
        module: the untouched eager module.
        feeds: inputs of a case; only floats are moved.
        expected: eager's answers on them.
    """
    if not any(array.dtype.kind == "f" for array in feeds.values()):
        return {}
    try:
        below, above = (arrays(call(module, _moved(feeds, sign))) for sign in (-HAIR, HAIR))
    except Exception:  # noqa: BLE001 - a hair beside its range a module may refuse in its own way: no edge is known
        return {}
    found = {}
    for name, middle in expected.items():
        sides = [below.get(name, middle), above.get(name, middle)]
        if all(side.shape == middle.shape and side.dtype == middle.dtype for side in sides) and _jumps(middle, sides):
            found[name] = np.stack(sides)
    return found


def _moved(feeds: Feeds, share: float) -> Feeds:
    """Every float element moved by `share` of itself; zeros stay, since around zero nothing is relative."""
    return {n: (a + a * share).astype(a.dtype) if a.dtype.kind == "f" else a for n, a in feeds.items()}


def _jumps(middle: np.ndarray, sides: list[np.ndarray]) -> bool:
    """Whether some elements move by more than a smooth module would."""
    if middle.dtype.kind not in "fiub" or not middle.size:
        return False
    wide = middle.astype(np.float64)
    finite = np.isfinite(wide)
    level = float(np.sqrt(np.mean(wide[finite] ** 2))) if finite.any() else 0.0
    limit = JUMP * level if middle.dtype.kind == "f" and not _whole(middle, *sides) else 0.5
    with np.errstate(invalid="ignore"):
        moved = np.any([np.abs(side.astype(np.float64) - wide) > limit for side in sides], axis=0)
    return bool(moved.any())


def _whole(*answers: np.ndarray) -> bool:
    """Whether floats are counts: whole numbers, and not because they are too large to be anything else."""
    finite = [array[np.isfinite(array)] for array in answers]
    return all(bool(np.all((np.abs(one) < WHOLE) & (one == np.round(one)))) for one in finite)
