"""The module's answers in float64: by the dispatch mode of `wide.py`, else by `module.double()`, else not at all.

A finished file (`finished.py`) is evaluated by the reference implementation of its format.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from deploykit.capture.calling import arrays, call
from deploykit.capture.copies import Copies
from deploykit.capture.watch import Watch
from deploykit.capture.wide import WIDER, Widening
from deploykit.distances import rms
from deploykit.finished import Finished
from deploykit.signature import Feeds

Way = Literal["dispatch", "double", "reference"]

AGREEMENT = 1e-2
"""Share of the output's RMS by which float64 may differ from eager on the example: a sound model is at 1e-6."""

CANCELLED = 2.0**-20
"""An output this small beside the largest output or input is what cancellation left: its own RMS says nothing."""

_HALF_STEPS = 32
"""The same in steps of a half-precision module's own dtype, which may be larger than `AGREEMENT`."""


class Exact:
    """Answers in float64.

    Attributes:
        way: how they are had, or None where the module has none.
    """

    def __init__(self, copies: Copies, example: Feeds) -> None:
        self._copies = copies
        self._narrow = _written_for(copies.original, example)
        self.way: Way | None = None
        eager = arrays(call(copies.original, example))
        limit = max(AGREEMENT, _HALF_STEPS * torch.finfo(self._narrow).eps) if self._narrow else AGREEMENT
        ways: tuple[Way, ...] = ("dispatch", "double")
        if isinstance(copies.original, Finished):
            ways = ("reference",)
        for way in ways:
            self.way = way
            try:
                exact = self.call(example)
            except Exception:  # noqa: BLE001, S112 - any module may refuse float64 in its own way: the next way, then none
                continue
            wide = all(tensor.dtype not in WIDER for _, tensor in exact)
            if wide and _agree(eager, arrays(exact), example, limit):
                return
        self.way = None

    def call(
        self, feeds: Feeds, watch: Watch | None = None, *, channels_last: bool = False
    ) -> list[tuple[str, torch.Tensor]]:
        """Outputs by name with floats in float64. Raises whatever the module raises."""
        module = self._copies.get(torch.float64)
        widening = Widening(self._narrow)

        @contextmanager
        def within(inputs: Sequence[torch.Tensor]) -> Iterator[None]:
            with ExitStack() as stack:
                if watch is not None:
                    stack.enter_context(watch.over(module, inputs))
                if self.way == "dispatch":
                    stack.enter_context(widening())
                yield

        outputs = call(module, feeds, torch.float64, channels_last=channels_last, within=within)
        if self.way == "dispatch":  # a constant that forward returns as it is has met no operator
            return [(name, widening.tensor(tensor)) for name, tensor in outputs]
        return outputs

    def floats(self, feeds: Feeds, watch: Watch | None = None, *, channels_last: bool = False) -> Feeds:
        """The float outputs as float64 arrays; empty where the module has no float64 answer to these inputs."""
        if self.way is None:
            return {}
        try:
            outputs = self.call(feeds, watch, channels_last=channels_last)
        except Exception:  # noqa: BLE001 - what it answers at one size it may refuse at another
            return {}
        return floats(outputs)


def floats(outputs: list[tuple[str, torch.Tensor]]) -> Feeds:
    """The outputs that have a float64 answer; safetensors stores no complex128."""
    return {name: array for name, array in arrays(outputs).items() if array.dtype == np.float64}


def _written_for(module: torch.nn.Module, example: Feeds) -> torch.dtype | None:
    """The one narrow floating-point dtype of weights and inputs; None where they mix, or are wide already."""
    tensors = [*module.parameters(), *module.buffers()]
    tensors += [torch.from_numpy(array) for array in example.values()]
    found = {tensor.dtype for tensor in tensors if tensor.is_floating_point()} or {torch.get_default_dtype()}
    dtype = found.pop()
    return dtype if not found and dtype in WIDER else None


def _agree(eager: Feeds, exact: Feeds, given: Feeds, limit: float) -> bool:
    """Same names and shapes, and values within `limit` of the RMS where eager is finite."""
    if list(eager) != list(exact) or any(eager[name].shape != exact[name].shape for name in eager):
        return False
    level = max((_rms(array) for array in (*eager.values(), *given.values())), default=0.0)
    for name, expected in eager.items():
        if expected.dtype.kind in "fc":
            finite = np.isfinite(expected)
            with np.errstate(all="ignore"):
                error = _rms(exact[name][finite] - expected[finite].astype(np.complex128), everything=True)
            if not error <= max(limit * _rms(expected), CANCELLED * level):
                return False
    return True


def _rms(array: NDArray[Any], *, everything: bool = False) -> float:
    """Root mean square as of `distances.rms`; 0 for integers, which nothing rounds."""
    return rms(array, everything=everything) if array.dtype.kind in "fc" else 0.0
