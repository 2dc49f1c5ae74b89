"""Arrays to messages and back, exactly; and messages that claim what is not so."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deploykit import wire
from deploykit.errors import UsageError, WorkError
from deploykit.signature import Dim, Signature, TensorSpec
from deploykit.wire_tensors import DATATYPES, DTYPES, from_numbers

FLOATS = ("float16", "float32", "float64")


def arrays(finite: bool):
    def of(dtype: str):
        allowed = {"allow_nan": not finite, "allow_infinity": not finite} if dtype in FLOATS else {}
        shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
        return hnp.arrays(dtype, shapes, elements=hnp.from_dtype(np.dtype(dtype), **allowed))

    return st.sampled_from(list(DATATYPES)).flatmap(of)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@settings(max_examples=300, deadline=None)
@given(arrays(finite=True))
def test_json_carries_every_finite_value_exactly(array):
    message = wire.request({"x": array}, binary=False)
    assert message.headers == {"Content-Type": "application/json"}
    assert same(wire.parse_request(message.headers, message.body).feeds["x"], array)
    back = wire.response({"x": array}, "m", "1", binary=False)
    assert same(wire.parse_response(back.headers, back.body)["x"], array)


@settings(max_examples=300, deadline=None)
@given(st.lists(arrays(finite=False), min_size=1, max_size=4))
def test_bytes_carry_everything(many):
    feeds = {f"x{index}": array for index, array in enumerate(many)}
    message = wire.request(feeds, binary=True)
    found = wire.parse_request(message.headers, bytearray(message.body))
    assert found.binary_outputs is True
    assert all(same(found.feeds[name], array) for name, array in feeds.items())
    assert all(array.flags.aligned for array in found.feeds.values())
    back = wire.response(feeds, "m", "1", binary=frozenset({"x0"})) if wire.finite(feeds) else None
    if back is not None:
        assert all(same(array, feeds[name]) for name, array in wire.parse_response(back.headers, back.body).items())


@given(hnp.arrays("float32", st.integers(0, 20), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_a_reader_with_single_precision_finds_the_same_bits(array):
    """A server may read decimals straight into float32: what is written widened must round back to the same."""
    data = json.loads(wire.request({"x": array}, binary=False).body)["inputs"][0]["data"]
    assert same(np.array([np.float32(repr(value)) for value in data], np.float32), array)


@pytest.mark.parametrize("layout", ["F", "strided"])
def test_rows_come_first_whatever_lies_in_memory(layout):
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    array = np.asfortranarray(array) if layout == "F" else array[::2, ::3]
    for binary in (False, True):
        message = wire.request({"x": array}, binary=binary)
        assert np.array_equal(wire.parse_request(message.headers, message.body).feeds["x"], array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_what_json_has_no_word_for_is_refused(value, dtype):
    feeds = {"x": np.array([0, value], dtype)}
    for make in (
        lambda: wire.request(feeds, binary=False),
        lambda: wire.response(feeds, "m", "", binary=frozenset({"y"})),
    ):
        with pytest.raises(UsageError) as caught:
            make()
        assert caught.value.code == "NOT_IN_JSON"
    assert not wire.finite(feeds)
    assert wire.request(feeds, binary=True).body


def test_a_dtype_without_a_datatype():
    with pytest.raises(UsageError) as caught:
        wire.request({"x": np.zeros(2, np.complex64)}, binary=True)
    assert caught.value.code == "NO_DATATYPE"


def test_every_datatype_is_there_and_back():
    assert {DTYPES[datatype] for datatype in DATATYPES.values()} == set(DATATYPES)


def test_what_is_asked_for():
    message = wire.request({"x": np.zeros(1)}, outputs=("a", "b"), binary=False, id="7")
    found = wire.parse_request(message.headers, message.body)
    assert (found.outputs, found.binary_outputs, found.id) == (("a", "b"), frozenset(), "7")
    message = wire.request({"x": np.zeros(1)}, outputs=("a",), binary=True)
    assert wire.parse_request(message.headers, message.body).binary_outputs == frozenset({"a"})
    head = {"inputs": [], "outputs": [{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}]}
    head["parameters"] = {"binary_data_output": True}
    assert wire.parse_request({}, json.dumps(head).encode()).binary_outputs == frozenset({"b"})


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]], [[1.0, 2, 3], [4, 5, 6.0]]])
def test_data_is_flat_or_nested(data):
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 3], "data": data}]}
    found = wire.parse_request({}, json.dumps(body).encode()).feeds["x"]
    assert np.array_equal(found, np.arange(1, 7, dtype=np.float32).reshape(2, 3))


def entry(**changes) -> bytes:
    made = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2], **changes}
    return json.dumps({"inputs": [{key: value for key, value in made.items() if value is not ...}]}).encode()


def sized(size: object, rest: int | bytes, shape: object = (2,), **more) -> tuple[dict[str, str], bytes]:
    head = entry(shape=list(shape), data=..., parameters={"binary_data_size": size}, **more)
    return {"inference-header-content-length": str(len(head))}, head + bytes(rest)


WRONG = {
    "no JSON": ({}, b"{"),
    "empty": ({}, b""),
    "no object": ({}, b"[]"),
    "no inputs": ({}, b"{}"),
    "inputs that are no list": ({}, b'{"inputs": {}}'),
    "an input that is no object": ({}, b'{"inputs": [1]}'),
    "a key twice": ({}, b'{"inputs": [], "inputs": []}'),
    "no UTF-8": ({}, b'{"id": "\xff"}'),
    "nested": ({}, b'{"inputs": ' + b"[" * 100_000),
    "an id that is no text": ({}, b'{"inputs": [], "id": 5}'),
    "no name": ({}, entry(name=...)),
    "an empty name": ({}, entry(name="")),
    "no datatype": ({}, entry(datatype=...)),
    "BYTES": ({}, entry(datatype="BYTES")),
    "no shape": ({}, entry(shape=...)),
    "a shape that is none": ({}, entry(shape=2)),
    "a negative dim": ({}, entry(shape=[-2])),
    "a dim that is true": ({}, entry(shape=[True, 2])),
    "a dim that is a fraction": ({}, entry(shape=[2.0])),
    "a text for a dim": ({}, entry(shape=["2"])),
    "too many dims": ({}, entry(shape=[1] * 33, data=[1])),
    "dims that overflow": ({}, entry(shape=[2**40, 2**40], data=[])),
    "dims that overflow beside a 0": ({}, entry(shape=[0, 2**40, 2**40], data=[])),
    "no data": ({}, entry(data=...)),
    "data that is no list": ({}, entry(data=1)),
    "too few values": ({}, entry(data=[1])),
    "too many values": ({}, entry(data=[1, 2, 3])),
    "nested otherwise": ({}, entry(data=[[1], [2]])),
    "half nested": ({}, entry(shape=[2, 1], data=[[1], 2])),
    "null": ({}, entry(data=[1, None])),
    "a text": ({}, entry(data=["1", "2"])),
    "a boolean": ({}, entry(data=[True, False])),
    "NaN": ({}, entry(data=[1, float("nan")])),
    "Infinity": ({}, entry(data=[1, float("inf")])),
    "too large for FP32": ({}, entry(data=[1e39, 0])),
    "too large for FP16": ({}, entry(datatype="FP16", data=[70_000, 0])),
    "too large for FP64": ({}, entry(datatype="FP64", data=[10**400, 0])),
    "a fraction": ({}, entry(datatype="INT32", data=[1.0, 2])),
    "too large for INT8": ({}, entry(datatype="INT8", data=[128, 0])),
    "negative": ({}, entry(datatype="UINT8", data=[-1, 0])),
    "a number for BOOL": ({}, entry(datatype="BOOL", data=[1, 0])),
    "shared memory": ({}, entry(parameters={"shared_memory_region": "r"})),
    "classification": ({}, b'{"inputs": [], "outputs": [{"name": "y", "parameters": {"classification": 3}}]}'),
    "parameters that are none": ({}, entry(parameters=[1])),
    "an output twice": ({}, b'{"inputs": [], "outputs": [{"name": "y"}, {"name": "y"}]}'),
    "a switch that is none": ({}, b'{"inputs": [], "parameters": {"binary_data_output": 1}}'),
    "data and bytes": ({}, entry(parameters={"binary_data_size": 8})),
    "a size that is not the shape's": sized(4, 8),
    "a size that is none": sized(True, 8),
    "a size that is a text": sized("8", 8),
    "fewer bytes than declared": sized(8, 7),
    "more bytes than declared": sized(8, 9),
    "bytes that are missing": sized(4 * 10**12, 4, (10**12,)),
    "a length that is none": ({"Inference-Header-Content-Length": "x"}, entry()),
    "a length beyond the body": ({"Inference-Header-Content-Length": "9999"}, entry()),
    "a negative length": ({"Inference-Header-Content-Length": "-1"}, entry()),
    "a byte of a BOOL that is 2": sized(1, b"\2", (1,), datatype="BOOL"),
}


REQUESTS_ONLY = {"an id that is no text", "a switch that is none"}
"""Nobody reads that in an answer."""


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_request(name):
    headers, body = WRONG[name]
    with pytest.raises(UsageError) as caught:
        wire.parse_request(headers, body)
    assert caught.value.code == "MALFORMED_REQUEST"
    assert len(str(caught.value)) <= 400
    answer = body.replace(b'"inputs"', b'"outputs"')
    if name not in REQUESTS_ONLY and b'"outputs"' not in body:
        shift = {key: str(int(value) + 1) for key, value in headers.items() if value.isdecimal()}
        with pytest.raises(WorkError) as refused:
            wire.parse_response({**headers, **shift}, answer)
        assert refused.value.code == "BAD_ANSWER"


def test_a_name_twice():
    one = json.loads(entry())["inputs"][0]
    with pytest.raises(UsageError) as caught:
        wire.parse_request({}, json.dumps({"inputs": [one, one]}).encode())
    assert "twice" in caught.value.message


@pytest.mark.parametrize("name", ["bytes that are missing", "dims that overflow", "dims that overflow beside a 0"])
def test_nothing_is_made_of_what_is_only_claimed(name):
    headers, body = WRONG[name]
    tracemalloc.start()
    try:
        with pytest.raises(UsageError):
            wire.parse_request(headers, body)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(-5, 400))
def test_any_bytes_are_a_request_or_refused(body, length):
    for headers in ({}, {"Inference-Header-Content-Length": str(length)}):
        with suppress(UsageError):
            wire.parse_request(headers, body)


SIGNATURE = Signature(
    (TensorSpec("a", "float32", ("N", 2)), TensorSpec("b", "int64", ("N",))), dims=(Dim("N", 2, 8),)
)  # fmt: skip


def pair(rows: int = 3, other: int | None = None, columns: int = 2, dtype: str = "float32"):
    return {"a": np.zeros((rows, columns), dtype), "b": np.zeros(rows if other is None else other, np.int64)}


@pytest.mark.parametrize(
    ("feeds", "code"),
    [
        (pair(dtype="float64"), "DTYPE_MISMATCH"),
        (pair(columns=3), "SHAPE_MISMATCH"),
        (pair(rows=3, other=4), "SHAPE_MISMATCH"),
        (pair(rows=1), "SHAPE_MISMATCH"),
        (pair(rows=9), "SHAPE_MISMATCH"),
        ({"a": pair()["a"]}, "INPUT_NAMES"),
        ({**pair(), "c": np.zeros(1)}, "INPUT_NAMES"),
    ],
)
def test_what_does_not_fit_the_signature(feeds, code):
    for binary in (False, True):
        message = wire.request(feeds, binary=binary)
        with pytest.raises(UsageError) as caught:
            wire.parse_request(message.headers, message.body, SIGNATURE)
        assert caught.value.code == code


def test_what_fits_the_signature():
    for rows in (2, 8):
        message = wire.request(pair(rows), binary=True)
        assert wire.parse_request(message.headers, message.body, SIGNATURE).feeds["a"].shape == (rows, 2)


def test_parameters_that_servers_add_are_left_alone():
    body = b'{"model_name":"m","id":null,"parameters":null,"outputs":[{"name":"y","datatype":"FP32","shape":[1],'
    body += b'"parameters":null,"data":[0.5]}]}'
    assert wire.parse_response({}, body)["y"].tolist() == [0.5]


def test_numbers_stay_what_they_are():
    assert from_numbers([2**64 - 1], "uint64")[0] == 2**64 - 1
    assert from_numbers([-(2**63)], "int64")[0] == -(2**63)
    assert np.signbit(from_numbers([-0.0], "float32")[0])
