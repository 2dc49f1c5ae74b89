"""The embedded server over real sockets: every status it gives, and that it goes on afterwards."""

from __future__ import annotations

import json
import re
import socket
import threading
import time

import numpy as np
import pytest

from deploykit import wire
from deploykit.endpoint import connect
from deploykit.errors import UsageError, WorkError
from deploykit.signature import TensorSpec
from tests.fixtures.served import WEIGHT, answer, feeds, request

INFER = "/v2/models/served/infer"


def asked(binary: bool = False, **changes) -> bytes:
    message = wire.request({**feeds(), **changes}, binary=binary)
    return request("POST", INFER, message.body, **{name.replace("-", "_"): v for name, v in message.headers.items()})


def json_body(**changes) -> dict:
    return json.loads(wire.request({**feeds(), **changes}, binary=False).body)


@pytest.fixture
def reach(server):
    """`reach(model="served", ...)`: endpoints that are closed at the end."""
    made = []

    def one(model: str = "served", **options):
        made.append(connect(server.url, model, **options))
        return made[-1]

    yield one
    for endpoint in made:
        endpoint.close()


@pytest.fixture(autouse=True)
def _still_answers(server):
    """Whatever a test sends, the next request is answered."""
    yield
    assert server.send(asked())[0] == 200


@pytest.mark.parametrize("how", ["json", "binary", "auto"])
def test_the_answer_is_the_models_bit_for_bit(server, reach, how):
    import onnxruntime as ort

    from tests.fixtures.served import graph

    session = ort.InferenceSession(graph(), providers=["CPUExecutionProvider"])
    endpoint = reach(wire=how)
    for rows in (1, 3, 64):
        given = feeds(rows, index=rows % 5, steps=rows, seed=rows)
        expected = dict(zip(("y", "row", "count"), session.run(None, given), strict=True))
        actual = endpoint.infer(given)
        assert list(actual) == list(expected)
        for name, array in expected.items():
            assert (actual[name].dtype, actual[name].shape) == (array.dtype, array.shape)
            assert actual[name].tobytes() == array.tobytes()


def test_it_tells_of_itself_and_of_the_model(server, reach):
    endpoint = reach()
    assert endpoint.ready(0)
    with pytest.raises(WorkError) as caught:
        reach("other").ready(30)
    assert (caught.value.code, "--model-name" in caught.value.hint) == ("NOT_READY", True)
    facts = endpoint.server()
    assert (facts.name, facts.extensions) == ("deploykit", ("binary_tensor_data",))
    told = endpoint.model_facts()
    assert (told.name, told.versions, told.platform) == ("served", ("1",), "onnxruntime_onnx")
    assert told.inputs[0] == TensorSpec("x", "float32", ("x.0", 5))
    assert told.outputs[2] == TensorSpec("count", "float32", ())
    assert reach(version="1").model_facts() == told
    with pytest.raises(WorkError) as caught:
        reach(version="2").model_facts()
    assert caught.value.code == "REQUEST_REFUSED"


def test_nan_and_infinity_travel_as_bytes_and_are_refused_as_json(server, reach):
    given = feeds()
    given["x"][0, 0], given["x"][1, 1] = np.nan, np.inf
    with np.errstate(all="ignore"):
        expected = given["x"] @ WEIGHT
    endpoint = reach(wire="binary")
    actual = endpoint.infer(given)["y"]
    assert np.isnan(actual[0]).all()
    assert np.array_equal(np.isinf(actual), np.isinf(expected))
    with pytest.raises(UsageError) as caught:
        reach(wire="json").infer(given)
    assert caught.value.code == "NOT_IN_JSON"


def test_an_infinite_answer_is_none_in_json(server):
    huge = np.full((1, 5), 3e38, np.float32)
    status, _, body = server.send(asked(x=huge))
    assert status == 400
    assert json.loads(body)["code"] == "NOT_IN_JSON"
    assert server.send(asked(x=huge, binary=True))[0] == 200


