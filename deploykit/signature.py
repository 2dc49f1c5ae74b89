"""What goes into a model and what comes out: names, dtypes, shapes with symbolic dims."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from deploykit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Feeds: TypeAlias = "dict[str, NDArray[Any]]"
"""Arrays by name: a model's inputs, or its outputs."""

DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
)  # fmt: skip

MAX_DIM = 65_535
"""Upper end of a symbolic dim when nobody states one: torch.export wants a bound, and no batch is larger."""

_INPUT = re.compile(r"^(?P<name>[A-Za-z_][\w.]*):(?P<dtype>\w+)\[(?P<dims>[^\]]*)\]$")
_RANGE = re.compile(r"^(?P<name>[^\W\d]\w*)(=(?P<min>\d{1,9})\.\.(?P<max>\d{1,9})(/(?P<step>\d{1,9}))?)?$")


@dataclass(frozen=True)
class Dim:
    """A symbolic dim and the inclusive range in which the model promises to work, in multiples of `step`."""

    name: str
    min: int = 1
    max: int = MAX_DIM
    step: int = 1

    @property
    def stated(self) -> bool:
        """Whether somebody said how far it goes."""
        return (self.min, self.max) != (1, MAX_DIM)

    def __str__(self) -> str:
        return f"{self.min} to {self.max}" + (f" in steps of {self.step}" if self.step > 1 else "")

    def __contains__(self, size: int) -> bool:
        """Whether the model promises to take `size`."""
        return self.min <= size <= self.max and size % self.step == 0

    def nearest(self, size: int) -> int:
        """The promised size next to `size`, from below where there is one."""
        return max(self.min, min(self.max, size) // self.step * self.step)


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: `shape` holds an `int` for a fixed dim and a name for a symbolic one."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def concrete(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with every symbolic dim replaced by its size.

        Raises:
            KeyError: a symbolic dim has no size.
        """
        return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in self.shape)

    def __str__(self) -> str:
        return f"{self.name}:{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Signature:
    """The inputs in call order, the outputs in return order, and the ranges of the symbolic dims they share."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...] = ()
    dims: tuple[Dim, ...] = field(default=())

    @property
    def batch_dim(self) -> str | None:
        """The symbolic dim that leads every input, if there is one; what is an inner dim too (`[N, N]`) is no batch."""
        leading = {spec.shape[0] if spec.shape else None for spec in self.inputs}
        only = leading.pop() if len(leading) == 1 else None
        inner = {dim for spec in self.inputs for dim in spec.shape[1:]}
        return only if isinstance(only, str) and only not in inner else None

    def sizes_of(self, feeds: Feeds) -> dict[str, int]:
        """The size of each symbolic dim in `feeds`.

        Raises:
            UsageError: a name, dtype, rank or fixed dim does not fit, or one symbolic dim has two sizes.
        """
        check_names(tuple(spec.name for spec in self.inputs), tuple(feeds))
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            _fit(spec, feeds[spec.name], sizes)
        return sizes


def check_names(expected: tuple[str, ...], actual: tuple[str, ...]) -> None:
    """Raise UsageError unless both hold the same names, in any order."""
    if set(expected) != set(actual):
        raise UsageError(
            "inputs",
            f"the model takes {', '.join(expected) or 'nothing'}, given were {', '.join(actual) or 'none'}",
            "name every input exactly once",
            "INPUT_NAMES",
        )


def _fit(spec: TensorSpec, array: NDArray[Any], sizes: dict[str, int]) -> None:
    hint = f"expected {spec}"
    if array.dtype.name != spec.dtype:
        raise UsageError(f"input {spec.name}", f"dtype is {array.dtype.name}", hint, "DTYPE_MISMATCH")
    fits = len(array.shape) == len(spec.shape)
    for dim, size in zip(spec.shape, array.shape, strict=False):
        fits = fits and size == (dim if isinstance(dim, int) else sizes.setdefault(dim, size))
    if not fits:
        raise UsageError(f"input {spec.name}", f"shape is {list(array.shape)}", hint, "SHAPE_MISMATCH")


_HINT = "write NAME:DTYPE[dims], for example image:float32[N,3,224,224]; N=1..64 says how far a dim goes"


def parse_input(text: str) -> TensorSpec:
    """`image:float32[N=1..64,3,224,224]` as a TensorSpec; a name in the brackets is a symbolic dim.

    Raises:
        UsageError: the text has another form, the dtype is unknown, or a dim is not positive.
    """
    match = _INPUT.match(text.replace(" ", ""))
    if match is None:
        raise _bad(text, "this is not an input description")
    if match["dtype"] not in DTYPES:
        raise _bad(text, f"unknown dtype {match['dtype']}", f"one of {', '.join(DTYPES)}")
    dims = (_parse_dim(dim, text) for dim in _split(match["dims"]))
    return TensorSpec(match["name"], match["dtype"], tuple(d.name if isinstance(d, Dim) else d for d in dims))


def parse_dims(texts: Iterable[str]) -> tuple[Dim, ...]:
    """The symbolic dims of input descriptions in order of first appearance, with the range that one of them states.

    Raises:
        UsageError: BAD_INPUT, a text has another form, or two state different ranges of one dim.
    """
    found: dict[str, Dim] = {}
    for text in texts:
        match = _INPUT.match(text.replace(" ", ""))
        for dim in (_parse_dim(part, text) for part in _split(match["dims"] if match else "")):
            if isinstance(dim, int):
                continue
            known = found.get(dim.name, dim)
            if known.stated and dim.stated and known != dim:
                raise _bad(text, f"{dim.name} has another range elsewhere", "state the range of a dim once")
            found[dim.name] = dim if dim.stated else known
    return tuple(found.values())


def _split(dims: str) -> list[str]:
    return dims.split(",") if dims else []


def _parse_dim(dim: str, text: str) -> int | Dim:
    if dim.isdecimal() and int(dim) >= 1:
        return int(dim)
    match = _RANGE.match(dim)
    if match is None:
        raise _bad(text, f"{dim or 'an empty text'} is no dim")
    if match["min"] is None:
        return Dim(match["name"])
    low, high, step = int(match["min"]), int(match["max"]), int(match["step"] or 1)
    if not 1 <= low < high or step < 1:
        raise _bad(text, f"{dim} is no range", "for example N=1..64, or H=32..512/32 for multiples of 32")
    if low % step or high % step:
        raise _bad(text, f"{low} and {high} are not both multiples of {step}", f"both ends of {match['name']} count")
    return Dim(match["name"], low, high, step)


def _bad(text: str, message: str, hint: str = _HINT) -> UsageError:
    return UsageError(f"--input {text}", message, hint, "BAD_INPUT")


def spec_of(name: str, array: np.ndarray[Any, Any], dims: Mapping[int, str]) -> TensorSpec:
    """The TensorSpec of `array`, with the axes in `dims` symbolic."""
    shape = tuple(dims.get(axis, int(size)) for axis, size in enumerate(array.shape))
    return TensorSpec(name, array.dtype.name, shape)
