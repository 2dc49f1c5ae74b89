"""The clients against servers that answer what a test says, byte by byte: what is taken, and what is refused how."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from deploykit import wire
from deploykit.endpoint import connect
from deploykit.errors import UsageError, WorkError
from deploykit.signature import TensorSpec

Y = {"y": np.array([[1.5, -2.0]], np.float32)}
X = {"x": np.ones((1, 3), np.float32)}


def reply(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    fields = {"Content-Length": str(len(body)), **{name.replace("_", "-"): text for name, text in headers.items()}}
    lines = "".join(f"{name}: {text}\r\n" for name, text in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def outputs(binary: bool = False, **changes) -> bytes:
    message = wire.response({**Y, **changes}, "m", "1", binary=binary)
    return reply(message.body, **{name.replace("-", "_"): text for name, text in message.headers.items()})


class Canned:
    """Answers every request with the next of its answers (bytes, or a function of the socket); remembers what came."""

    def __init__(self, *answers) -> None:
        self.answers, self.seen, self.connections = list(answers), [], 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                self.connections += 1
                self._open.append(sock)
                self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
                self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            while self.answers:
                data = b""
                while b"\r\n\r\n" not in data:
                    if not (part := sock.recv(65536)):
                        return
                    data += part
                head, _, body = data.partition(b"\r\n\r\n")
                lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
                while lengths and len(body) < int(lengths[0].partition(b":")[2]):
                    body += sock.recv(65536)
                self.seen.append((head, body))
                given = self.answers.pop(0)
                if callable(given):
                    given(sock)
                    return
                sock.sendall(given)

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for sock in self._open:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)


@contextmanager
def canned(*answers, scheme: str = "http", model: str = "m", path: str = "", **options):
    server = Canned(*answers)
    endpoint = connect(f"{scheme}://127.0.0.1:{server.port}{path}", model, **options)
    try:
        yield server, endpoint
    finally:
        endpoint.close()
        server.close()


def code_of(call) -> str:
    with pytest.raises(WorkError) as caught:
        call()
    assert len(str(caught.value)) <= 400
    return caught.value.code


def facts(name: str, *extensions: str) -> bytes:
    return reply(json.dumps({"name": name, "version": "1", "extensions": extensions}).encode())


@pytest.mark.parametrize(
    ("told", "binary"),
    [
        (facts("triton", "binary_tensor_data", "statistics"), True),
        (facts("kserve", "model_repository_extension"), True),
        (facts("mlserver"), False),
        (reply(b"{}"), False),
        (reply(b"", "404 Not Found"), False),
    ],
)
def test_auto_asks_once_and_sends_what_the_server_takes(told, binary):
    get = [told, told] if told.startswith(b"HTTP/1.1 200") else [told]
    with canned(*get, outputs(binary), outputs(binary)) as (server, endpoint):
        for _ in range(2):
            assert endpoint.infer(X)["y"].tobytes() == Y["y"].tobytes()
        asked = [head for head, _ in server.seen if head.startswith(b"POST")]
        assert [b"Inference-Header-Content-Length" in head for head in asked] == [binary] * 2
        assert server.connections == 1


def test_path_version_and_headers():
    with canned(
        outputs(), model="a b", path="/route", version="3", wire="json", headers={"Authorization": "Bearer t"}
    ) as (server, endpoint):
        endpoint.infer(X)
        head = server.seen[0][0]
    assert head.startswith(b"POST /route/v2/models/a%20b/versions/3/infer HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer t" in head
    assert b"\r\nContent-Type: application/json" in head


REFUSALS = {
    "4xx": (reply(b'{"error": "no \x1b[31m such input"}', "400 Bad Request"), "REQUEST_REFUSED", "no "),
    "detail": (reply(b'{"detail": [{"loc": "x"}]}', "422 Unprocessable"), "REQUEST_REFUSED", '[{"loc": "x"}]'),
    "text": (reply(b"nobody knows", "404 Not Found"), "REQUEST_REFUSED", "nobody knows"),
    "5xx": (reply(b'{"error": "broken"}', "500 Internal"), "SERVER_ERROR", "broken"),
    "long": (reply(b"y" * 100_000, "503 Busy"), "SERVER_ERROR", "yyy"),
    "redirect": (reply(b"", "307 Moved", Location="http://192.0.2.1/"), "BAD_ANSWER", "points to http://192.0.2.1/"),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", "BAD_ANSWER", "no answer of an HTTP server"),
    "no JSON": (reply(b"<html>"), "BAD_ANSWER", "no valid JSON"),
    "no outputs": (reply(b"{}"), "BAD_ANSWER", "outputs"),
    "null for NaN": (outputs().replace(b"1.5", b"nul").replace(b"nul,", b"null,"), "BAD_ANSWER", ""),
    "too long": (reply(b"", Content_Length=str(10**12)), "BAD_ANSWER", "an answer of 1000000000000 bytes"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_no_good_answer(name):
    given, code, said = REFUSALS[name]
    with canned(given, wire="json", timeout_s=10) as (_, endpoint), pytest.raises(WorkError) as caught:
        endpoint.infer(X)
    assert caught.value.code == code
    assert said in caught.value.message
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 400


def endless(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(10_000):
        sock.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")


def short(sock: socket.socket) -> None:
    sock.sendall(outputs()[:-7])


def silent(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.recv(1)


def dripping(sock: socket.socket) -> None:
    sock.sendall(reply(b"", Content_Length="1000"))
    for _ in range(100):
        sock.sendall(b" ")
        time.sleep(0.05)


def test_an_answer_that_does_not_end():
    with canned(endless, wire="json", max_answer=1 << 20) as (_, endpoint):
        assert code_of(lambda: endpoint.infer(X)) == "BAD_ANSWER"


def test_an_answer_that_ends_early():
    with canned(short, wire="json") as (_, endpoint):
        assert code_of(lambda: endpoint.infer(X)) == "BAD_ANSWER"


def dripping_to_the_end(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    for _ in range(100):
        sock.sendall(b" ")
        time.sleep(0.05)


def drip(*beginning: bytes, turn: bytes = b"0"):
    def answer(sock: socket.socket) -> None:
        sock.sendall(b"".join(beginning))
        for _ in range(100):
            sock.sendall(turn)
            time.sleep(0.05)

    return answer


SLOW = {
    "nothing": silent,
    "body": dripping,
    "body to the end": dripping_to_the_end,
    "status": drip(b"HTTP/1.1 20"),
    "head": drip(b"HTTP/1.1 200 OK\r\nX: "),
    "headers": drip(b"HTTP/1.1 200 OK\r\n", turn=b"X: y\r\n"),
    "chunk line": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1"),
    "trailer": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", turn=b"X: y\r\n"),
    "continue": drip(turn=b"HTTP/1.1 100 Continue\r\n\r\n"),
}


def continuing(sock: socket.socket) -> None:
    for _ in range(100_000):
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 10)


def test_an_answer_that_never_begins():
    with canned(continuing, wire="json", timeout_s=60) as (_, endpoint), pytest.raises(WorkError) as caught:
        endpoint.infer(X)
    assert caught.value.code == "BAD_ANSWER"
    assert "a head of more than" in caught.value.message


def test_an_answer_of_its_own_status_before_the_answer_is_none():
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n" + outputs()
    with canned(early, outputs(), wire="json") as (server, endpoint):
        assert code_of(lambda: endpoint.infer(X)) == "BAD_ANSWER"
        assert endpoint.infer(X)["y"].tobytes() == Y["y"].tobytes(), "the next request gets its own answer"
        assert server.connections == 2


@pytest.mark.parametrize("slow", SLOW.values(), ids=SLOW)
def test_an_answer_that_does_not_come(slow):
    with canned(slow, wire="json", timeout_s=0.4) as (_, endpoint):
        began = time.monotonic()
        assert code_of(lambda: endpoint.infer(X)) == "TIME_LIMIT"
        assert time.monotonic() - began < 3


def test_nobody_is_there():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    endpoint = connect(f"http://127.0.0.1:{port}", "m", wire="json")
    assert code_of(lambda: endpoint.infer(X)) == "SERVER_UNREACHABLE"
    assert not endpoint.ready(0.2)


def test_a_connection_that_was_closed_meanwhile_is_opened_again():
    with canned(outputs(), outputs(), wire="json") as (server, endpoint):
        endpoint.infer(X)
        server._open[0].shutdown(socket.SHUT_RDWR)
        assert endpoint.infer(X)["y"].shape == (1, 2)
        assert server.connections == 2


def test_a_server_that_hangs_up_at_once_is_not_asked_again_and_again():
    with canned(lambda sock: None, outputs(), wire="json") as (server, endpoint):
        assert code_of(lambda: endpoint.infer(X)) == "SERVER_UNREACHABLE"
        assert len(server.seen) == 1


def test_raw_gives_whatever_comes():
    with canned(reply(b"no", "418 Teapot", X_Y="z"), wire="json") as (server, endpoint):
        found = endpoint.raw(b"rubbish", {"Content-Type": "application/json"})
        assert (found.status, found.headers["x-y"], found.body) == (418, "z", b"no")
        assert server.seen[0][1] == b"rubbish"


@pytest.mark.parametrize(
    ("told", "ready"),
    [
        (reply(), True),
        (reply(b'{"ready": true}'), True),
        (reply(b'{"ready": false}'), False),
        (reply(b"OK"), True),
        (reply(b"", "503 Busy"), False),
    ],
)
def test_ready_in_every_dialect(told, ready):
    with canned(told) as (server, endpoint):
        assert endpoint.ready(0) is ready
        assert server.seen[0][0].startswith(b"GET /v2/models/m/ready ")


def test_ready_waits():
    with canned(*[reply(b"", "503 Busy")] * 3, reply()) as (_, endpoint):
        assert endpoint.ready(10)


@pytest.mark.parametrize(
    ("answers", "code", "hint"),
    [
        ([b"SSH-2.0-OpenSSH\r\n\r\n"], "BAD_ANSWER", "check host and port"),
        ([reply(b"", "302 Found", Location="http://192.0.2.1/")], "BAD_ANSWER", "give the final URL"),
        ([reply(b"", "401 Unauthorized")], "REQUEST_REFUSED", "the server says"),
        ([reply(b"", "404 Not Found"), reply()], "NOT_READY", "--model-name"),
        ([reply(b"", "404 Not Found"), reply(b"", "404 Not Found"), reply(b"{}")], "NOT_READY", "--model-name"),
    ],
)
def test_ready_does_not_wait_for_what_does_not_change(answers, code, hint):
    with canned(*answers) as (server, endpoint):
        began = time.monotonic()
        with pytest.raises(WorkError) as caught:
            endpoint.ready(30)
        assert (caught.value.code, hint in caught.value.hint) == (code, True)
        assert time.monotonic() - began < 5
        assert len(server.seen) == len(answers)


def test_ready_waits_for_a_model_while_the_server_itself_is_starting():
    with canned(reply(b"", "404 Not Found"), reply(b"", "503 Busy"), reply()) as (_, endpoint):
        assert endpoint.ready(10)


def test_ready_waits_for_a_port_no_longer_than_it_may():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    endpoint = connect(f"http://127.0.0.1:{port}", "m")
    began = time.monotonic()
    assert not endpoint.ready(30, 0.3)
    assert 0.1 < time.monotonic() - began < 5


def test_what_a_server_tells_of_itself_is_short_and_printable():
    evil = "\x1b[31mevil\n\n" + "x" * 10**6
    told = {"name": evil, "version": evil, "extensions": [evil, "binary_tensor_data"]}
    model = {
        "name": evil,
        "versions": [evil],
        "platform": evil,
        "inputs": [{"name": evil, "datatype": evil, "shape": []}],
    }
    with canned(reply(json.dumps(told).encode()), reply(json.dumps(model).encode())) as (_, endpoint):
        server, facts = endpoint.server(), endpoint.model_facts()
    texts = [server.name, server.version, *server.extensions, facts.name, facts.platform, *facts.versions]
    assert all(text and text.isprintable() and len(text) <= 80 for text in [*texts, facts.inputs[0].dtype])
    assert "binary_tensor_data" in server.extensions
    assert facts.inputs[0].name == evil, "names of tensors are sent back as they came"


@pytest.mark.parametrize(
    "model", [b"[]", b"<", b'{"inputs": {}}', b'{"inputs": [{"shape": "no"}]}', b'{"inputs": [{"shape": [-2]}]}']
)
def test_metadata_that_is_none(model):
    with canned(reply(model)) as (_, endpoint):
        assert code_of(endpoint.model_facts) == "BAD_ANSWER"


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "http://user:secret@h:1", "http://h:1?x=1", "http://h:99999", "http://h:0", "h:80", "http://["]
)  # fmt: skip
def test_what_is_no_url(url):
    with pytest.raises(UsageError) as caught:
        connect(url, "m")
    assert caught.value.code == "BAD_URL"
    assert "secret" not in str(caught.value)


def test_the_servers_own_reader_understands_what_it_is_sent():
    with canned(outputs(), wire="binary") as (server, endpoint):
        endpoint.infer({"x": np.array([np.nan, np.inf], np.float16)})
        head, body = server.seen[0]
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    found = wire.parse_request({name.decode(): text.decode() for name, text in fields.items()}, body)
    assert np.isnan(found.feeds["x"][0])


MLFLOW = (TensorSpec("y", "float32", (1, 2)), TensorSpec("n", "int64", (1,)))


@pytest.mark.parametrize(
    "told",
    [{"y": [[1.5, -2.0]], "n": [3]}, [{"y": [1.5, -2.0], "n": 3}]],
)
def test_mlflow_answers_by_name(told):
    with canned(reply(json.dumps({"predictions": told}).encode()), scheme="mlflow+http", outputs=MLFLOW) as (
        server,
        endpoint,
    ):
        found = endpoint.infer(X)
        assert found["y"].tobytes() == Y["y"].tobytes()
        assert (found["n"].dtype, found["n"].tolist()) == (np.int64, [3])
        head, body = server.seen[0]
    assert head.startswith(b"POST /invocations HTTP/1.1")
    assert json.loads(body) == {"inputs": {"x": [[1.0, 1.0, 1.0]]}}


def test_mlflow_answers_without_a_name():
    with canned(reply(b'{"predictions": [[1, 2]]}'), scheme="mlflow+http", outputs=MLFLOW[:1]) as (_, endpoint):
        assert endpoint.infer(X)["y"].dtype == np.float32
    with canned(reply(b'{"predictions": [[1, 2]]}'), scheme="mlflow+http") as (_, endpoint):
        assert endpoint.infer(X)["predictions"].dtype == np.int64


@pytest.mark.parametrize(
    "told", [b"{}", b"[]", b"no", *(b'{"predictions": %b}' % one for one in (b'"x"', b'{"n": [1.5]}', b"[[1],[2,3]]"))]
)
def test_mlflow_answers_that_are_none(told):
    with canned(reply(told), scheme="mlflow+http", outputs=MLFLOW) as (_, endpoint):
        assert code_of(lambda: endpoint.infer(X)) == "BAD_ANSWER"


def test_mlflow_tells_little():
    with canned(reply(b"OK"), reply(b"3.1\n"), scheme="mlflow+http", outputs=MLFLOW) as (_, endpoint):
        assert endpoint.ready(0)
        assert endpoint.server().version == "3.1"
        assert endpoint.model_facts().outputs == MLFLOW
        with pytest.raises(UsageError) as caught:
            endpoint.infer({"x": np.array([np.nan])})
        assert caught.value.code == "NOT_IN_JSON"
