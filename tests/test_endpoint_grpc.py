"""The gRPC client against a real gRPC server; the bytes were made by the messages of tritonclient 2.73."""

from __future__ import annotations

from concurrent import futures
from contextlib import contextmanager

import numpy as np
import pytest

from deploykit import endpoint_grpc
from deploykit.endpoint import connect
from deploykit.errors import UsageError, WorkError
from deploykit.oip_messages import message
from deploykit.signature import TensorSpec

grpc = pytest.importorskip("grpc", reason="grpcio is not installed")

ASKED = "0a016d1201372a0d0a01781204465033321a0202013a080000c03f0000c07f"
TYPED = (
    "0a016d1201371a016922080a016b12031a01762a1b0a01621204424f4f4c1a010222070a0170120210032a040a0201002a240a01691204494e"
    "54381a010222070a0170120210032a0d120bfbffffffffffffffff01062a250a016c1205494e5436341a010222070a0170120210032a0d1a0b"
    "8080808080808080f001032a1f0a0175120655494e5431361a010222070a0170120210032a062204ffff03002a260a0177120655494e543634"
    "1a010222070a0170120210032a0d2a0bffffffffffffffffff01012a210a01661204465033321a010222070a0170120210032a0a3208cdcccc"
    "3d0000807f2a290a01641204465036341a010222070a0170120210032a123a109a9999999999b93f0000000000000080"
)
RAW = "0a016d2a0d0a01681204465031361a0201022a0a0a01791205494e5433323204003c00403204f9ffffff"
META = (
    "0a016d1201311201321a106f6e6e7872756e74696d655f6f6e6e7822160a01781204465033321a0bffffffffffffffffff01042a0a0a017912"
    "05494e543634"
)
SERVER = "0a06747269746f6e1204322e37331a01611a0162"


@contextmanager
def serving(answers: dict[str, object], **options):
    """A server that answers a method with bytes, or fails with `(status, words)`; gives an endpoint, and what came."""
    seen: list[tuple[str, bytes, dict[str, str]]] = []

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            name = details.method.rpartition("/")[2]

            def act(body, context):
                seen.append((details.method, body, dict(context.invocation_metadata())))
                given = answers[name]
                if isinstance(given, tuple):
                    context.abort(getattr(grpc.StatusCode, given[0]), given[1])
                return bytes.fromhex(given)

            return grpc.unary_unary_rpc_method_handler(act) if name in answers else None

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    endpoint = connect(f"grpc://127.0.0.1:{port}", "m", **{"timeout_s": 10.0, **options})
    try:
        yield endpoint, seen
    finally:
        endpoint.close()
        server.stop(0).wait()


def test_the_request_is_what_tritons_messages_write():
    with serving({"ModelInfer": RAW}, version="7", headers={"Authorization": "Bearer t"}) as (endpoint, seen):
        endpoint.infer({"x": np.array([[1.5], [np.nan]], np.float32)})
    method, body, metadata = seen[0]
    assert method == "/inference.GRPCInferenceService/ModelInfer"
    assert body.hex() == ASKED
    assert metadata["authorization"] == "Bearer t"


def test_raw_outputs():
    with serving({"ModelInfer": RAW}) as (endpoint, _):
        found = endpoint.infer({})
    assert list(found) == ["h", "y"]
    assert (found["h"].dtype, found["h"].tolist()) == (np.float16, [[1.0, 2.0]])
    assert (found["y"].dtype, found["y"].shape, int(found["y"])) == (np.int32, (), -7)


def test_typed_outputs():
    with serving({"ModelInfer": TYPED}) as (endpoint, _):
        found = endpoint.infer({})
    expected = {
        "b": np.array([True, False]),
        "i": np.array([-5, 6], np.int8),
        "l": np.array([-(2**60), 3]),
        "u": np.array([65535, 0], np.uint16),
        "w": np.array([2**64 - 1, 1], np.uint64),
        "f": np.array([0.1, np.inf], np.float32),
        "d": np.array([0.1, -0.0]),
    }
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].tobytes()) == (array.dtype, array.tobytes())


