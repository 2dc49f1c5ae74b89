"""Messages of the Open Inference Protocol v2 over HTTP: JSON, and the binary tensor extension.

Copied into the folder as `oip.py`. What a message claims about sizes is held against the bytes that are there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from onnx_model import DATATYPES, NUMPY, Sent, UnfitError

JSON_LENGTH = "Inference-Header-Content-Length"
"""Header with the length of the JSON part in bytes, where tensors follow it."""

MAX_RANK = 32
"""More dims than any tensor has."""


@dataclass(frozen=True)
class Asked:
    """A request for an inference.

    Attributes:
        sent: the tensors.
        wanted: names of outputs; empty for all.
        binary: names of outputs that are wanted as bytes, apart from `all_binary`.
        all_binary: whether outputs that are not named go as bytes.
        id: goes back in the answer.
    """

    sent: tuple[Sent, ...]
    wanted: tuple[str, ...] = ()
    binary: frozenset[str] = frozenset()
    all_binary: bool = False
    id: str = ""


def read(body: bytes, json_length: str | None) -> Asked:
    """The request in `body`.

    Args:
        body: all of it.
        json_length: the header of that name; None where there is none.

    Raises:
        UnfitError: it is no such request.
    """
    length = _length(json_length, len(body))
    try:
        head = json.loads(body[:length].decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UnfitError(f"no valid JSON: {error}") from error
    if not isinstance(head, dict):
        raise UnfitError("the JSON is no object")
    sent, place = [], length
    for entry in _objects(head, "inputs"):
        tensor, taken = _tensor(entry, body, place)
        sent.append(tensor)
        place += taken
    if place != len(body):
        raise UnfitError(f"{len(body) - place} bytes follow the last tensor")
    return _wanted(head, tuple(sent))


def written(outputs: Mapping[str, np.ndarray], model: str, version: str, asked: Asked) -> tuple[bytes, dict[str, str]]:
    """The answer's body and headers.

    Raises:
        UnfitError: a value cannot be written as JSON, which was asked for.
    """
    entries, tail = [], []
    for name, array in outputs.items():
        entry: dict[str, Any] = {"name": name, "datatype": DATATYPES[array.dtype.name], "shape": list(array.shape)}
        if name in asked.binary or (asked.all_binary and name not in asked.wanted):
            tail.append(np.asarray(array, array.dtype.newbyteorder("<"), order="C").tobytes())
            entry["parameters"] = {"binary_data_size": len(tail[-1])}
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UnfitError(f"output {name} holds a value that JSON has no word for: ask for it as binary data")
        else:
            entry["data"] = array.ravel().tolist()
        entries.append(entry)
    head: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": entries}
    if asked.id:
        head["id"] = asked.id
    text = json.dumps(head, allow_nan=False, separators=(",", ":")).encode()
    if not tail:
        return text, {"Content-Type": "application/json"}
    return b"".join([text, *tail]), {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(text))}


def _length(text: str | None, total: int) -> int:
    if text is None:
        return total
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= total):
        raise UnfitError(f"{JSON_LENGTH} is no length within the body's {total} bytes")
    return int(text)


def _tensor(entry: dict[str, Any], body: bytes, place: int) -> tuple[Sent, int]:
    """One tensor, and how many of the bytes from `place` on are its own."""
    name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
    if not isinstance(name, str) or not name:
        raise UnfitError("an input has no name")
    if not isinstance(datatype, str) or datatype not in NUMPY:
        raise UnfitError(f"input {name[:80]}: its datatype is none of {', '.join(NUMPY)}")
    # a bool is an int to Python, and a dim of true is no dim
    if not isinstance(shape, list) or len(shape) > MAX_RANK or any(type(dim) is not int or dim < 0 for dim in shape):
        raise UnfitError(f"input {name[:80]}: its shape is no list of at most {MAX_RANK} numbers from 0 on")
    size = _parameters(entry).get("binary_data_size")
    if size is None:
        data = entry.get("data")
        if not isinstance(data, list):
            raise UnfitError(f"input {name[:80]}: its data is no list")
        return Sent(name, datatype, tuple(shape), data), 0
    needed = prod(shape) * np.dtype(NUMPY[datatype]).itemsize
    if type(size) is not int or size != needed or "data" in entry:
        raise UnfitError(f"input {name[:80]}: binary_data_size has to be {needed}, and data has to be left out")
    if size > len(body) - place:
        raise UnfitError(f"input {name[:80]}: {size} bytes are declared, {len(body) - place} are left in the body")
    raw = body[place : place + size]
    if datatype == "BOOL" and raw.strip(b"\0\1"):
        raise UnfitError(f"input {name[:80]}: a byte of a BOOL is neither 0 nor 1")
    return Sent(name, datatype, tuple(shape), raw), size


def _wanted(head: dict[str, Any], sent: tuple[Sent, ...]) -> Asked:
    identity = head.get("id", "")
    if not isinstance(identity, str):
        raise UnfitError("id is no text")
    every = _switch(_parameters(head), "binary_data_output", default=False)
    names, binary = [], set()
    for entry in _objects(head, "outputs") if "outputs" in head else ():
        name = entry.get("name")
        if not isinstance(name, str) or name in names:
            raise UnfitError("an output has no name of its own")
        names.append(name)
        if _switch(_parameters(entry), "binary_data", default=every):
            binary.add(name)
    return Asked(sent, tuple(names), frozenset(binary), every, identity)


def _objects(head: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = head.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UnfitError(f"{key} is no list of objects")
    return entries


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    parameters = entry.get("parameters") or {}  # some clients write null
    if not isinstance(parameters, dict):
        raise UnfitError("parameters are no object")
    if refused := {"shared_memory_region", "classification"} & set(parameters):
        raise UnfitError(f"{min(refused)} is not supported")
    return parameters


def _switch(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise UnfitError(f"{name} is neither true nor false")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")
