"""The inputs a model is judged with: real samples, and questions of the campaign around them.

One input class per way in which exported models are known to go wrong. What is expected of the candidate is the
question's `gate`: `full` (values within budget), `accurate` (values where eager fp32 itself is accurate), `pattern`
(the same non-finite pattern as eager, and rows that eager keeps clean stay clean), or `outside` (refused, or right).
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deploykit.errors import RefusedError, UsageError, from_os_error
from deploykit.signature import Feeds

MAX_REAL = 1024
"""Most real samples kept. A drop of 0.5 points cannot be excluded at 95 % with under 539 (z²/(n+z²) ≤ 0.005)."""

CALIBRATION = 64
"""Calibration samples drawn where the user gives none, and most that are cut from the user's."""

MIN_CALIBRATION = 16
ENOUGH = 560
"""Labelled samples that are left to judge with where there are so many and `MIN_CALIBRATION` more."""

Gate = Literal["full", "accurate", "pattern", "outside"]


@dataclass(frozen=True)
class Samples:
    """Real inputs, stacked along the leading dim.

    Attributes:
        real: inputs to judge with; never used for calibration.
        labels: int64[n] class of each real sample, or None.
        calibration: inputs for static quantization, disjoint from `real`.
        origin: where they came from, in words, for the manifest.
    """

    real: Feeds
    labels: NDArray[np.int64] | None
    calibration: Feeds
    origin: str = "given"

    def save(self, path: Path) -> None:
        """Write an `.npz` that `load` reads."""
        arrays: dict[str, Any] = {f"calibration.{name}": array for name, array in self.calibration.items()}
        arrays.update(self.real)
        if self.labels is not None:
            arrays["labels"] = self.labels
        arrays["origin"] = np.array(self.origin)
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> Samples:
        """Read `.npz`: an array per input, `labels` where there are any, `calibration.NAME` where they are apart.

        Raises:
            RefusedError: the file is no `.npz`, or an entry is a pickle.
            UsageError: the file does not exist, or the arrays have different lengths.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
            raise RefusedError(
                str(path), f"not a plain .npz: {error}", "write it with numpy.savez(FILE, NAME=array)"
            ) from error
        except OSError as error:
            raise from_os_error(error, str(path)) from error
        origin = str(arrays.pop("origin", "given"))
        labels = arrays.pop("labels", None)
        calibration = {n.removeprefix("calibration."): a for n, a in arrays.items() if n.startswith("calibration.")}
        real = {n: a for n, a in arrays.items() if not n.startswith("calibration.")}
        _check_values(path, real, labels)
        lengths = {len(a) if a.ndim else 0 for a in (*real.values(), *(() if labels is None else (labels,)))}
        if len(lengths) != 1 or 0 in lengths:
            raise UsageError(
                str(path), f"arrays of lengths {sorted(lengths)}", "one row per sample in every array", "BAD_SAMPLES"
            )
        if not calibration:
            return _split(real, labels)
        return cls(real, None if labels is None else labels.astype(np.int64), calibration, origin)


def _check_values(path: Path, real: Feeds, labels: NDArray[Any] | None) -> None:
    if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels < 0).any()):
        what = f"labels are {labels.dtype}{list(labels.shape)}"
        raise UsageError(str(path), what, "give one class number from 0 per sample", "BAD_SAMPLES")
    for name, array in real.items():
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise UsageError(str(path), f"{name} holds NaN or infinity", "judge with finite samples", "BAD_SAMPLES")


def _split(real: Feeds, labels: NDArray[Any] | None) -> Samples:
    """The last fifth (at most `CALIBRATION`, at least one row) calibrates, the rest judges."""
    rows = len(next(iter(real.values())))
    if rows < 2:
        raise UsageError("--samples", "one sample cannot both calibrate and judge", "give at least two", "BAD_SAMPLES")
    spare = rows - ENOUGH if labels is not None and rows - ENOUGH >= MIN_CALIBRATION else rows
    cut = rows - max(1, min(CALIBRATION, rows // 5, spare))
    kept = None if labels is None else labels[:cut].astype(np.int64)
    return Samples({n: a[:cut] for n, a in real.items()}, kept, {n: a[cut:] for n, a in real.items()})


@dataclass(frozen=True)
class CaseInputs:
    """One set of inputs of the campaign, before eager has answered.

    Attributes:
        id: unique name, also the file name in the bundle.
        rows: size of the symbolic batch dim, or None where there is none.
        seed: seeds the generator that drew this case.
        layout: how the arrays lie in memory when the variant gets them: empty for contiguous, else `strided`,
            `transposed`, `expanded` or `channels_last`.
        relation: the case with which this one must agree: `repeats:ID`, `permutes:ID`, `first-row-of:ID`.
        optional: eager may refuse it; the case is then left out.
        raw: uint8 images of which recorded preprocessing made the input of that name; empty elsewhere.
    """

    id: str
    input_class: str
    gate: Gate
    inputs: Feeds
    rows: int | None
    seed: int
    labels: NDArray[np.int64] | None = None
    layout: str = ""
    relation: str = ""
    optional: bool = False
    raw: Feeds = field(default_factory=dict)
