"""What untouched eager PyTorch answered: the trusted side of every comparison, stored as data beside the variants.

A case is one safetensors file: `inputs/NAME`, `expected/NAME` (eager as the user runs it), `expected64/NAME` (the same
module in float64, floats only), `scores/NAME` (what an index output was chosen from) and `labels`. Verify needs
neither the model's code nor its weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from deploykit.distances import rms
from deploykit.errors import RefusedError, from_os_error, from_os_text
from deploykit.inputs import Gate
from deploykit.signature import Feeds


@dataclass(frozen=True)
class Noise:
    """How far legitimate evaluations of the eager module itself are from float64, for one output of one case.

    Attributes:
        fp32: RMSE, the largest over as given, one sample at a time, channels_last and one thread; None where nothing is
            finite. Of a case with the gate `accurate`: over those elements where eager as given is right.
        half: RMSE of the module in float16; None where it cannot run so.
    """

    fp32: float | None
    half: float | None = None


@dataclass(frozen=True)
class Largest:
    """The largest finite magnitude that arises inside the module on real and in-range inputs; weights do not count.

    Attributes:
        value: largest absolute value, from the float64 run (from fp32 where the reference is weak).
        where: module path and operator, `layer2.0.conv1 (aten.convolution)`.
        overflows: how many such places exceed 65,504, the largest float16.
    """

    value: float
    where: str
    overflows: int = 0


@dataclass(frozen=True)
class IndexOutput:
    """An integer output that says where the largest or smallest scores are.

    Attributes:
        axis: axis of the output along which ranks run (topk, sort, a kept axis); None where each element stands alone.
        largest: whether the first rank is the largest score; False for argmin and ascending sorts.
    """

    axis: int | None
    largest: bool


@dataclass(frozen=True)
class Case:
    """One stored question with its answer.

    Attributes:
        rows: size of the batch dim, None where the signature has none.
        expected: what eager answered; empty where it refuses an input `outside` the declared range.
        expected64: float outputs of the module in float64; empty where that was impossible (`weak_reference`).
        noise: eager's own noise per float output.
        layout: how the inputs lie in memory when a candidate gets them (`transposed`, …); stored contiguous.
        relation: to another case, `permutes:ID`, `row-of:ID`, `repeats:ID`.
        scores: per index output, float64[lead + (K,)]: what each index was chosen from. `lead` is the output's shape
            without the axis of its `IndexOutput`.
        score_noise: RMSE of eager's fp32 scores to the float64 ones, per index output.
        near: per output that jumps there, [2, ...]: eager's answers a hair below and above the inputs.
        raw: uint8 images from which recorded preprocessing has to make the input of that name.
    """

    id: str
    input_class: str
    gate: Gate
    rows: int | None
    seed: int
    inputs: Feeds
    expected: Feeds
    expected64: Feeds
    noise: dict[str, Noise]
    labels: NDArray[np.int64] | None = None
    layout: str = ""
    relation: str = ""
    scores: Feeds = field(default_factory=dict)
    score_noise: dict[str, float] = field(default_factory=dict)
    near: Feeds = field(default_factory=dict)
    raw: Feeds = field(default_factory=dict)


def accurate(expected: NDArray[Any], exact: NDArray[Any]) -> NDArray[np.bool_]:
    """Where eager fp32 itself is right: within `ACCURATE` of float64 (of the element, or of the output's RMS).

    Args:
        expected: float, eager's answer.
        exact: of the same shape, the float64 answer.
    """
    finite = np.isfinite(expected) & np.isfinite(exact)
    with np.errstate(invalid="ignore"):
        close = np.abs(expected - exact) <= ACCURATE * np.maximum(np.abs(exact), rms(exact))
    found: NDArray[np.bool_] = np.where(finite, close, ~np.isfinite(exact) & ~np.isfinite(expected))
    return found


ACCURATE = 1e-2
"""Relative error of eager fp32 up to which its value on an unusual input is an expectation at all."""


def save_arrays(arrays: Feeds, path: Path) -> None:
    """Write arrays by name as safetensors.

    Raises:
        StorageError: the disk is full, or the path cannot be written.
    """
    try:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path)
    except (OSError, SafetensorError) as error:
        raise from_os_text(error, path.name) from error


def load_arrays(path: Path) -> Feeds:
    """Read what `save_arrays` wrote.

    Raises:
        RefusedError: the file is no safetensors file.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise RefusedError(path.name, f"not a safetensors file: {error}", "restore the file") from error
    except OSError as error:
        raise from_os_error(error, path.name) from error


def save_case(case: Case, path: Path) -> None:
    """Write the arrays of `case`; the rest of it belongs in the manifest."""
    arrays: dict[str, Any] = {f"inputs/{name}": array for name, array in case.inputs.items()}
    arrays.update({f"expected/{name}": array for name, array in case.expected.items()})
    arrays.update({f"expected64/{name}": array for name, array in case.expected64.items()})
    arrays.update({f"scores/{name}": array for name, array in case.scores.items()})
    arrays.update({f"near/{name}": array for name, array in case.near.items()})
    arrays.update({f"raw/{name}": array for name, array in case.raw.items()})
    if case.labels is not None:
        arrays["labels"] = case.labels
    save_arrays(arrays, path)


def part(arrays: Feeds, name: str) -> Feeds:
    """The arrays stored under `name/`, by their own names."""
    return {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
