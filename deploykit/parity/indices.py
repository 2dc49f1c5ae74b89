"""Outputs that are indices: two are alike when the scores behind them tie within the allowed error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deploykit.reference import Case, IndexOutput


@dataclass(frozen=True)
class Picked:
    """How a variant's indices compare with eager's.

    Attributes:
        count: indices in all; `tied` differ between equal scores, `wrong` differ otherwise.
        first: the first wrong one, in words.
    """

    count: int
    tied: int
    wrong: int
    first: str = ""


def picked(case: Case, name: str, how: IndexOutput, actual: np.ndarray, allowed: float) -> Picked | None:
    """Compare by the scores that indices point at; None where the stored scores do not fit the output.

    Args:
        case: holds `scores[name]`, float64[lead + (K,)].
        name: the output.
        how: the axis of the output along which ranks run.
        actual: the variant's indices, of the expected shape.
        allowed: scores closer than this count as equal.
    """
    scores, expected = case.scores[name], case.expected[name]
    if how.axis is None:
        before, after = expected[..., None], actual[..., None]
    else:
        before, after = (np.moveaxis(array, how.axis, -1) for array in (expected, actual))
    if before.shape[:-1] != scores.shape[:-1]:
        return None
    size = scores.shape[-1]
    inside = (after >= -size) & (after < size)
    chosen = np.take_along_axis(scores, np.where(inside, after, 0).astype(np.int64), -1)
    wanted = np.take_along_axis(scores, before.astype(np.int64), -1)
    same = before == after
    with np.errstate(invalid="ignore"):
        off = wanted - chosen
    places = np.where(after < 0, after.astype(np.int64) + size, after)  # -1 is the last one
    distinct = np.array([len(set(row)) == len(row) for row in places.reshape(-1, after.shape[-1])], bool)
    alike = (np.abs(off) <= allowed) | (chosen == wanted) | (np.isnan(chosen) & np.isnan(wanted))
    fits = inside & alike & distinct.reshape(*after.shape[:-1], 1)
    wrong = ~same & ~fits
    first = ""
    if wrong.any():
        where, gap = (a[..., 0] if how.axis is None else np.moveaxis(a, -1, how.axis) for a in (wrong, off))
        at = tuple(int(i) for i in np.argwhere(where)[0])
        first = f"at {list(at)} index {expected[at]} became {actual[at]}, whose score is {gap[at]:.3g} off"
    return Picked(before.size, int((~same & fits).sum()), int(wrong.sum()), first)
