"""Recording the reference: eager as the user runs it, in float64, and how noisy eager is by itself."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from deploykit.capture.calling import arrays, call
from deploykit.errors import WorkError
from deploykit.inputs import CaseInputs
from deploykit.model import LoadedModel
from deploykit.reference import Case, Noise
from deploykit.signature import Feeds, Signature, TensorSpec

SINGLE_ROWS = 32
"""Rows evaluated one by one for the noise: enough for an RMSE, cheap for a large model."""

HALF_ROWS = 2
"""Rows evaluated in half precision, which CPUs emulate: a second per image for a ResNet-18."""


class Recorder:
    """Answers cases with the untouched module.

    Attributes:
        float64: how the float64 answer is had (`double`), or None when the module cannot run so (weak reference).
    """

    def __init__(self, model: LoadedModel) -> None:
        self._module = model.module
        self._double = _converted(model, torch.float64)
        self._half = _converted(model, torch.float16)
        self.float64 = "double" if self._double is not None else None

    def answer(self, inputs: CaseInputs) -> Case:
        """The finished case.

        Raises:
            WorkError: NAN_REFERENCE, eager itself answers a finite in-distribution input with NaN or infinity.
        """
        expected = arrays(call(self._module, inputs.inputs))
        if inputs.input_class in {"real", "in range"}:
            _check_finite(expected, inputs.id)
        expected64: Feeds = {}
        if self._double is not None and inputs.gate == "full":
            answered = arrays(call(self._double, inputs.inputs, torch.float64))
            expected64 = {name: array for name, array in answered.items() if array.dtype.kind == "f"}
        noise = self._noise(inputs, expected, expected64) if expected64 else {}
        return Case(
            inputs.id,
            inputs.input_class,
            inputs.gate,
            inputs.rows,
            inputs.seed,
            inputs.inputs,
            expected,
            expected64,
            noise,
            inputs.labels,
        )

    def _noise(self, inputs: CaseInputs, expected: Feeds, expected64: Feeds) -> dict[str, Noise]:
        with _one_thread():
            single_thread = arrays(call(self._module, inputs.inputs))
        evaluations = [expected, single_thread, *self._one_by_one(inputs)]
        half = self._in_half(inputs)
        noise = {}
        for name, exact in expected64.items():
            values = [_rmse(answer[name], exact) for answer in evaluations]
            finite = [value for value in values if value is not None]
            own_half = _rmse(half[name].astype(np.float64), exact) if name in half else None
            noise[name] = Noise(max(finite, default=None), own_half)
        return noise

    def _in_half(self, inputs: CaseInputs) -> Feeds:
        """Eager half over the first rows; empty where it cannot, or for other sizes of what was measured already."""
        if self._half is None or inputs.input_class == "shapes":
            return {}
        head = {name: array[:HALF_ROWS] for name, array in inputs.inputs.items()} if inputs.rows else inputs.inputs
        return arrays(call(self._half, head, torch.float16))

    def _one_by_one(self, inputs: CaseInputs) -> list[Feeds]:
        """Eager one sample at a time over the first rows; empty without a batch dim, or when outputs lack it."""
        if inputs.rows is None or inputs.rows < 2:
            return []
        rows = min(inputs.rows, SINGLE_ROWS)
        singles = [
            arrays(call(self._module, {name: array[i : i + 1] for name, array in inputs.inputs.items()}))
            for i in range(rows)
        ]
        if any(array.shape[:1] != (1,) for array in singles[0].values()):
            return []
        return [{name: np.concatenate([one[name] for one in singles]) for name in singles[0]}]


def with_outputs(model: LoadedModel) -> Signature:
    """The signature with its outputs: an axis is symbolic where it has the size of exactly one symbolic dim.

    The example's sizes can coincide with a fixed axis, so a second call with other sizes decides.

    Raises:
        WorkError: the model does not take another size along a dim that is declared symbolic.
    """
    signature = model.signature
    sizes = signature.sizes_of(model.example)
    first = call(model.module, model.example)
    shapes: list[list[int | str]] = [list(tensor.shape) for _, tensor in first]
    for dim in signature.dims:
        grown = dict(sizes)
        grown[dim.name] = sizes[dim.name] + 1 if sizes[dim.name] < dim.max else sizes[dim.name] - 1
        if grown[dim.name] < dim.min:
            continue
        feeds = {s.name: _resized(model.example[s.name], s.concrete(grown)) for s in signature.inputs}
        try:
            second = call(model.module, feeds)
        except (RuntimeError, ValueError, IndexError) as error:
            first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
            message = f"eager itself refuses {dim.name}={grown[dim.name]}: {first_line}"
            raise WorkError(
                "signature", message, f"declare a fixed size instead of {dim.name}", "DIM_REFUSED"
            ) from error
        for shape, (_, tensor) in zip(shapes, second, strict=True):
            for axis, size in enumerate(tensor.shape):
                if shape[axis] != size and isinstance(shape[axis], int):
                    shape[axis] = dim.name if size == grown[dim.name] else f"{dim.name}_{axis}"
    outputs = tuple(
        TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(shape))
        for (name, tensor), shape in zip(first, shapes, strict=True)
    )
    return replace(signature, outputs=outputs)


def _converted(model: LoadedModel, dtype: torch.dtype) -> torch.nn.Module | None:
    """A copy of the module in `dtype` that answers the example in it; None where the module cannot."""
    floats = {torch.float16, torch.float32, torch.float64, torch.bfloat16}
    try:
        module = copy.deepcopy(model.module).to(dtype)
        outputs = call(module, model.example, dtype)
    except Exception:  # noqa: BLE001 - any module may refuse another dtype in its own way: then there is no such answer
        return None
    clean = all(tensor.dtype == dtype for _, tensor in outputs if tensor.dtype in floats)
    return module if clean else None


def _resized(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.resize(array, shape)  # repeats what is there: integers stay in range


def _rmse(actual: np.ndarray, exact: np.ndarray) -> float | None:
    """Root mean square difference to `exact` over the rows that `actual` has; None when nothing finite is left."""
    head = exact[: len(actual)] if exact.ndim else exact
    if head.shape != actual.shape:
        return None
    with np.errstate(all="ignore"):
        error = actual.astype(np.float64) - head
    finite = error[np.isfinite(error)]
    return float(np.sqrt(np.mean(finite**2))) if finite.size else None


def _check_finite(expected: Feeds, case: str) -> None:
    for name, array in expected.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            hint = "repair the weights: nothing can be proven about this model"
            raise WorkError(
                f"output {name}", f"eager answers NaN on the finite inputs of {case}", hint, "NAN_REFERENCE"
            )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
