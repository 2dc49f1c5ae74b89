"""Times and numbers: who is slow, who comes too many, and how it ends. The listener in this process, a real session."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest

from deploykit import registry, wire
from deploykit.serve.listener import Listener
from deploykit.serve.metrics import Metrics
from deploykit.serve.model import About, Model
from deploykit.serve.routes import Routes
from deploykit.serve.rules import Rules
from deploykit.session import SessionSettings
from tests.fixtures.served import SIGNATURE, answer, feeds, graph, request

INFER = "/v2/models/served/infer"


def asked(**changes) -> bytes:
    return request("POST", INFER, wire.request({**feeds(), **changes}, binary=False).body)


class Held:
    """A session that waits until it may go on, and says how many came in."""

    def __init__(self, session) -> None:
        self.session, self.go, self.inside = session, threading.Event(), threading.Semaphore(0)
        self.most = self.now = 0
        self.lock = threading.Lock()

    def run(self, given):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.inside.release()
        self.go.wait(20)
        with self.lock:
            self.now -= 1
        return self.session.run(given)


class Served:
    def __init__(self, port: int, listener: Listener, said: list[str]) -> None:
        self.port, self.listener, self.said = port, listener, said
        self.cut: list[int] = []

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def ask(self, data: bytes):
        with self.raw() as sock:
            sock.sendall(data)
            return answer(sock)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "model.onnx"
    file.write_bytes(graph())
    return registry.load("runtimes", "onnxruntime")().open(file, (), SessionSettings(threads=1))


@contextmanager
def running(session, rules: Rules, drain_s: float = 5.0):
    sock = socket.create_server(("127.0.0.1", 0), backlog=64)
    port, metrics, said = sock.getsockname()[1], Metrics(), []
    model = Model(
        About("served", "onnx", "onnxruntime", SIGNATURE),
        session, rules.concurrency, rules.queue_s, metrics, said.append,
    )  # fmt: skip
    listener = Listener(sock, Routes(model, rules, metrics, "0"), rules, metrics)
    served = Served(port, listener, said)
    thread = threading.Thread(target=lambda: served.cut.append(listener.run(drain_s)))
    thread.start()
    try:
        yield served
    finally:
        listener.stop()
        thread.join(30)
        assert not thread.is_alive()


def test_half_a_head_then_silence_is_408(session):
    with running(session, Rules(head_s=0.3)) as served, served.raw() as sock:
        sock.sendall(b"GET /v2 HTTP/1.1\r\nHo")
        status, headers, body = answer(sock)
        assert (status, headers["connection"], json.loads(body)["code"]) == (408, "close", "TOO_SLOW")
        assert sock.recv(1) == b""


def test_a_head_byte_by_byte_is_408_all_the_same(session):
    with running(session, Rules(head_s=0.5)) as served, served.raw() as sock:
        began = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < began + 10:
                sock.sendall(b"X")
                time.sleep(0.02)
        assert time.monotonic() - began < 5


def test_half_a_body_then_silence_is_408(session):
    with running(session, Rules(body_s=0.3)) as served, served.raw() as sock:
        sock.sendall(asked()[:-10])
        assert answer(sock)[0] == 408


def test_who_asks_nothing_is_shut_out_without_a_word(session):
    with running(session, Rules(idle_s=0.3)) as served, served.raw() as sock:
        assert sock.recv(1) == b""
    with running(session, Rules(idle_s=0.3)) as served, served.raw() as sock:
        sock.sendall(asked())
        assert answer(sock)[0] == 200
        assert sock.recv(1) == b""


def test_one_connection_too_many_is_503(session):
    with running(session, Rules(connections=3)) as served:
        with ExitStack() as stack:
            for _ in range(3):
                sock = stack.enter_context(served.raw())
                sock.sendall(asked())
                assert answer(sock)[0] == 200
            status, headers, body = served.ask(asked())
            assert (status, json.loads(body)["code"], headers["retry-after"]) == (503, "BUSY", "1")
        deadline = time.monotonic() + 10
        while served.ask(asked())[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_no_more_runs_at_a_time_than_allowed(session, concurrency):
    held = Held(session)
    with running(held, Rules(concurrency=concurrency)) as served, ExitStack() as stack:
        socks = [stack.enter_context(served.raw()) for _ in range(6)]
        for sock in socks:
            sock.sendall(asked())
        for _ in range(concurrency):
            assert held.inside.acquire(timeout=10)
        assert not held.inside.acquire(timeout=0.2)
        held.go.set()
        assert [answer(sock)[0] for sock in socks] == [200] * 6
        assert held.most == concurrency


def test_who_waits_too_long_for_a_turn_is_sent_away(session):
    held = Held(session)
    with running(held, Rules(queue_s=0.2)) as served, served.raw() as first:
        first.sendall(asked())
        assert held.inside.acquire(timeout=10)
        status, headers, _ = served.ask(asked())
        assert (status, headers["retry-after"]) == (503, "1")
        assert served.ask(request("GET", "/v2/health/ready"))[0] == 200
        held.go.set()
        assert answer(first)[0] == 200


def test_large_requests_share_memory_and_small_ones_pass_them(session):
    large = asked()[:-1] + b" " * 100_000 + b"}"
    large = request("POST", INFER, large.partition(b"\r\n\r\n")[2])
    rules = Rules(working_bytes=len(large) * 24 + 1, queue_s=0.2)
    held = Held(session)
    with running(held, rules) as served, served.raw() as first:
        first.sendall(large)
        assert held.inside.acquire(timeout=10)
        status, _, body = served.ask(large)
        assert (status, json.loads(body)["error"]) == (503, "too many large requests at a time")
        held.go.set()
        assert answer(first)[0] == 200
        assert served.ask(large)[0] == 200
        assert served.ask(asked())[0] == 200


def test_at_the_end_requests_in_flight_are_answered_and_the_idle_are_let_go(session):
    held = Held(session)
    with running(held, Rules()) as served, served.raw() as busy, served.raw() as idle:
        idle.sendall(request("GET", "/v2"))
        assert answer(idle)[0] == 200
        busy.sendall(asked())
        assert held.inside.acquire(timeout=10)
        served.listener.stop()
        assert idle.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            served.raw()
        held.go.set()
        status, headers, _ = answer(busy)
        assert (status, headers["connection"]) == (200, "close")
        assert busy.recv(1) == b""
    assert served.cut == [0]


def test_what_does_not_end_in_time_is_counted(session):
    held = Held(session)
    with running(held, Rules(), drain_s=0.2) as served, served.raw() as busy:
        busy.sendall(asked())
        assert held.inside.acquire(timeout=10)
        served.listener.stop()
        deadline = time.monotonic() + 10
        while not served.cut:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        held.go.set()
    assert served.cut == [1]


def test_a_bug_in_one_request_is_500_and_the_next_is_answered(session, capsys):
    class Broken:
        def run(self, given):
            if given["steps"] == 1:
                raise RuntimeError("/secret/path")
            return session.run(given)

    with running(Broken(), Rules()) as served:
        status, _, body = served.ask(asked(steps=feeds(steps=1)["steps"]))
        assert (status, json.loads(body)) == (500, {"error": "this server has a bug", "code": "INTERNAL"})
        assert served.ask(asked())[0] == 200
    assert "/secret/path" in capsys.readouterr().err


def test_outputs_that_are_not_the_signatures_are_no_answer(session):
    class Other:
        def run(self, given):
            return {"y": session.run(given)["y"]}

    with running(Other(), Rules()) as served:
        status, _, body = served.ask(asked())
        assert (status, json.loads(body)["code"]) == (500, "OUTPUT_NAMES")
        assert len(served.said) == 1
        assert "signature" in served.said[0]


def test_with_a_token_nothing_is_answered_without_it(session):
    rules = Rules(token="a-token-of-some-length", hosts=())
    with running(session, rules) as served:
        for wrong in ({}, {"Authorization": "Bearer a-token-of-some-lengtH"}, {"Authorization": "Basic x"}):
            for path in ("/v2", "/docs", "/metrics", "/v2/health/live", "/nothing"):
                status, headers, _ = served.ask(request("GET", path, **wrong))
                assert (status, headers["www-authenticate"]) == (401, "Bearer")
        right = {"Authorization": "Bearer a-token-of-some-length"}
        assert served.ask(request("GET", "/v2", **right))[0] == 200
        assert served.ask(request("GET", "/v2", Host="any.example", **right))[0] == 200
        assert served.ask(request("GET", "/v2", Origin="https://other.example", **right))[0] == 403
