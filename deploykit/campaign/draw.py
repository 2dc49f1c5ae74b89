"""Inputs that fit a signature: real rows where there are any, drawn ones elsewhere, each case from its own seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deploykit.errors import UsageError
from deploykit.inputs import CaseInputs, Gate, Samples
from deploykit.signature import Dim, Feeds, Signature, TensorSpec

SYNTHETIC = 64
"""Samples drawn where the user gives none."""

MAX_ELEMENTS = 1 << 21
"""Largest input of one case, in elements: bounds time and memory the same way on every machine."""

SMALL_ELEMENTS = 1 << 19
"""The same for the cases that only try another kind of input: there are many of them."""


INVENTED = {"straddle", "extreme", "non-finite", "constant", "layout", "masks", "outlier", "integers", "ties"}
"""Input classes that nobody promised: a module may refuse them, with an assertion say, and they are left out."""

Drawer: TypeAlias = "Callable[[tuple[int, ...], np.random.Generator], NDArray[Any]]"
"""Draws one input of a shape."""


@dataclass
class Draw:
    """Draws inputs for one model.

    Attributes:
        signature: names, dtypes and dims, of the outputs too where they are known.
        example: one valid set of inputs; gives the sizes of dims that no case varies, and the range of integers.
        samples: real inputs; None draws standard normal ones instead.
        seed: each case derives a generator of its own from it and its place in the campaign.
        own: how inputs are drawn that neither noise nor small integers stand for, by name: pictures.
        sizes: size of every symbolic dim in an ordinary case; `batch` of the batch dim, `cap` its largest, `few` where
            there are many cases of a kind; all of them inside the declared range.
        row: elements of one row of all inputs together.
    """

    signature: Signature
    example: Feeds
    samples: Samples | None
    seed: int
    own: Mapping[str, Drawer] = field(default_factory=dict)
    sizes: dict[str, int] = field(init=False)
    batch: int = field(init=False)
    cap: int = field(init=False)
    few: int = field(init=False)
    first_real: str = field(init=False, default="real")
    row: int = field(init=False)
    _cases: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.sizes = self.signature.sizes_of(self.example)
        name = self.signature.batch_dim
        self.row = max(1, sum(array[:1].size for array in self.example.values() if array.ndim))
        if name is not None:
            dim = self.dim(name)
            least = max(1, dim.min)
            self.cap = max(least, dim.nearest(min(SYNTHETIC, MAX_ELEMENTS // self.row)))
            self.batch = dim.nearest(min(8, self.cap))
            self.few = dim.nearest(min(self.batch, max(2, SMALL_ELEMENTS // self.row)))
            self.sizes = {**self.sizes, name: self.batch}
        else:
            lengths = {len(a) if a.ndim else 0 for a in self.example.values()}
            self.cap = SYNTHETIC
            self.batch = self.few = max(1, lengths.pop()) if len(lengths) == 1 else 1
        if self.samples is not None:
            self._check_samples(self.samples)

    def _check_samples(self, samples: Samples) -> None:
        rows = len(next(iter(samples.real.values())))
        name = self.signature.batch_dim
        least = self.batch if name is None else self.dim(name).min
        if rows < least:
            hint = f"give at least {least}" + ("" if name else ", or make the batch dim symbolic")
            raise UsageError("--samples", f"{rows} samples are fewer than the model's batch", hint, "BAD_SAMPLES")
        self.signature.sizes_of(take(samples.real, slice(0, min(self.batch, rows))))

    def dim(self, name: str) -> Dim:
        """The promised range of a symbolic dim."""
        return next((dim for dim in self.signature.dims if dim.name == name), Dim(name))

    @property
    def has_floats(self) -> bool:
        """Whether any input is floating point."""
        return any(np.dtype(spec.dtype).kind == "f" for spec in self.signature.inputs)

    def draw(self, sizes: dict[str, int], generator: np.random.Generator) -> Feeds:
        """Standard normal floats, integers in the example's range, fair bools."""
        return {
            s.name: self.own[s.name](s.concrete(sizes), generator)
            if s.name in self.own
            else _draw(s, self.example[s.name], sizes, generator)
            for s in self.signature.inputs
        }

    def rows(self, count: int, generator: np.random.Generator) -> Feeds:
        """`count` rows: the first real samples (repeated where there are fewer), else drawn ones."""
        name = self.signature.batch_dim
        if self.samples is not None:
            total = len(next(iter(self.samples.real.values())))
            return take(self.samples.real, np.arange(count) % total)
        return self.draw({**self.sizes, **({name: count} if name else {})}, generator)

    def some(self) -> Feeds:
        """A few ordinary rows for a case of its own."""
        return self.rows(self.few, self.generator())

    def case(self, name: str, input_class: str, gate: Gate, inputs: Feeds, **more: Any) -> CaseInputs:
        """A finished case; inputs are made contiguous."""
        rows = len(next(iter(inputs.values()))) if self.signature.batch_dim else None
        ready = {spec.name: np.asarray(inputs[spec.name], order="C") for spec in self.signature.inputs}
        more.setdefault("optional", input_class in INVENTED)
        return CaseInputs(name, input_class, gate, ready, rows, self.seed, **more)

    def generator(self) -> np.random.Generator:
        """The next case's own generator."""
        self._cases += 1
        return np.random.default_rng([self.seed, self._cases])


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
        wide = np.uint64 if spec.dtype == "uint64" else np.int64
        drawn = generator.integers(low, high, size=shape, endpoint=True, dtype=wide)
    elif kind == "c":
        drawn = generator.standard_normal(shape) + 1j * generator.standard_normal(shape)
    else:
        drawn = generator.standard_normal(shape)
    return drawn.astype(spec.dtype)


def floats(feeds: Feeds, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Feeds:
    """`feeds` with every floating-point array changed, dtype kept; the others as they are."""
    with np.errstate(over="ignore", under="ignore"):  # a multiple that the dtype does not hold is infinite
        return {n: change(a).astype(a.dtype) if a.dtype.kind == "f" else a for n, a in feeds.items()}


def take(feeds: Feeds, rows: Any) -> Feeds:
    """The chosen rows of every array."""
    return {name: array[rows] for name, array in feeds.items()}


def batches(feeds: Feeds, size: int, *, drop_last: bool = False) -> Iterator[Feeds]:
    """Consecutive runs of `size` rows, the last one shorter."""
    total = len(next(iter(feeds.values())))
    for start in range(0, total - (total % size if drop_last else 0), size):
        yield take(feeds, slice(start, min(start + size, total)))