def test_what_it_tells():
    with serving({"ServerMetadata": SERVER, "ModelMetadata": META, "ModelReady": "0801"}) as (endpoint, seen):
        facts, model = endpoint.server(), endpoint.model_facts()
        assert endpoint.ready(0)
    assert (facts.name, facts.version, facts.extensions) == ("triton", "2.73", ("a", "b"))
    assert (model.versions, model.platform) == (("1", "2"), "onnxruntime_onnx")
    assert model.inputs == (TensorSpec("x", "float32", ("x.0", 4)),)
    assert model.outputs == (TensorSpec("y", "int64", ()),)
    assert message("ModelMetadataRequest").FromString(seen[1][1]).name == "m"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("INVALID_ARGUMENT", "REQUEST_REFUSED"),
        ("NOT_FOUND", "REQUEST_REFUSED"),
        ("UNAUTHENTICATED", "REQUEST_REFUSED"),
        ("INTERNAL", "SERVER_ERROR"),
        ("UNKNOWN", "SERVER_ERROR"),
        ("UNAVAILABLE", "SERVER_UNREACHABLE"),
        ("DEADLINE_EXCEEDED", "TIME_LIMIT"),
    ],
)
def test_statuses(status, code):
    with serving({"ModelInfer": (status, "why \x1b not")}) as (endpoint, _):
        with pytest.raises(WorkError) as caught:
            endpoint.infer({})
        assert caught.value.code == code
        assert str(caught.value).isprintable()
        if code == "REQUEST_REFUSED":
            assert 400 <= endpoint.raw(b"", {}).status < 500
        assert not endpoint.ready(0)


def output(datatype: str, shape: list[int], raw: list[bytes] | None = None, **contents) -> str:
    made = message("ModelInferResponse")()
    one = made.outputs.add(name="y", datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(one.contents, field).extend(values)
    made.raw_output_contents.extend(raw or [])
    return made.SerializeToString().hex()


@pytest.mark.parametrize(
    "body",
    [
        "ff",
        output("FP32", [2], [bytes(7)]),
        output("FP32", [2], [bytes(8), bytes(8)]),
        output("FP32", [2**62], [bytes(8)]),
        output("FP32", [-1], [bytes(4)]),
        output("BYTES", [1], [b"x"]),
        output("BOOL", [1], [b"\2"]),
        output("FP32", [2], fp32_contents=[1]),
        output("FP16", [2]),
        output("INT8", [1], int_contents=[300]),
    ],
)
def test_answers_that_are_none(body):
    with serving({"ModelInfer": body}) as (endpoint, _), pytest.raises(WorkError) as caught:
        endpoint.infer({})
    assert caught.value.code == "BAD_ANSWER"


def test_an_answer_that_is_too_long():
    with serving({"ModelInfer": output("UINT8", [1 << 20], [bytes(1 << 20)])}, max_answer=1 << 16) as (endpoint, _):
        with pytest.raises(WorkError) as caught:
            endpoint.infer({})
        assert caught.value.code == "BAD_ANSWER"


def test_nobody_is_there():
    endpoint = connect("grpc://127.0.0.1:1", "m", timeout_s=5.0)
    with pytest.raises(WorkError) as caught:
        endpoint.infer({})
    assert caught.value.code == "SERVER_UNREACHABLE"
    endpoint.close()


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(endpoint_grpc, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        connect("grpc://127.0.0.1:8001", "m")
    assert caught.value.code == "PACKAGE_MISSING"


def test_a_path_is_no_part_of_it():
    with pytest.raises(UsageError) as caught:
        connect("grpc://127.0.0.1:8001/route", "m")
    assert caught.value.code == "BAD_URL"
