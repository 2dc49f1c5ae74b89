"""The float constants that quantized ones were made from, found by name, or by shape and nearest values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from deploykit.onnx_graph import Array
from deploykit.onnx_session import optimized
from deploykit.quantization.graph import Graph

NEAREST = 0.5
"""Relative RMS distance under which an equally shaped constant counts as the source: 4-bit weights are at about 0.1,
two unrelated weights of one size at 1.4."""

_SAMPLED = 4096
"""Elements compared when the nearest source is looked for."""

_ENDINGS = re.compile(r"(_quantized|_QuantizeLinear_Output|_Transposed|_Q\d+|_Q\d+G\d+|_quant|_q)+$")
"""What quantizers append to the name of the constant that they replace."""


class Sources:
    """Float constants by name, of the float32 file that the quantized one was made from.

    Args:
        base: that file.
    """

    def __init__(self, base: Path) -> None:
        self._base = base

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """The constants of the file."""
        return _floats(Graph.load(self._base))

    @cached_property
    def prepared(self) -> dict[str, Array]:
        """Those that quantizers see: `quant_pre_process` folds batch-norm into convolutions first."""
        return _floats(prepared(self._base))

    def candidates(self, name: str, values: Array) -> Iterator[Array]:
        """What `name` points at, laid out like `values`, then what is nearest to them: the first that fits is it.

        Preparing a model takes a second, so it is done when the file's own constants do not fit.
        """
        for table in ("arrays", "prepared"):
            known: dict[str, Array] = getattr(self, table)
            for key in dict.fromkeys((name, bare_name(name))):
                found = known.get(key)
                if found is not None and (laid := _laid_out(found, values)) is not None:
                    yield laid
        if (close := self.nearest(values)) is not None:
            yield close

    def nearest(self, values: Array) -> Array | None:
        """The source of the shape of `values` with the closest values; None where none is close."""
        best, distance = None, NEAREST
        picks = np.random.default_rng(0).integers(0, max(values.size, 1), min(values.size, _SAMPLED))
        wanted = values.reshape(-1)[picks]
        size = float(np.sqrt(np.mean(wanted**2))) if wanted.size else 0.0
        for candidate in self._shaped(values.shape):
            away = float(np.sqrt(np.mean((candidate.reshape(-1)[picks] - wanted) ** 2)))
            relative = away / size if size else (0.0 if away == 0.0 else np.inf)
            if relative < distance:
                best, distance = candidate, relative
        return best

    def _shaped(self, shape: tuple[int, ...]) -> Iterator[Array]:
        for table in (self.arrays, self.prepared):
            for array in table.values():
                if array.shape == shape:
                    yield array
                if array.ndim == 2 and array.shape == shape[::-1]:
                    yield array.T


def bare_name(name: str) -> str:
    """The name of the float constant that a quantizer called `name` afterwards."""
    return _ENDINGS.sub("", name)


def prepared(base: Path) -> Graph:
    """`base` as quantizers see it."""
    return Graph(optimized(base, "ORT_ENABLE_BASIC"))


def _floats(graph: Graph) -> dict[str, Array]:
    found = {}
    for name, kind in graph.constants():
        array = graph.known(name) if kind in {"float", "double"} else None
        if array is not None:
            found[name] = array
    return found


def _laid_out(array: Array, values: Array) -> Array | None:
    """`array` in the shape of `values`: as it is or transposed, whichever is nearer where both fit; None if neither."""
    forms = [array] + ([array.T] if array.ndim == 2 else [])
    fitting = [form for form in forms if form.shape == values.shape]
    if len(fitting) < 2:
        return fitting[0] if fitting else None
    return min(fitting, key=lambda form: float(np.mean(np.abs(form - values))))
