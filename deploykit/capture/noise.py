"""How noisy eager is by itself: the RMSE to float64 over legitimate evaluations of the same module."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from deploykit.capture.bounded import Bound
from deploykit.capture.calling import arrays, call
from deploykit.capture.copies import Copies
from deploykit.capture.float64 import Exact
from deploykit.finished import Finished
from deploykit.inputs import CaseInputs
from deploykit.reference import Noise, accurate
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

CHAOS64 = 2.0**-18
"""What turns a rounding of 2⁻²⁴ into an fp32 error turns one of 2⁻⁵³ into 2⁻²⁹ of it; single elements reach 2⁻¹⁸."""


class NoiseFloor:
    """Evaluates the module in every way that is as good as the one given."""

    def __init__(self, copies: Copies, exact: Exact, example: Feeds) -> None:
        self._copies = copies
        self._exact = exact
        self._bound = Bound(copies.original, example)
        self._half = _answers_in_half(copies, example, self._bound)
        self._finished = isinstance(copies.original, Finished)
        self._others = list(copies.original.others()) if isinstance(copies.original, Finished) else []
        self._channels_last = not self._finished and self._takes_channels_last(example)

    def of(self, inputs: CaseInputs, expected: Feeds, expected64: Feeds) -> dict[str, Noise]:
        """Noise per output of `expected64`.

        Off the distribution only elements count where eager as given is right, and a network may be chaotic there: by
        luck one evaluation is right where the next one is not. So there, too, every legitimate evaluation counts. The
        many other cases are held to the judged ones' noise: their own is what eager as given shows, and no more.
        """
        if inputs.gate == "accurate":
            return self._where_right(inputs, expected, expected64)
        if inputs.input_class not in JUDGED and inputs.input_class != DEGENERATE:
            return {name: Noise(rmse(expected[name], exact)) for name, exact in expected64.items() if name in expected}
        with one_thread():  # one row leaves nothing to share out, and waiting for idle threads is what costs there
            evaluations = [expected, *self._otherwise(inputs.inputs), *self._one_by_one(inputs, expected64)]
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

    def _where_right(self, inputs: CaseInputs, expected: Feeds, expected64: Feeds) -> dict[str, Noise]:
        """The noise on those elements of an unusual case at which eager as given is right."""
        with one_thread():
            evaluations = [expected, *self._otherwise(inputs.inputs)]
            evaluations += self._one_by_one(inputs, expected64, expected)
        if self._channels_last:
            evaluations.append(self._in_channels_last(inputs.inputs))
        noise = {}
        for name, exact in expected64.items():
            if name not in expected:
                continue
            right = accurate(expected[name], exact)
            values = [rmse(one[name][right], exact[right]) for one in evaluations if _alike(one, name, exact)]
            # not `_legitimate`: what differs by a hundred times here is chaos, and samples were proven independent
            noise[name] = Noise(max((value for value in values if value is not None), default=None))
        return noise

    def _otherwise(self, feeds: Feeds) -> list[Feeds]:
        """The whole question again: by eager on one thread, or in the ways in which a finished file can be computed."""
        modules = self._others if self._finished else [self._copies.original]
        return [arrays(call(module, feeds)) for module in modules]

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
            return arrays(call(self._copies.get(torch.float16), head, torch.float16, within=self._bound)), exact
        except Exception:  # noqa: BLE001 - any module may refuse another form of its input in its own way
            return {}, {}

    def _one_by_one(self, inputs: CaseInputs, expected64: Feeds, chaotic: Feeds | None = None) -> list[Feeds]:
        """Eager one sample at a time over the first rows; empty where a sample alone is another question.

        With `chaotic`, eager's own answer, two float64 evaluations may part by as much as its error explains; each
        sample has to be the same question alone then, not only the first and the last.
        """
        if inputs.rows is None or inputs.rows < 2:
            return []
        rows = min(inputs.rows, SINGLE_ROWS)
        every = (0, inputs.rows - 1) if chaotic is None else range(inputs.rows)
        if not self._independent(inputs, expected64, every, chaotic or {}):
            return []
        singles = [arrays(call(self._copies.original, _rows(inputs.inputs, slice(i, i + 1)))) for i in range(rows)]
        return [{name: np.concatenate([one[name] for one in singles]) for name in expected64}]

    def _independent(self, inputs: CaseInputs, expected64: Feeds, rows: Iterable[int], chaotic: Feeds) -> bool:
        """Whether these samples get the same float64 answer alone as in their batch."""
        within = {
            name: CHAOS64 * (rmse(chaotic[name], exact) or 0.0) for name, exact in expected64.items() if name in chaotic
        }
        for row in rows:
            alone = self._exact.floats(_rows(inputs.inputs, slice(row, row + 1)))
            for name, batched in expected64.items():
                if batched.shape[:1] != (inputs.rows,) or name not in alone:
                    return False
                same = alone[name].shape == (1, *batched.shape[1:])
                if not same or not _same64(alone[name][0], batched[row], batched, within.get(name, 0.0)):
                    return False
        return True

    def _in_channels_last(self, feeds: Feeds) -> Feeds:
        try:
            return arrays(call(self._copies.get(torch.channels_last), feeds, channels_last=True))
        except Exception:  # noqa: BLE001 - any module may refuse another form of its input in its own way
            return {}

    def _takes_channels_last(self, example: Feeds) -> bool:
        """Whether another memory format is the same question: a module that reads memory as it lies answers another."""
        images = any(array.ndim == 4 and array.dtype.kind == "f" for array in example.values())
        if not images or not any(tensor.ndim == 4 for tensor in self._copies.original.parameters()):
            return False
        plain = self._exact.floats(example)
        moved = self._exact.floats(example, channels_last=True)
        return bool(plain) and all(name in moved and _same64(moved[name], plain[name], plain[name]) for name in plain)


def _alike(answer: Feeds, name: str, exact: np.ndarray) -> bool:
    return name in answer and answer[name].shape == exact.shape


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


def _answers_in_half(copies: Copies, example: Feeds, bound: Bound) -> bool:
    """Whether a float16 copy of the module answers the example in float16."""
    floats = {torch.float16, torch.float32, torch.float64, torch.bfloat16}
    try:
        outputs = call(copies.get(torch.float16), example, torch.float16, within=bound)
    except Exception:  # noqa: BLE001 - any module may refuse another dtype in its own way: then there is no such answer
        return False
    return all(tensor.dtype == torch.float16 for _, tensor in outputs if tensor.dtype in floats)


def _same64(actual: np.ndarray, expected: np.ndarray, whole: np.ndarray, within: float = 0.0) -> bool:
    """Whether two float64 answers differ by rounding only; `within` is allowed in any case."""
    if actual.shape != expected.shape:
        return False
    level = float(np.abs(whole).max(initial=0.0, where=np.isfinite(whole)))
    return bool(np.allclose(actual, expected, rtol=0.0, atol=max(SAME64 * level, within), equal_nan=True))


def _rows(feeds: Feeds, rows: slice) -> Feeds:
    return {name: array[rows] for name, array in feeds.items()}
