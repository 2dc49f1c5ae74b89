"""What goes into a model and what comes out: names, dtypes, shapes with symbolic dims."""

from __future__ import annotations

import re
from collections.abc import Mapping
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


@dataclass(frozen=True)
class Dim:
    """A symbolic dim and the inclusive range in which the model promises to work."""

    name: str
    min: int = 1
    max: int = MAX_DIM


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


def parse_input(text: str) -> TensorSpec:
    """`image:float32[N,3,224,224]` as a TensorSpec; a name in the brackets is a symbolic dim.

    Raises:
        UsageError: the text has another form, the dtype is unknown, or a dim is not positive.
    """
    hint = "write NAME:DTYPE[dims], for example image:float32[N,3,224,224]"
    match = _INPUT.match(text.replace(" ", ""))
    if match is None:
        raise UsageError(f"--input {text}", "this is not an input description", hint, "BAD_INPUT")
    if match["dtype"] not in DTYPES:
        raise UsageError(
            f"--input {text}", f"unknown dtype {match['dtype']}", f"one of {', '.join(DTYPES)}", "BAD_INPUT"
        )
    return TensorSpec(match["name"], match["dtype"], tuple(_parse_dim(d, text, hint) for d in _split(match["dims"])))


def _split(dims: str) -> list[str]:
    return dims.split(",") if dims else []


def _parse_dim(dim: str, text: str, hint: str) -> int | str:
    if dim.isidentifier():
        return dim
    if not dim.isdecimal() or int(dim) < 1:
        raise UsageError(f"--input {text}", f"{dim or 'an empty text'} is no dim", hint, "BAD_INPUT")
    return int(dim)


def spec_of(name: str, array: np.ndarray[Any, Any], dims: Mapping[int, str]) -> TensorSpec:
    """The TensorSpec of `array`, with the axes in `dims` symbolic."""
    shape = tuple(dims.get(axis, int(size)) for axis, size in enumerate(array.shape))
    return TensorSpec(name, array.dtype.name, shape)
