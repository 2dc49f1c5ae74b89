"""Tensors as messages of the Open Inference Protocol declare them, proven to be there before an array is made."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import numpy as np

from deploykit.errors import UsageError

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
"""numpy's dtype names to the protocol's; BYTES are no arrays of ours, BF16 is no dtype of numpy."""

DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}
"""The protocol's names to numpy's."""

MAX_RANK = 32
"""More dims than any tensor has; numpy stops at 64."""


@dataclass(frozen=True)
class Declared:
    """A tensor that a message holds, proven to be there in full: `data` is a flat list of numbers, or its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: list[Any] | memoryview

    def array(self) -> np.ndarray[Any, Any]:
        """The array; where bytes allow it, a view of them.

        Raises:
            ValueError: a value is not of the dtype.
        """
        if isinstance(self.data, memoryview):
            return from_bytes(self.data, self.dtype).reshape(self.shape)
        return from_numbers(self.data, self.dtype).reshape(self.shape)


def datatype_of(name: str, array: np.ndarray[Any, Any]) -> str:
    """The protocol's word for the dtype of `array`.

    Raises:
        UsageError: NO_DATATYPE.
    """
    if array.dtype.name not in DATATYPES:
        hint = f"one of {', '.join(DATATYPES)}"
        raise UsageError(name, f"the protocol has no datatype for {array.dtype.name}", hint, "NO_DATATYPE")
    return DATATYPES[array.dtype.name]


def raw(array: np.ndarray[Any, Any]) -> bytes:
    """The bytes of `array`, little-endian, rows first."""
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C").tobytes()


def declared(entry: dict[str, Any], what: str, rest: memoryview) -> tuple[Declared, int]:
    """One tensor, and how many bytes after the JSON are its own.

    Args:
        entry: what the JSON says of it.
        what: `input` or `output`.
        rest: the bytes after the JSON that no tensor before it took.

    Raises:
        ValueError: it is malformed, or says another size than its shape needs or the body has.
    """
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"an {what} has no name")
    datatype = entry.get("datatype")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        known = ", ".join(DTYPES)
        raise ValueError(f"{what} {name}: its datatype is none of {known}")
    shape = _shape(entry.get("shape"), f"{what} {name}")
    dtype, count = DTYPES[datatype], prod(shape)
    parameters = parameters_of(entry, f"{what} {name}")
    if "binary_data_size" not in parameters:
        return Declared(name, dtype, shape, _flat(entry.get("data"), shape, f"{what} {name}")), 0
    size, needed = parameters["binary_data_size"], count * np.dtype(dtype).itemsize
    if "data" in entry:
        raise ValueError(f"{what} {name}: it has both data and binary_data_size")
    if type(size) is not int or size != needed:
        raise ValueError(f"{what} {name}: binary_data_size does not say {needed}, which its shape needs")
    if size > len(rest):
        raise ValueError(f"{what} {name}: {size} bytes are declared, {len(rest)} are left in the body")
    return Declared(name, dtype, shape, rest[:size]), size


def _shape(shape: object, where: str) -> tuple[int, ...]:
    """A shape with as few elements as can be counted in 63 bits."""
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise ValueError(f"{where}: its shape is no list of at most {MAX_RANK} dims")
    # a bool is an int to Python, and a dim of true is no dim
    if any(type(dim) is not int or dim < 0 for dim in shape):
        raise ValueError(f"{where}: a dim of its shape is no number from 0 on")
    if prod(dim or 1 for dim in shape) >= 2**63 // 16:
        raise ValueError(f"{where}: its shape has more elements than can be counted")
    return tuple(shape)


def parameters_of(entry: dict[str, Any], where: str) -> dict[str, Any]:
    """The parameters of a tensor or a request.

    Raises:
        ValueError: they are no object, or ask for what is not offered.
    """
    parameters = entry.get("parameters") or {}  # some servers write null
    if not isinstance(parameters, dict):
        raise ValueError(f"{where}: its parameters are no object")  # noqa: TRY004 - one kind of fault
    if refused := {"shared_memory_region", "classification"} & set(parameters):
        raise ValueError(f"{where}: {min(refused)} is not supported")
    return parameters


def _flat(data: object, shape: tuple[int, ...], where: str) -> list[Any]:
    """`data`, which may be flat or nested as the shape says, as a flat list of the right length."""
    if not isinstance(data, list):
        raise ValueError(f"{where}: its data is no list")  # noqa: TRY004 - one kind of fault
    level = _unnested(data, shape, where) if data and isinstance(data[0], list) else data
    if len(level) != prod(shape):
        raise ValueError(f"{where}: {len(level)} values for the shape {list(shape)}")
    return level


def _unnested(data: list[Any], shape: tuple[int, ...], where: str) -> list[Any]:
    level: list[Any] = [data]
    for dim in shape:
        if any(type(row) is not list or len(row) != dim for row in level):
            raise ValueError(f"{where}: its data is not nested as the shape {list(shape)} says")
        level = list(chain.from_iterable(level))
    return level


def from_bytes(data: bytes | bytearray | memoryview, dtype: str) -> np.ndarray[Any, Any]:
    """Little-endian bytes as a flat array; a view of them where they lie as the machine wants them.

    Raises:
        ValueError: a byte of a bool is neither 0 nor 1.
    """
    array: np.ndarray[Any, Any] = np.frombuffer(data, dtype)
    if sys.byteorder == "big":
        array = array.byteswap()
    if dtype == "bool" and array.size and array.view(np.uint8).max() > 1:
        raise ValueError("a byte of a BOOL is neither 0 nor 1")
    # engines read memory as it is: an odd address would be theirs to stumble over
    return np.require(array, requirements=["ALIGNED"])


def from_numbers(data: list[Any], dtype: str) -> np.ndarray[Any, Any]:
    """Numbers of a JSON text, or of a typed message, as a flat array.

    Raises:
        ValueError: a value is not of the dtype or does not fit into it.
    """
    kind = np.dtype(dtype).kind
    # by exact type: a bool is an int to Python
    allowed: set[type] = {bool} if kind == "b" else {int, float} if kind == "f" else {int}
    if wrong := set(map(type, data)) - allowed:
        words = {type(None): "null", dict: "an object", list: "a list", str: "a text", bool: "a boolean"}
        what = min(words.get(one, "a fraction" if one is float else "a number") for one in wrong)
        raise ValueError(f"{what} among values of {DATATYPES[dtype]}")
    try:
        with np.errstate(over="ignore"):  # looked for below
            array = np.array(data, dtype)
    except OverflowError as error:
        raise ValueError(f"a value does not fit into {DATATYPES[dtype]}") from error
    if kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"a value is not finite, or does not fit into {DATATYPES[dtype]}")
    return array
