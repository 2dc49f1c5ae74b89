"""What untouched eager PyTorch answered: the trusted side of every comparison, stored as data beside the variants.

A case is one safetensors file: `inputs/NAME`, `expected/NAME` (eager as the user runs it), `expected64/NAME` (the same
module in float64, floats only) and `labels`. Verify needs neither the model's code nor its weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from deploykit.errors import RefusedError, from_os_error, from_os_text
from deploykit.inputs import Gate
from deploykit.signature import Feeds


@dataclass(frozen=True)
class Noise:
    """How far legitimate evaluations of the eager module itself are from float64, for one output of one case.

    Attributes:
        fp32: RMSE, the largest over as given, one sample at a time and one thread; None where nothing is finite.
        half: RMSE of the module in float16; None where it cannot run so.
    """

    fp32: float | None
    half: float | None = None


@dataclass(frozen=True)
class Case:
    """One stored question with its answer.

    Attributes:
        rows: size of the batch dim, None where the signature has none.
        expected64: float outputs of the module in float64; empty where that was impossible (`weak_reference`).
        noise: eager's own noise per float output.
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
    if case.labels is not None:
        arrays["labels"] = case.labels
    save_arrays(arrays, path)


def part(arrays: Feeds, name: str) -> Feeds:
    """The arrays stored under `name/`, by their own names."""
    return {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
