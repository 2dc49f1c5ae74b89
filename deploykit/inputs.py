"""The inputs a model is judged with: real samples, and a seeded campaign around them.

One input class per way in which exported models are known to go wrong; what is expected of the candidate on each
class is its `gate`: `full` (values within budget) or `pattern` (the same non-finite pattern as eager, and rows that
eager keeps clean stay clean).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deploykit.errors import RefusedError, UsageError, from_os_error
from deploykit.signature import Dim, Feeds, Signature, TensorSpec

MAX_REAL = 1024
"""Most real samples kept. A drop of 0.5 points cannot be excluded at 95 % with under 539 (z²/(n+z²) ≤ 0.005)."""

SYNTHETIC = 64
"""Samples drawn where the user gives none."""

CALIBRATION = 64
"""Calibration samples drawn where the user gives none, and most that are cut from the user's."""

MIN_CALIBRATION = 16
ENOUGH = 560
"""Labelled samples that are left to judge with where there are so many and `MIN_CALIBRATION` more."""

BATCHES = (1, 2, 3, 7, 64)
"""Batch sizes tried: one, two, odd ones, and one that is larger than any vector register."""

MAX_ELEMENTS = 1 << 21
"""Largest input of one case, in elements: bounds time and memory the same way on every machine."""

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


def campaign(signature: Signature, example: Feeds, samples: Samples | None, seed: int) -> Iterator[CaseInputs]:
    """All cases for a model, deterministic by `seed`.

    Args:
        signature: names, dtypes and dims of the inputs.
        example: one valid set of inputs; gives the sizes of dims that no case varies, and the range of integers.
        samples: real inputs; None draws standard normal ones instead.
        seed: each case derives a generator of its own from it and its place in the campaign.

    Raises:
        UsageError: the samples do not fit the signature.
    """
    source = _Source(signature, example, samples, seed)
    yield from source.judged()
    yield from source.shapes()
    yield from source.constants()
    yield from source.non_finite()


