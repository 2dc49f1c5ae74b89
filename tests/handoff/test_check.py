"""The check that travels with a folder, against servers of every kind: a status and one line, never a traceback."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from deploykit.handoff import _check

RIGHT = {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2.0, 4.0]}


def reply(body: object = None, status: str = "200 OK", more: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n{more}\r\n".encode() + data


@contextmanager
def server(infer, wrong: bytes = reply({"error": "no"}, "400 Bad Request"), ready: bytes = reply({})):
    """Answers `infer` (bytes, or a function of the socket) to right requests, `wrong` to those with wrong shapes."""
    seen: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                data += sock.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            length = next((int(x[15:]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length:")), 0)
            while len(body) < length:
                body += sock.recv(65536)
            seen.append(head)
            if head.startswith(b"GET"):
                sock.sendall(ready)
            elif json.loads(body)["inputs"][0]["shape"] != [1, 2]:
                sock.sendall(wrong)
            elif callable(infer):
                infer(sock)
            else:
                sock.sendall(infer)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", seen
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)


@pytest.fixture
def folder(tmp_path):
    """A handed folder with two cases of a model that doubles."""
    shutil.copy(_check.__file__, tmp_path / "check.py")
    x = np.array([[1, 2]], np.float32)
    np.savez(tmp_path / "one.npz", **{"inputs/x": x, "expected/y": np.array([[2.0, 4.0]])})
    cases = [{"id": name, "file": "one.npz", "limits": {"y": 0.01}} for name in ("real", "again")]
    write(tmp_path, {
        "model": "double",
        "speaks": "oip",
        "inputs": ["x"],
        "fixed_last": {"x": True},
        "signature": {"outputs": [{"name": "y", "dtype": "float32", "shape": [1, 2]}]},
        "versions": [{"number": 1, "cases": cases}],
        "files": {"one.npz": hashlib.sha256((tmp_path / "one.npz").read_bytes()).hexdigest()},
    })  # fmt: skip
    return tmp_path


def write(folder: Path, record: object) -> None:
    (folder / "handoff.json").write_text(json.dumps(record))


def record_of(folder: Path) -> dict:
    return json.loads((folder / "handoff.json").read_text())


def run(folder: Path, url: str, *words: str) -> tuple[int, str]:
    argv = [sys.executable, "-W", "error", folder / "check.py", "--url", url, *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert all(line.isprintable() for line in (done.stdout + done.stderr).split("\n"))
    return done.returncode, done.stdout + done.stderr


def outputs(*every: dict) -> bytes:
    return reply({"outputs": list(every)})


def test_right_answers(folder):
    with server(outputs(RIGHT)) as (url, seen):
        code, said = run(folder, url)
    assert code == 0, said
    assert "2 cases: all answers within their limits" in said
    assert len(seen) == 4


WRONG = {
    "values": (outputs({**RIGHT, "data": [2.0, 4.1]}), "error 0.07"),
    "datatype": (outputs({**RIGHT, "datatype": "FP64"}), "float64 instead of float32"),
    "one more": (outputs(RIGHT, {**RIGHT, "name": "z\x1b[31m"}), "the signature has no such output"),
    "one less": (outputs(), "missing in the answer"),
    "refused": (reply({"error": "\x1b[2J no"}, "400 Bad"), "HTTP 400"),
    "broken": (reply({"error": "no"}, "500 Broken"), "HTTP 500"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers(folder, name):
    answer, expected = WRONG[name]
    with server(answer) as (url, _):
        code, said = run(folder, url)
    assert code == 1, said
    assert expected in said


@pytest.mark.parametrize(("status", "code"), [("400 a", 0), ("413 a", 0), ("422 a", 0), ("401 a", 1), ("500 a", 1)])
def test_a_wrong_shape_is_refused_as_one(folder, status, code):
    with server(outputs(RIGHT), wrong=reply({}, status)) as (url, _):
        assert run(folder, url)[0] == code


NONE = {
    "garbage": b"\x00\xff" * 1000 + b"\r\n\r\n",
    "nothing": b"",
    "early end": reply({"outputs": [RIGHT]})[:-9],
    "redirect": reply({}, "302 Found", "Location: http://192.0.2.1/\r\n"),
    "deep": reply(b"[" * 200_000),
    "list": reply([]),
    "no object": reply({"outputs": [7]}),
    "huge shape": outputs({**RIGHT, "shape": [10**17, 10]}),
    "other datatype": outputs({**RIGHT, "datatype": "FP1"}),
    "no JSON": reply(b"<html>"),
    "too large": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_answer(folder, name):
    with server(NONE[name]) as (url, seen):
        code, said = run(folder, url)
    assert code == 4, said
    assert len(said.splitlines()) == 1
    assert len(seen) == 2, "it stops there"


def test_a_port_that_speaks_something_else_and_one_that_nobody_has(folder):
    with server(b"", ready=b"SSH-2.0-OpenSSH\r\n") as (url, _):
        code, said = run(folder, url)
    assert (code, "BadStatusLine" in said) == (4, True), said
    with server(b"", ready=reply({"error": "still loading"}, "503 Busy")) as (url, seen):
        code, said = run(folder, url, "--wait", "1")
    assert (code, "still loading" in said, len(seen) > 2) == (4, True, True), said
    assert run(folder, "http://127.0.0.1:9")[0] == 4


def test_a_model_that_is_not_there_ends_it(folder):
    with server(reply({"error": "unknown"}, "404 Not Found")) as (url, seen):
        code, said = run(folder, url, "--model", "a b/c")
    assert (code, len(said.splitlines()), len(seen)) == (4, 1, 2), said
    assert "--model" in said
    assert b"/v2/models/a%20b%2Fc/infer" in seen[1]


@pytest.mark.parametrize("url", ["127.0.0.1:1", "ftp://h", "http://", "http://h:99999", "http://h:0", "http://h/a b"])
def test_what_is_no_url(folder, url):
    assert run(folder, url)[0] == 2


def changed(**changes):
    return lambda record: {**record, **changes}


def of_case(**changes):
    return lambda record: changed(
        versions=[{"number": 1, "cases": [{**record["versions"][0]["cases"][0], **changes}]}]
    )(record)


MALFORMED = {
    "no versions": changed(versions=[]),
    "a number": lambda record: 7,
    "other protocol": changed(speaks="smtp"),
    "no outputs": changed(signature={}),
    "limit": of_case(limits={"y": "1"}),
    "NaN": of_case(limits={"y": float("nan")}),
    "a file of nobody": of_case(file="/etc/passwd"),
    "an output that is not there": of_case(limits={"z": 1.0}),
    "a number that is none": changed(versions=[{"number": "1", "cases": []}]),
    "an input that is not there": changed(inputs=["z"]),
    "a digest": changed(files={"one.npz": "0" * 64}),
    "no file list": changed(files=[]),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_record(folder, name):
    write(folder, MALFORMED[name](record_of(folder)))
    with server(outputs(RIGHT)) as (url, _):
        code, said = run(folder, url)
    assert code == 5, said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("text", ["", "[" * 100_000, "{"])
def test_a_record_that_is_no_json(folder, text):
    (folder / "handoff.json").write_text(text)
    assert run(folder, "http://127.0.0.1:9")[0] == 5


def test_without_cases_nothing_is_proven(folder):
    write(folder, changed(versions=[{"number": 1, "cases": []}])(record_of(folder)))
    with server(outputs(RIGHT)) as (url, _):
        code, said = run(folder, url)
    assert code == 2
    assert "no case of the reference travels in this folder: use deploykit verify --url" in said


def drip(beginning: bytes, turn: bytes):
    def answer(sock: socket.socket) -> None:
        sock.sendall(beginning)
        for _ in range(200):
            sock.sendall(turn)
            time.sleep(0.05)

    return answer


SLOW = {
    "head": drip(b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "chunk line": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1", b"0"),
    "continue": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("name", SLOW)
def test_an_answer_that_drips_meets_the_deadline(name):
    body = json.dumps({"inputs": [{"shape": [1, 2]}]}).encode()
    with server(SLOW[name]) as (url, _):
        began = time.monotonic()
        with pytest.raises(_check.NoAnswerError, match="no whole answer within"):
            _check.send(url, body, {}, 0.5)
        assert time.monotonic() - began < 4


def test_an_answer_that_goes_on_and_on_is_cut(monkeypatch):
    monkeypatch.setattr(_check, "MAX_ANSWER", 1000)
    body = json.dumps({"inputs": [{"shape": [1, 2]}]}).encode()
    with server(reply(bytes(1001))) as (url, _), pytest.raises(_check.NoAnswerError, match="more than 1000 bytes"):
        _check.send(url, body, {})


def test_a_proxy_is_not_asked(folder, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with server(outputs(RIGHT)) as (url, _):
        assert run(folder, url)[0] == 0