WRONG = {
    "dtype": (json_body(x=feeds()["x"].astype(np.float64)), "DTYPE_MISMATCH"),
    "shape": (json_body(x=np.zeros((2, 4), np.float32)), "SHAPE_MISMATCH"),
    "rank": (json_body(x=np.zeros((2, 5, 1), np.float32)), "SHAPE_MISMATCH"),
    "too many rows": (json_body(x=np.zeros((65, 5), np.float32)), "SHAPE_MISMATCH"),
    "no rows": (json_body(x=np.zeros((0, 5), np.float32)), "SHAPE_MISMATCH"),
    "one name more": (json_body(z=np.zeros(1, np.float32)), "INPUT_NAMES"),
    "no inputs": ({"inputs": []}, "INPUT_NAMES"),
    "nothing": ({}, "MALFORMED_REQUEST"),
    "a list": ([], "MALFORMED_REQUEST"),
    "other output": ({**json_body(), "outputs": [{"name": "z"}]}, "MALFORMED_REQUEST"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_feeds_are_the_clients_fault(server, name):
    body, code = WRONG[name]
    status, _, said = server.ask("POST", INFER, json.dumps(body).encode())
    assert status == 400
    assert json.loads(said)["code"] == code
    assert json.loads(said)["error"]


def test_a_huge_shape_is_refused_before_anything_is_made_of_it(server):
    body = json_body()
    body["inputs"][0] |= {"shape": [10**12, 5], "data": [0.0]}
    status, _, said = server.ask("POST", INFER, json.dumps(body).encode())
    assert status == 400
    assert "1 values" in json.loads(said)["error"]


def test_wanted_outputs_only(server):
    body = {**json_body(), "outputs": [{"name": "row"}], "id": "seven"}
    status, _, said = server.ask("POST", INFER, json.dumps(body).encode())
    told = json.loads(said)
    assert status == 200
    assert [one["name"] for one in told["outputs"]] == ["row"]
    assert (told["id"], told["model_name"], told["model_version"]) == ("seven", "served", "1")


def test_one_output_as_bytes_and_the_others_as_json(server):
    wanted = [{"name": "y", "parameters": {"binary_data": True}}, {"name": "row"}]
    status, headers, said = server.ask("POST", INFER, json.dumps({**json_body(), "outputs": wanted}).encode())
    assert status == 200
    found = wire.parse_response(headers, said)
    assert set(found) == {"y", "row"}
    assert "data" in json.loads(said[: int(headers["inference-header-content-length"])])["outputs"][1]


def test_a_failure_of_the_engine_is_500_without_its_words(server):
    status, headers, said = server.send(asked(index=np.array([77])))
    assert status == 500
    assert headers["connection"] == "keep-alive"
    text = json.loads(said)["error"]
    assert "RUN_ERROR" in text
    assert "/" not in text
    assert "Traceback" not in text


STATUS = {
    "unknown route": (request("GET", "/"), 404),
    "unknown route below v2": (request("GET", "/v2/repository/index"), 404),
    "no control": (request("POST", "/v2/repository/models/served/unload"), 404),
    "unknown model": (request("GET", "/v2/models/other"), 404),
    "dots": (request("GET", "/v2/../../etc/passwd"), 404),
    "encoded slash": (request("GET", "/v2/models%2Fserved"), 404),
    "a trailing slash": (request("GET", "/v2/"), 200),
    "a query": (request("GET", "/v2?x=1"), 200),
    "encoded letters": (request("GET", "/v2/models/%73erved"), 200),
    "wrong method": (request("GET", INFER), 405),
    "wrong method with a body": (request("PUT", INFER, b"x"), 405),
    "delete": (request("DELETE", "/v2"), 405),
    "no HTTP": (b"hello\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\n", 400),
    "HTTP/3": (b"GET /v2 HTTP/3.0\r\nHost: localhost\r\n\r\n", 505),
    "absolute": (b"GET http://localhost/v2 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "no host": (b"GET /v2 HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
    "folded": (b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n more\r\n\r\n", 400),
    "a space before the colon": (b"GET /v2 HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
    "HTTP/1.0": (b"GET /v2 HTTP/1.0\r\n\r\n", 200),
    "other host": (request("GET", "/v2", Host="evil.example:8000"), 421),
    "other port": (request("GET", "/v2", Host="localhost:9999"), 200),
    "IPv6 name": (request("GET", "/v2", Host="[::1]:8000"), 200),
    "other origin": (request("GET", "/v2", Origin="https://evil.example"), 403),
    "null origin": (request("GET", "/v2", Origin="null"), 403),
    "own origin": (request("GET", "/v2", Host="127.0.0.1:8000", Origin="http://127.0.0.1:8000"), 200),
    "own origin by the default port": (request("GET", "/v2", Host="localhost", Origin="http://localhost:80"), 200),
    "origin of another port": (request("GET", "/v2", Host="127.0.0.1:8000", Origin="http://127.0.0.1:3000"), 403),
    "origin of another scheme": (request("GET", "/v2", Host="127.0.0.1:8000", Origin="https://127.0.0.1:8000"), 403),
    "origin by another own name": (request("GET", "/v2", Host="127.0.0.1:8000", Origin="http://localhost:8000"), 403),
    "origin that is no URL": (request("GET", "/v2", Origin="http://["), 403),
    "no length": (request("POST", INFER).replace(b"Content-Length: 0\r\n", b""), 411),
    "chunked": (request("POST", INFER, Transfer_Encoding="chunked") + b"0\r\n\r\n", 411),
    "two lengths": (b"POST /v2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
    "odd length": (request("POST", INFER, Content_Length="+5"), 400),
    "too long": (request("POST", INFER, Content_Length=str((64 << 20) + 1)), 413),
    "far too long": (request("POST", INFER, Content_Length="9" * 19), 413),
    "long headers": (request("GET", "/v2", X="y" * 20_000), 431),
    "endless headers": (b"GET /v2 HTTP/1.1\r\nX: " + b"y" * 40_000, 431),
    "no JSON": (request("POST", INFER, b"{"), 400),
    "no UTF-8": (request("POST", INFER, b"\xff\xfe"), 400),
    "NaN": (request("POST", INFER, b'{"inputs": NaN}'), 400),
    "a key twice": (request("POST", INFER, b'{"inputs": [], "inputs": []}'), 400),
    "deep": (request("POST", INFER, b"[" * 200_000), 400),
    "a long number": (request("POST", INFER, b"[" + b"9" * 10_000 + b"]"), 400),
    "head": (request("HEAD", "/v2"), 200),
    "metrics": (request("GET", "/metrics"), 200),
    "docs": (request("GET", "/docs"), 200),
}


@pytest.mark.parametrize("name", STATUS)
def test_every_status(server, name):
    data, status = STATUS[name]
    if data.startswith(b"HEAD"):
        with server.raw() as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            said = b"".join(iter(lambda: sock.recv(65536), b""))
        assert said.startswith(b"HTTP/1.1 200 OK")
        assert said.endswith(b"\r\n\r\n")
        return
    found, headers, body = server.send(data)
    assert found == status, body
    if status >= 400:
        assert headers["content-type"] == "application/json"
        assert set(json.loads(body)) == {"error", "code"}
    if status == 405:
        assert headers["allow"] in {"POST", "GET, HEAD"}
    assert "access-control-allow-origin" not in headers


def test_a_body_is_refused_before_it_is_sent(server):
    with server.raw() as sock:
        sock.sendall(request("POST", INFER, Content_Length=str(10**9), Expect="100-continue"))
        assert answer(sock)[0] == 413


def test_who_waits_for_permission_gets_it(server):
    message = asked()
    head, _, body = message.partition(b"\r\n\r\n")
    with server.raw() as sock:
        sock.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert answer(sock)[0] == 200


def test_a_connection_is_kept_and_requests_may_come_at_once_or_in_crumbs(server):
    with server.raw() as sock:
        for _ in range(3):
            sock.sendall(asked())
            assert answer(sock)[0] == 200
        sock.sendall(asked(index=np.array([77])))
        assert answer(sock)[0] == 500
        for index in range(0, len(whole := asked()), 97):
            sock.sendall(whole[index : index + 97])
        assert answer(sock)[0] == 200
        sock.sendall(request("GET", "/v2", Connection="close"))
        assert answer(sock)[1]["connection"] == "close"
        assert sock.recv(1) == b""
    with server.raw() as sock:
        sock.sendall(request("GET", "/v2/health/live") * 3)
        said = b""
        while said.count(b'{"live": true}') < 3:
            said += sock.recv(65536)


def test_a_body_that_claims_too_much_or_too_little(server):
    message = wire.request(feeds(), binary=True)
    names = {name.replace("-", "_"): value for name, value in message.headers.items()}
    assert server.ask("POST", INFER, message.body[:-1], **names)[0] == 400
    assert server.ask("POST", INFER, message.body + b"x", **names)[0] == 400
    for length in (len(message.body) + 1, -1, "x", "9" * 30):
        named = {**names, "Inference_Header_Content_Length": str(length)}
        assert server.ask("POST", INFER, message.body, **named)[0] == 400
    with server.raw() as sock:  # longer than declared: the rest is taken for the next request, and is none
        sock.sendall(asked() + b"more\r\n\r\n")
        said = b"".join(iter(lambda: sock.recv(65536), b""))
        assert re.findall(rb"HTTP/1.1 (\d+)", said) == [b"200", b"400"]
    with server.raw() as sock:  # shorter, and then nobody is there
        sock.sendall(asked()[:-5])
        sock.shutdown(socket.SHUT_WR)
        assert answer(sock)[0] == 0


def test_200_connections_at_a_time(server):
    socks = [server.raw(60) for _ in range(200)]
    given = asked()
    for sock in socks:
        sock.sendall(given)
    found = [answer(sock) for sock in socks]
    for sock in socks:
        sock.close()
    assert {status for status, _, _ in found} == {200}
    assert len({body for _, _, body in found}) == 1


def test_answers_do_not_mix_among_threads(server):
    wrong = []

    def client(seed: int) -> None:
        endpoint = connect(server.url, "served", wire="binary")
        for turn in range(20):
            given = feeds(seed + 1, index=seed % 5, steps=turn, seed=100 * seed + turn)
            actual = endpoint.infer(given)
            if not np.allclose(actual["y"], given["x"] @ WEIGHT, atol=1e-5) or actual["count"] != turn:
                wrong.append((seed, turn))
        endpoint.close()

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def wait_until(holds) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def metric(server, name: str) -> float:
    text = server.ask("GET", "/metrics")[2].decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_metrics_count_what_happened(server):
    names = {
        "good": 'deploykit_requests_total{route="infer",code="200"}',
        "bad": 'deploykit_requests_total{route="infer",code="400"}',
        "runs": "deploykit_session_runs_total",
        "timed": "deploykit_request_seconds_count",
        "all": 'deploykit_request_seconds_bucket{le="+Inf"}',
        "in": "deploykit_received_bytes_total",
    }
    before = {key: metric(server, name) for key, name in names.items()}
    body = json.dumps(json_body()).encode()
    assert server.ask("POST", INFER, body)[0] == 200
    assert server.ask("POST", INFER, b"{}")[0] == 400
    wait_until(lambda: metric(server, names["timed"]) == before["timed"] + 2)  # counted after the answer was sent
    after = {key: metric(server, name) for key, name in names.items()}
    changes = {key: after[key] - before[key] for key in names}
    assert changes == {"good": 1, "bad": 1, "runs": 1, "timed": 2, "all": 2, "in": len(body) + 2}
    wait_until(lambda: metric(server, "deploykit_requests_in_flight") == 1)  # this very one
    assert metric(server, "deploykit_session_seconds_total") > 0


def test_every_line_of_the_metrics_is_what_prometheus_reads(server):
    status, headers, body = server.ask("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"\\\n]*"(,[a-z]+="[^"\\\n]*")*\})? -?[0-9.e+-]+')
    comment = re.compile(r"# (HELP|TYPE) deploykit_[a-z_]+ \S.*")
    for line in body.decode().splitlines():
        assert sample.fullmatch(line) or comment.fullmatch(line), line