def calibration(signature: Signature, example: Feeds, samples: Samples | None, seed: int) -> list[Feeds]:
    """Batches for static quantization, disjoint from every case: the user's own, else drawn like the base cases."""
    source = _Source(signature, example, samples, seed)
    if samples is not None:
        signature.sizes_of(_take(samples.calibration, slice(0, source.batch)))
        return list(_batches(samples.calibration, source.batch))
    generator = np.random.default_rng([seed, 0xCA11])
    count = max(1, min(CALIBRATION, source.cap) // source.batch)
    return [source.draw(source.sizes, generator) for _ in range(count)]


@dataclass
class _Source:
    """Draws inputs that fit a signature."""

    signature: Signature
    example: Feeds
    samples: Samples | None
    seed: int
    sizes: dict[str, int] = field(init=False)
    batch: int = field(init=False)
    cap: int = field(init=False)
    _cases: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.sizes = self.signature.sizes_of(self.example)
        name = self.signature.batch_dim
        if name is not None:
            row = sum(array[:1].size for array in self.example.values())
            top = next((dim.max for dim in self.signature.dims if dim.name == name), SYNTHETIC)
            self.cap = max(1, min(SYNTHETIC, MAX_ELEMENTS // max(1, row), top))
            self.batch = max(1, min(8, self.cap))
            self.sizes = {**self.sizes, name: self.batch}
        else:
            lengths = {len(a) if a.ndim else 0 for a in self.example.values()}
            self.cap = SYNTHETIC
            self.batch = max(1, lengths.pop()) if len(lengths) == 1 else 1
        if self.samples is not None:
            self._check_samples(self.samples)

    def _check_samples(self, samples: Samples) -> None:
        rows = len(next(iter(samples.real.values())))
        if rows < self.batch:
            hint = f"give at least {self.batch}, or make the batch dim symbolic"
            raise UsageError("--samples", f"{rows} samples are fewer than the model's batch", hint, "BAD_SAMPLES")
        self.signature.sizes_of(_take(samples.real, slice(0, self.batch)))

    def draw(self, sizes: dict[str, int], generator: np.random.Generator) -> Feeds:
        """Standard normal floats, integers in the example's range, fair bools."""
        return {s.name: _draw(s, self.example[s.name], sizes, generator) for s in self.signature.inputs}

    def rows(self, count: int, generator: np.random.Generator) -> Feeds:
        """`count` rows: the first real samples (repeated where there are fewer), else drawn ones."""
        name = self.signature.batch_dim
        if self.samples is not None:
            total = len(next(iter(self.samples.real.values())))
            return _take(self.samples.real, np.arange(count) % total)
        return self.draw({**self.sizes, **({name: count} if name else {})}, generator)

    def case(self, name: str, input_class: str, gate: Gate, inputs: Feeds, **more: Any) -> CaseInputs:
        """A finished case; inputs are made contiguous."""
        rows = len(next(iter(inputs.values()))) if self.signature.batch_dim else None
        ready = {spec.name: np.asarray(inputs[spec.name], order="C") for spec in self.signature.inputs}
        return CaseInputs(name, input_class, gate, ready, rows, self.seed, **more)

    def generator(self) -> np.random.Generator:
        """The next case's own generator."""
        self._cases += 1
        return np.random.default_rng([self.seed, self._cases])

    def judged(self) -> Iterator[CaseInputs]:
        """Real samples where given; synthetic ones inside the range of the base."""
        if self.samples is not None:
            whole = _take(self.samples.real, slice(0, MAX_REAL))
            rows = max(1, MAX_ELEMENTS // max(1, sum(a[:1].size for a in whole.values())))
            step = rows if self.signature.batch_dim else self.batch
            parts = list(_batches(whole, step, drop_last=self.signature.batch_dim is None))
            for index, part in enumerate(parts):
                labels = self.samples.labels
                cut = (
                    None
                    if labels is None
                    else labels[index * step : index * step + step][: len(next(iter(part.values())))]
                )
                yield self.case("real" if len(parts) == 1 else f"real-{index}", "real", "full", part, labels=cut)
        generator = self.generator()
        base = self.rows(self.cap if self.signature.batch_dim else self.batch, generator)
        if self.samples is None:
            yield self.case("gaussian", "in range", "full", base)
        uniform = {name: _uniform(array, generator) for name, array in base.items()}
        yield self.case("uniform", "in range", "full", uniform)

    def shapes(self) -> Iterator[CaseInputs]:
        """Every batch size in `BATCHES` that fits, and one more element along each other symbolic dim."""
        if self.signature.batch_dim is not None:
            limits = next((d for d in self.signature.dims if d.name == self.signature.batch_dim), None)
            low, top = (limits.min, limits.max) if limits else (1, SYNTHETIC)
            for count in sorted({min(max(batch, low), top, self.cap) for batch in BATCHES}):
                yield self.case(f"batch-{count}", "shapes", "full", self.rows(count, self.generator()))
        for dim in self.signature.dims:
            if dim.name == self.signature.batch_dim or dim.name not in self.sizes:
                continue
            if self.samples is not None:
                yield from self._cut(dim)
            elif (size := self.sizes[dim.name] + 1) <= dim.max:
                inputs = self.draw({**self.sizes, dim.name: size}, self.generator())
                yield self.case(f"{dim.name}-{size}", "shapes", "full", inputs)

    def _cut(self, dim: Dim) -> Iterator[CaseInputs]:
        """Real rows one element shorter along `dim`: what they are made of stays valid."""
        base = self.rows(self.batch, self.generator())
        cut, size = dict(base), 0
        for spec in self.signature.inputs:
            for axis in (axis for axis, name in enumerate(spec.shape) if name == dim.name):
                size = cut[spec.name].shape[axis] - 1
                cut[spec.name] = np.take(cut[spec.name], np.arange(size), axis=axis)
        if size >= max(1, dim.min):
            yield self.case(f"{dim.name}-{size}", "shapes", "full", cut)

    def constants(self) -> Iterator[CaseInputs]:
        """Zeros, ones, and one constant per sample across the range of the base."""
        base = self.rows(self.batch, self.generator())
        yield self.case("zeros", "constant", "full", {n: np.zeros_like(a) for n, a in base.items()})
        if any(array.dtype.kind in "fc" for array in base.values()):
            ones = {n: np.ones_like(a) if a.dtype.kind in "fc" else np.zeros_like(a) for n, a in base.items()}
            yield self.case("ones", "constant", "full", ones)
            yield self.case("constants", "constant", "full", {n: _ramp(a) for n, a in base.items()})

    def non_finite(self) -> Iterator[CaseInputs]:
        """NaN and infinity in one element and in one whole row of a small batch, for floating-point inputs."""
        count = min(4, self.cap) if self.signature.batch_dim else self.batch
        for name, value in (("nan", np.nan), ("inf", np.inf)):
            for extent in ("element", "row"):
                base = self.rows(count, self.generator())
                poisoned = {n: _poison(a, value, extent) if a.dtype.kind == "f" else a for n, a in base.items()}
                if any(array.dtype.kind == "f" for array in base.values()):
                    yield self.case(f"{name}-{extent}", "non-finite", "pattern", poisoned)


def _draw(
    spec: TensorSpec, example: NDArray[Any], sizes: dict[str, int], generator: np.random.Generator
) -> NDArray[Any]:
    shape = spec.concrete(sizes)
    kind = np.dtype(spec.dtype).kind
    drawn: NDArray[Any]
    if kind == "b":
        drawn = generator.random(shape) < 0.5
    elif kind in "iu":
        low, high = (int(example.min()), int(example.max())) if example.size else (0, 1)
        drawn = generator.integers(low, high, size=shape, endpoint=True, dtype=np.int64)
    elif kind == "c":
        drawn = generator.standard_normal(shape) + 1j * generator.standard_normal(shape)
    else:
        drawn = generator.standard_normal(shape)
    return drawn.astype(spec.dtype)


def _uniform(array: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    """Uniform between the smallest and largest value that each feature takes in `array`; other kinds are permuted."""
    if array.dtype.kind != "f" or array.ndim == 0:
        return generator.permutation(array) if array.ndim else array
    low, high = array.min(axis=0, keepdims=True), array.max(axis=0, keepdims=True)
    drawn: NDArray[Any] = low + (high - low) * generator.random(array.shape)
    return drawn.astype(array.dtype)


def _ramp(array: NDArray[Any]) -> NDArray[Any]:
    """Row i is one value: the i-th of evenly spaced ones over the range of `array`."""
    if array.dtype.kind != "f" or array.ndim == 0:
        return array
    steps = np.linspace(float(array.min()), float(array.max()), len(array), dtype=array.dtype)
    return np.broadcast_to(steps.reshape(-1, *([1] * (array.ndim - 1))), array.shape).copy()


def _poison(array: NDArray[Any], value: float, extent: str) -> NDArray[Any]:
    spoiled = array.copy()
    if extent == "row" and spoiled.ndim:
        spoiled[len(spoiled) // 2] = value
    else:
        spoiled.reshape(-1)[spoiled.size // 2] = value
    return spoiled


def _take(feeds: Feeds, rows: Any) -> Feeds:
    return {name: array[rows] for name, array in feeds.items()}


def _batches(feeds: Feeds, size: int, *, drop_last: bool = False) -> Iterator[Feeds]:
    total = len(next(iter(feeds.values())))
    for start in range(0, total - (total % size if drop_last else 0), size):
        yield _take(feeds, slice(start, min(start + size, total)))
