"""Calls of ONNX Runtime through IOBinding with everything on the host: outputs in buffers that are made once.

The inputs are bound anew at every call, as a server with new data has to do; a bound array is read where it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from deploykit.signature import Feeds

DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
    **{f"tensor({name})": np.dtype(name).type for name in ("int8", "int16", "int32", "int64")},
    **{f"tensor({name})": np.dtype(name).type for name in ("uint8", "uint16", "uint32", "uint64")},
}
"""ONNX types that numpy has, too: of the others no buffer can be made."""


class HostBinding:
    """The buffers of one session, shared by all its calls: an answer holds until the next call.

    Args:
        ort: the onnxruntime module.
        session: an opened InferenceSession of a provider that works on the host.
    """

    def __init__(self, ort: Any, session: Any) -> None:
        self._ort, self._session = ort, session
        self._inputs = [(value.name, tuple(value.shape or ())) for value in session.get_inputs()]
        self._outputs = [(value.name, value.type, tuple(value.shape or ())) for value in session.get_outputs()]
        self._made: dict[tuple[str, tuple[int, ...]], tuple[np.ndarray[Any, Any], Any]] = {}

    def fits(self) -> bool:
        """All outputs are tensors: nothing else can be bound."""
        return all(kind.startswith("tensor(") and kind != "tensor(string)" for _, kind, _ in self._outputs)

    def prepare(self, feeds: Feeds) -> Callable[[], list[Any]]:
        """One call bound to contiguous `feeds`; it gives the outputs in the session's order, in the shared buffers.

        An output whose shape the inputs' shapes do not tell is allocated by onnxruntime at every call.
        """
        binding = self._session.io_binding()
        sizes = self.sizes(feeds)
        taken: list[np.ndarray[Any, Any] | None] = []
        for name, kind, dims in self._outputs:
            shape = shape_of(dims, sizes)
            if shape is None or kind not in DTYPES:
                binding.bind_output(name, "cpu")
                taken.append(None)
            else:
                array, value = self._buffer(name, kind, shape)
                binding.bind_ortvalue_output(name, value)
                taken.append(array)
        inputs = list(feeds.items())
        bind, run = binding.bind_cpu_input, self._session.run_with_iobinding
        fixed = [array for array in taken if array is not None]
        free = [name for (name, _, _), array in zip(self._outputs, taken, strict=True) if array is None]

        def in_buffers() -> list[Any]:
            for name, array in inputs:
                bind(name, array)
            run(binding)
            return fixed

        def allocated() -> list[Any]:
            for name in free:  # what the last call allocated stays bound, and need not have this one's shape
                binding.bind_output(name, "cpu")
            in_buffers()
            values = binding.get_outputs()
            return [value.numpy() if kept is None else kept for kept, value in zip(taken, values, strict=True)]

        return allocated if free else in_buffers

    def sizes(self, feeds: Feeds) -> dict[str, int]:
        """The sizes of symbolic dims as the inputs show them; one that they show differently tells nothing."""
        found: dict[str, set[int]] = {}
        for name, dims in self._inputs:
            for dim, size in zip(dims, feeds[name].shape if name in feeds else (), strict=False):
                if isinstance(dim, str):
                    found.setdefault(dim, set()).add(size)
        return {dim: sizes.pop() for dim, sizes in found.items() if len(sizes) == 1}

    def _buffer(self, name: str, kind: str, shape: tuple[int, ...]) -> tuple[np.ndarray[Any, Any], Any]:
        if (name, shape) not in self._made:
            array = np.empty(shape, DTYPES[kind])
            self._made[name, shape] = (array, self._ort.OrtValue.ortvalue_from_numpy(array))
        return self._made[name, shape]


def shape_of(dims: tuple[int | str | None, ...], sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """The shape that declared `dims` have with `sizes` of symbolic ones; None where one is not known."""
    known = [dim if isinstance(dim, int) else sizes.get(dim or "") for dim in dims]
    return None if None in known else tuple(size for size in known if size is not None)
