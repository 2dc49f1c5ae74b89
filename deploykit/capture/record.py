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

HALF_ELEMENTS = 1 << 19
"""Input elements evaluated in half precision, which CPUs emulate: a second per image for a ResNet-18."""


SAME64 = 2.0**-36
"""Two float64 evaluations of one sample differ by less than this share of the output: summation order is 2⁻⁵⁰ or so."""


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
            WorkError: NAN_REFERENCE, eager itself answers a finite in-distribution input with NaN.
        """
        try:
            expected = arrays(call(self._module, inputs.inputs))
        except (RuntimeError, ValueError, IndexError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            hint = "give inputs that the model takes with --samples, or narrow what --input promises"
            raise WorkError(f"case {inputs.id}", f"eager refuses it: {first}", hint, "REFERENCE_ERROR") from error
        if inputs.input_class in {"real", "in range"}:
            _check_finite(expected, inputs.id)
        expected64 = self._exact(inputs.inputs) if inputs.gate == "full" else {}
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

    def _exact(self, feeds: Feeds) -> Feeds:
        """The float outputs in float64; empty where the module cannot run so."""
        if self._double is None:
            return {}
        answered = arrays(call(self._double, feeds, torch.float64))
        return {name: array for name, array in answered.items() if array.dtype.kind == "f"}

    def _noise(self, inputs: CaseInputs, expected: Feeds, expected64: Feeds) -> dict[str, Noise]:
        with _one_thread():
            single_thread = arrays(call(self._module, inputs.inputs))
        evaluations = [expected, single_thread, *self._one_by_one(inputs, expected64)]
        half, half_exact = self._in_half(inputs)
        noise = {}
        for name, exact in expected64.items():
            values = [_rmse(answer[name], exact) for answer in evaluations]
            finite = [value for value in values if value is not None]
            own_half = _rmse(half[name], half_exact[name]) if name in half else None
            noise[name] = Noise(max(finite, default=None), own_half)
        return noise

    def _in_half(self, inputs: CaseInputs) -> tuple[Feeds, Feeds]:
        """Eager half and float64 on the first rows; empty where it cannot, or for mere sizes."""
        if self._half is None or inputs.input_class == "shapes":
            return {}, {}
        per_row = sum(array[:1].size for array in inputs.inputs.values() if array.ndim)
        count = max(1, HALF_ELEMENTS // max(1, per_row))
        head = _rows(inputs.inputs, slice(0, count)) if inputs.rows else inputs.inputs
        return arrays(call(self._half, head, torch.float16)), self._exact(head)

    def _one_by_one(self, inputs: CaseInputs, expected64: Feeds) -> list[Feeds]:
        """Eager one sample at a time over the first rows; empty where a sample alone is another question."""
        if inputs.rows is None or inputs.rows < 2 or not self._independent(inputs, expected64):
            return []
        rows = min(inputs.rows, SINGLE_ROWS)
        singles = [arrays(call(self._module, _rows(inputs.inputs, slice(i, i + 1)))) for i in range(rows)]
        return [{name: np.concatenate([one[name] for one in singles]) for name in expected64}]

    def _independent(self, inputs: CaseInputs, expected64: Feeds) -> bool:
        """Whether the first and the last sample get the same float64 answer alone as in their batch."""
        for row in (0, (inputs.rows or 1) - 1):
            alone = self._exact(_rows(inputs.inputs, slice(row, row + 1)))
            for name, batched in expected64.items():
                if batched.shape[:1] != (inputs.rows,) or alone[name].shape != (1, *batched.shape[1:]):
                    return False
                level = float(np.abs(batched).max(initial=0.0, where=np.isfinite(batched)))
                if not np.allclose(alone[name][0], batched[row], rtol=0.0, atol=SAME64 * level, equal_nan=True):
                    return False
        return True


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
        for shape, (name, tensor) in zip(shapes, second, strict=True):
            for axis, size in enumerate(tensor.shape):
                if shape[axis] != size and isinstance(shape[axis], int):
                    follows = shape[axis] == sizes[dim.name] and size == grown[dim.name]
                    shape[axis] = dim.name if follows else f"{dim.name}_{name}_{axis}"
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


def _rows(feeds: Feeds, rows: slice) -> Feeds:
    return {name: array[rows] for name, array in feeds.items()}


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
