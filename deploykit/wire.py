"""Messages of the Open Inference Protocol v2: arrays to bytes and back, as JSON or with binary tensors.

A message is a JSON object, followed by raw little-endian tensors where the binary tensor extension is used; the header
`Inference-Header-Content-Length` then tells where the JSON ends. Nothing that a message claims about sizes is believed
before it was held against the bytes that are there.

Sources: the Open Inference Protocol's REST specification (github.com/kserve/open-inference-protocol) and Triton's
description of the binary tensor data extension.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from deploykit import strict_json
from deploykit.errors import UsageError, WorkError
from deploykit.signature import Dim, Feeds, Signature
from deploykit.wire_tensors import Declared, datatype_of, declared, parameters_of, raw

JSON_LENGTH = "Inference-Header-Content-Length"
"""Header that holds the length of the JSON part in bytes, where tensors follow it."""

Binary: TypeAlias = "bool | frozenset[str]"
"""Which tensors travel as bytes: all, none, or those named."""


@dataclass(frozen=True)
class Message:
    """The headers that belong to a body, and the body."""

    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Request:
    """What was asked.

    Attributes:
        feeds: arrays that may be views of the body.
        outputs: names of the outputs that are wanted; empty for all.
        binary_outputs: which outputs are wanted as bytes.
        id: given back in the answer; empty for none.
    """

    feeds: Feeds
    outputs: tuple[str, ...] = ()
    binary_outputs: Binary = False
    id: str = ""


def request(feeds: Feeds, *, outputs: Sequence[str] = (), binary: bool, id: str = "") -> Message:  # noqa: A002 - the protocol's word
    """The message that asks for an inference.

    Args:
        feeds: inputs by name; any layout in memory.
        outputs: names of the outputs that are wanted; empty for all.
        binary: inputs as bytes, and asks for the outputs as bytes.
        id: of the request.

    Raises:
        UsageError: NOT_IN_JSON, a value is not finite; NO_DATATYPE, the protocol has no such dtype.
    """
    head: dict[str, Any] = {"id": id} if id else {}
    if binary:
        head["parameters"] = {"binary_data_output": True}
    if outputs:
        extra = {"parameters": {"binary_data": True}} if binary else {}
        head["outputs"] = [{"name": name, **extra} for name in outputs]
    return _message(head, "inputs", feeds, binary=binary)


def response(outputs: Feeds, model: str, version: str, *, binary: Binary, id: str = "") -> Message:  # noqa: A002 - the protocol's word
    """The message that answers.

    Args:
        outputs: arrays by name.
        model: its name.
        version: its version, empty for none.
        binary: which outputs travel as bytes.
        id: of the request that is answered.

    Raises:
        UsageError: NOT_IN_JSON, NO_DATATYPE.
    """
    head: dict[str, Any] = {"model_name": model}
    if version:
        head["model_version"] = version
    if id:
        head["id"] = id
    return _message(head, "outputs", outputs, binary=binary)


def parse_request(headers: Mapping[str, str], body: bytes | bytearray, signature: Signature | None = None) -> Request:
    """Read a message that asks for an inference.

    Args:
        headers: of HTTP, names in any case.
        body: all of it.
        signature: what the feeds have to fit, checked before any array is made.

    Raises:
        UsageError: MALFORMED_REQUEST; INPUT_NAMES, DTYPE_MISMATCH, SHAPE_MISMATCH.
    """
    try:
        head, tensors = _parsed(headers, body, "inputs")
        name = _text(head, "id")
        wanted, binary = _wanted(head)
        if signature is not None:
            fit(signature, tensors)
        feeds = {tensor.name: tensor.array() for tensor in tensors}
    except ValueError as error:
        hint = "see the Open Inference Protocol v2"
        raise UsageError("request", str(error), hint, "MALFORMED_REQUEST") from error
    return Request(feeds, wanted, binary, name)


def parse_response(headers: Mapping[str, str], body: bytes | bytearray) -> Feeds:
    """Read a message that answers an inference.

    Raises:
        WorkError: BAD_ANSWER, it is no such message.
    """
    try:
        _, tensors = _parsed(headers, body, "outputs")
        return {tensor.name: tensor.array() for tensor in tensors}
    except ValueError as error:
        raise WorkError("answer", str(error), "see what the server logs", "BAD_ANSWER") from error


def fit(signature: Signature, tensors: Sequence[Declared]) -> None:
    """Hold tensors against names, dtypes, shapes and the ranges of symbolic dims.

    Raises:
        UsageError: INPUT_NAMES, DTYPE_MISMATCH, SHAPE_MISMATCH.
    """
    # one element that claims to be many: the signature looks at dtype and shape only
    hollow = {one.name: np.broadcast_to(np.empty((), one.dtype), one.shape) for one in tensors}
    sizes = signature.sizes_of(hollow)
    ranges = {dim.name: dim for dim in signature.dims}
    for name, size in sizes.items():
        dim = ranges.get(name, Dim(name))
        if size not in dim:
            hint = f"{name} goes from {dim}"
            raise UsageError(f"dim {name}", f"its size is {size}", hint, "SHAPE_MISMATCH")


def finite(feeds: Feeds) -> bool:
    """Whether all values can be written as JSON."""
    return all(array.dtype.kind != "f" or bool(np.isfinite(array).all()) for array in feeds.values())


def _message(head: dict[str, Any], key: str, tensors: Feeds, *, binary: Binary) -> Message:
    parts, entries = [], []
    for name, array in tensors.items():
        entry: dict[str, Any] = {"name": name, "datatype": datatype_of(name, array), "shape": list(array.shape)}
        if binary is True or (binary and name in binary):
            parts.append(raw(array))
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        elif not finite({name: array}):
            hint = "ask for binary tensors"
            raise UsageError(name, "JSON has no NaN and no infinity", hint, "NOT_IN_JSON")
        else:
            entry["data"] = array.ravel().tolist()  # float32 widens to float64 exactly, and so comes back
        entries.append(entry)
    text = json.dumps({**head, key: entries}, allow_nan=False, separators=(",", ":")).encode()
    if not parts:
        return Message({"Content-Type": "application/json"}, text)
    headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(text))}
    return Message(headers, b"".join([text, *parts]))


def _parsed(headers: Mapping[str, str], body: bytes | bytearray, key: str) -> tuple[dict[str, Any], list[Declared]]:
    """The JSON object, and its tensors with the sizes checked.

    Raises:
        ValueError: it is no such message.
    """
    whole = memoryview(body)
    length = _json_length(headers, len(whole))
    try:
        head = strict_json.parse(bytes(whole[:length]))
    except UnicodeDecodeError as error:
        raise ValueError("the JSON is not UTF-8") from error
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"no valid JSON: {error}") from error
    if not isinstance(head, dict):
        raise ValueError("the JSON is no object")  # noqa: TRY004 - one kind of fault
    rest = whole[length:]
    tensors = []
    for entry in _entries(head, key):
        tensor, taken = declared(entry, key[:-1], rest)
        tensors.append(tensor)
        rest = rest[taken:]
    if len(rest):
        raise ValueError(f"{len(rest)} bytes follow the last tensor")
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ValueError(f"a name is there twice among the {key}")
    return head, tensors


def _json_length(headers: Mapping[str, str], total: int) -> int:
    given = [value for name, value in headers.items() if name.lower() == JSON_LENGTH.lower()]
    if not given:
        return total
    text = given[0].strip()
    if len(given) > 1 or not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= total):
        raise ValueError(f"{JSON_LENGTH} is no length within the body's {total} bytes")
    return int(text)


def _entries(head: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = head.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{key} is no list of objects")
    return entries


def _text(head: dict[str, Any], key: str) -> str:
    text = head.get(key, "")
    if not isinstance(text, str):
        raise ValueError(f"{key} is no text")  # noqa: TRY004 - one kind of fault
    return text


def _wanted(head: dict[str, Any]) -> tuple[tuple[str, ...], Binary]:
    """The outputs that a request names, and which are wanted as bytes."""
    by_default = _switch(parameters_of(head, "the request"), "binary_data_output", default=False)
    if "outputs" not in head:
        return (), by_default
    names, binary = [], set()
    for entry in _entries(head, "outputs"):
        name = entry.get("name")
        if not isinstance(name, str) or not name or name in names:
            raise ValueError("an output has no name of its own")
        names.append(name)
        if _switch(parameters_of(entry, f"output {name}"), "binary_data", default=by_default):
            binary.add(name)
    return tuple(names), frozenset(binary) if names else by_default


def _switch(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{name} is neither true nor false")  # noqa: TRY004 - one kind of fault
    return value
