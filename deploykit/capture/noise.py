"""How noisy eager is by itself: the RMSE to float64 over legitimate evaluations of the same module."""

from __future__ import annotations

import numpy as np
import torch

from deploykit.capture.calling import arrays, call
from deploykit.capture.copies import Copies
from deploykit.capture.float64 import Exact
from deploykit.inputs import CaseInputs
from deploykit.reference import Noise
from deploykit.signature import Feeds
from deploykit.threads import one_thread

JUDGED = {"real", "in range"}
"""Input classes that the model is made for: NaN there is no reference, and magnitudes there are its own."""

SINGLE_ROWS = 32
"""Rows evaluated one by one for the noise: enough for an RMSE, cheap for a large model."""

DEGENERATE = "constant"
"""Rows that are all alike: what noise the model has on ordinary inputs says little about them."""

HALF_ELEMENTS = 1 << 17
"""Input elements evaluated in half precision, which CPUs emulate: a second per image for a ResNet-18."""

WIDEST = 16.0
"""Legitimate evaluations of one module measured 0.96 to 1.63 times apart; ten times that is another answer."""

SAME64 = 2.0**-36
"""Two float64 evaluations of one sample differ by less than this share of the output: summation order is 2⁻⁵⁰ or so."""


class NoiseFloor:
    """Evaluates the module in every way that is as good as the one given."""

    def __init__(self, copies: Copies, exact: Exact, example: Feeds) -> None:
        self._copies = copies
        self._exact = exact
        self._half = _answers_in_half(copies, example)
        self._channels_last = self._takes_channels_last(example)

    def of(self, inputs: CaseInputs, expected: Feeds, expected64: Feeds) -> dict[str, Noise]:
        """Noise per output of `expected64`.

        The many other cases are held to the judged ones' noise: their own is what eager as given shows, and no more.
        """
        if inputs.input_class not in JUDGED and inputs.input_class != DEGENERATE:
            return {name: Noise(rmse(expected[name], exact)) for name, exact in expected64.items() if name in expected}
        with one_thread():  # one row leaves nothing to share out, and waiting for idle threads is what costs there
            single_thread = arrays(call(self._copies.original, inputs.inputs))
            evaluations = [expected, single_thread, *self._one_by_one(inputs, expected64)]
        half, half_exact = self._in_half(inputs, expected64)
        if self._channels_last:
            evaluations.append(self._in_channels_last(inputs.inputs))
        noise = {}
        for name, exact in expected64.items():
            values = [rmse(answer[name], exact) for answer in evaluations if name in answer]
            finite = _legitimate([value for value in values if value is not None], exact)
            own_half = rmse(half[name], half_exact[name]) if name in half and name in half_exact else None
            noise[name] = Noise(max(finite, default=None), own_half)
        return noise

    def _in_half(self, inputs: CaseInputs, expected64: Feeds) -> tuple[Feeds, Feeds]:
        """Eager half and float64 on the first rows; empty where it cannot."""
        if not self._half:
            return {}, {}
        per_row = sum(array[:1].size for array in inputs.inputs.values() if array.ndim)
        count = max(1, HALF_ELEMENTS // max(1, per_row))
        whole = inputs.rows is None or inputs.rows <= count
        head = inputs.inputs if whole else _rows(inputs.inputs, slice(0, count))
        exact = expected64 if whole else self._exact.floats(head)
        try:
            return arrays(call(self._copies.get(torch.float16), head, torch.float16)), exact
        except (RuntimeError, ValueError, IndexError):
            return {}, {}

    def _one_by_one(self, inputs: CaseInputs, expected64: Feeds) -> list[Feeds]:
        """Eager one sample at a time over the first rows; empty where a sample alone is another question."""
        if inputs.rows is None or inputs.rows < 2 or not self._independent(inputs, expected64):
            return []
        rows = min(inputs.rows, SINGLE_ROWS)
        singles = [arrays(call(self._copies.original, _rows(inputs.inputs, slice(i, i + 1)))) for i in range(rows)]
        return [{name: np.concatenate([one[name] for one in singles]) for name in expected64}]

    def _independent(self, inputs: CaseInputs, expected64: Feeds) -> bool:
        """Whether the first and the last sample get the same float64 answer alone as in their batch."""
        for row in (0, (inputs.rows or 1) - 1):
            alone = self._exact.floats(_rows(inputs.inputs, slice(row, row + 1)))
            for name, batched in expected64.items():
                if batched.shape[:1] != (inputs.rows,) or name not in alone:
                    return False
                if alone[name].shape != (1, *batched.shape[1:]) or not _same64(alone[name][0], batched[row], batched):
                    return False
        return True

    def _in_channels_last(self, feeds: Feeds) -> Feeds:
        try:
            return arrays(call(self._copies.get(torch.channels_last), feeds, channels_last=True))
        except (RuntimeError, ValueError, IndexError):
            return {}

    def _takes_channels_last(self, example: Feeds) -> bool:
        """Whether another memory format is the same question: a module that reads memory as it lies answers another."""
        images = any(array.ndim == 4 and array.dtype.kind == "f" for array in example.values())
        if not images or not any(tensor.ndim == 4 for tensor in self._copies.original.parameters()):
            return False
        plain = self._exact.floats(example)
        moved = self._exact.floats(example, channels_last=True)
        return bool(plain) and all(name in moved and _same64(moved[name], plain[name], plain[name]) for name in plain)


def _legitimate(values: list[float], exact: np.ndarray) -> list[float]:
    """RMSEs, the given evaluation's first, without those of another question: a branch may look at the whole batch."""
    if not values:
        return values
    finite = exact[np.isfinite(exact)]
    unit = 2.0**-24 * (float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0)
    return [value for value in values if value <= WIDEST * max(values[0], unit)]


def rmse(actual: np.ndarray, exact: np.ndarray) -> float | None:
    """Root mean square difference to `exact` over the rows that `actual` has; None when nothing finite comes out."""
    head = exact[: len(actual)] if exact.ndim else exact
    if head.shape != actual.shape:
        return None
    with np.errstate(all="ignore"):
        error = actual.astype(np.float64) - head
        finite = error[np.isfinite(error)]
        found = float(np.sqrt(np.mean(finite**2))) if finite.size else np.nan
    return found if np.isfinite(found) else None


def _answers_in_half(copies: Copies, example: Feeds) -> bool:
    """Whether a float16 copy of the module answers the example in float16."""
    floats = {torch.float16, torch.float32, torch.float64, torch.bfloat16}
    try:
        outputs = call(copies.get(torch.float16), example, torch.float16)
    except Exception:  # noqa: BLE001 - any module may refuse another dtype in its own way: then there is no such answer
        return False
    return all(tensor.dtype == torch.float16 for _, tensor in outputs if tensor.dtype in floats)


def _same64(actual: np.ndarray, expected: np.ndarray, whole: np.ndarray) -> bool:
    if actual.shape != expected.shape:
        return False
    level = float(np.abs(whole).max(initial=0.0, where=np.isfinite(whole)))
    return bool(np.allclose(actual, expected, rtol=0.0, atol=SAME64 * level, equal_nan=True))


def _rows(feeds: Feeds, rows: slice) -> Feeds:
    return {name: array[rows] for name, array in feeds.items()}
