"""The real command from its start to its end: signals, crashes, ports, refusals."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploykit import wire
from deploykit.endpoint import connect
from deploykit.errors import WorkError
from tests.fixtures.served import Running, answer, bundle, children, feeds, request

INFER = "/v2/models/served/infer"
LONG = 3_000_000
"""Turns of the model's loop that take seconds."""


def asked(steps: int = 0) -> bytes:
    return request("POST", INFER, wire.request(feeds(steps=steps), binary=False).body)


def in_flight(server: Running, sock: socket.socket) -> None:
    """Send a request that takes seconds, and wait until it is being computed."""
    sock.sendall(asked(LONG))
    deadline = time.monotonic() + 10
    while b"deploykit_requests_in_flight 2" not in server.ask("GET", "/metrics")[2]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_no_process_is_left(starting, number):
    server = starting()
    child = server.child()
    assert server.send(asked())[0] == 200
    assert server.stop(number) == 0
    assert server.said == []
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    with pytest.raises(ConnectionRefusedError):
        server.raw()


def test_a_request_in_flight_is_answered_and_new_ones_are_refused(starting):
    server = starting("--drain", 60)
    with server.raw(60) as sock:
        in_flight(server, sock)
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while True:
            try:
                server.raw().close()
            except (ConnectionRefusedError, ConnectionResetError):  # reset: it was queued when the port closed
                break
            assert time.monotonic() < deadline
        assert server.process.poll() is None
        status, headers, _ = answer(sock)
    assert (status, headers["connection"]) == (200, "close")
    assert server.process.wait(20) == 0


def test_what_takes_longer_than_the_drain_is_cut_and_said(starting):
    server = starting("--drain", 0.2)
    with server.raw(60) as sock:
        in_flight(server, sock)
        assert server.stop() == 4
        assert answer(sock)[0] == 0
    assert len(server.said) == 1
    assert server.said[0].endswith("requests in flight that were not answered within 0.2 s: 1")


def test_a_second_signal_ends_it_at_once(starting):
    server = starting("--drain", 60)
    with server.raw(60) as sock:
        in_flight(server, sock)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        began = time.monotonic()
        assert server.stop(signal.SIGINT) == -signal.SIGINT
        assert time.monotonic() - began < 2


def test_a_killed_child_is_replaced_under_load(starting):
    server = starting()
    stop, served, lost = threading.Event(), [], []

    def client(seed: int) -> None:
        endpoint = connect(server.url, "served", timeout_s=30)
        while not stop.is_set():
            try:
                endpoint.infer(feeds(seed=seed))
                served.append(time.monotonic())
            except WorkError as error:
                lost.append(error.code)
        endpoint.close()

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    before = server.child()
    os.kill(before, signal.SIGKILL)
    killed = time.monotonic()
    deadline = killed + 20
    while not any(moment > killed + 0.05 for moment in served) or server.child() == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join()
    assert max(served) > killed
    assert len(lost) <= 4, lost  # at most the request that each client had in flight; new connections waited
    assert set(lost) <= {"SERVER_UNREACHABLE"}
    assert b"deploykit_restarts_total 1" in server.ask("GET", "/metrics")[2]
    assert server.stop() == 0
    assert len(server.said) == 2
    assert "died of SIGKILL" in server.said[0]
    assert "answers again" in server.said[1]


def test_a_child_that_dies_again_and_again_is_given_up(starting):
    server = starting()
    for _ in range(4):
        deadline = time.monotonic() + 20
        while True:
            try:
                assert server.send(asked())[0] == 200
                break
            except (AssertionError, OSError):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        os.kill(server.child(), signal.SIGKILL)
    out, err = server.process.communicate(timeout=30)
    assert server.process.returncode == 4
    assert "error[WORKER_CRASHED]: onnx: died 4 times within 60 s" in err.splitlines()[-1]
    assert '"code": "WORKER_CRASHED"' in out


def test_the_child_dies_with_its_parent(starting):
    server = starting()
    child = server.child()
    server.process.kill()
    server.process.wait(10)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_servers_on_one_bundle(starting):
    first, second = starting("--model-name", "one"), starting("--model-name", "two", "--session", "threads=1")
    assert first.port != second.port
    body = wire.request(feeds(), binary=False).body
    answers = [s.ask("POST", f"/v2/models/{name}/infer", body) for s, name in ((first, "one"), (second, "two"))]
    assert [status for status, _, _ in answers] == [200, 200]
    assert [one.told["settings"] for one in (first, second)] == ["spinning=off", "threads=1,spinning=off"]
    assert first.ask("GET", "/v2/models/two")[0] == 404
    assert [first.stop(), second.stop()] == [0, 0]


def test_what_it_says_at_the_start(starting, served_bundle, cli):
    told = starting("--concurrency", 2, "--variant", "onnx").told
    assert (told["model"], told["variant"], told["provider"]) == ("served", "onnx", "CPUExecutionProvider")
    assert (told["concurrency"], told["choice"]) == (2, "it was asked for")
    argv = [sys.executable, "-P", "-m", "deploykit", "serve", str(served_bundle), "--port", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        process.terminate()
        out, err = process.communicate(timeout=30)
    assert line.startswith("http://127.0.0.1:")
    assert " answers as served: onnx on CPUExecutionProvider; try http://127.0.0.1:" in line
    assert (process.returncode, out, err) == (0, "", "")


def test_a_port_in_use(cli, served_bundle):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = cli("serve", served_bundle, "--port", taken.getsockname()[1])
    assert done.returncode == 4
    assert done.stderr.startswith("error[PORT_IN_USE]: 127.0.0.1:")
    assert done.stderr.count("\n") == 1


def token(folder: Path, text: str = "0123456789abcdef-token", mode: int = 0o600) -> Path:
    path = folder / "token"
    path.write_text(text + "\n")
    path.chmod(mode)
    return path


REFUSED = {
    "remote": (["--host", "0.0.0.0"], 2, "REMOTE_REFUSED"),
    "remote without a token": (["--host", "0.0.0.0", "--allow-remote"], 2, "REMOTE_REFUSED"),
    "no such address": (["--host", "no-such-host.invalid"], 2, "BAD_HOST"),
    "name": (["--model-name", "a/b"], 2, "BAD_NAME"),
    "variant": (["--variant", "other"], 2, "UNKNOWN_VARIANT"),
    "setting": (["--session", "threads=0"], 2, "BAD_SETTING"),
    "concurrency": (["--concurrency", 4, "--session", "binding=on"], 2, "BAD_SETTING"),
    "provider": (["--on", "cuda"], 5, "NOT_VERIFIED"),
    "provider that is not there": (["--on", "cuda", "--allow-unverified"], 4, "PROVIDER_FALLBACK"),
    "no token file": (["--token-file", "nowhere"], 2, "NOT_FOUND"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(cli, served_bundle, name):
    options, code, word = REFUSED[name]
    done = cli("serve", served_bundle, "--port", 0, *options)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1].startswith(f"error[{word}]: ")


def test_a_token_must_be_private_and_long(cli, served_bundle, tmp_path):
    for text, mode in (
        ("0123456789abcdef", 0o644),
        ("short", 0o600),
        ("with blanks in between it", 0o600),
        ("", 0o600),
    ):
        done = cli("serve", served_bundle, "--port", 0, "--token-file", token(tmp_path, text, mode))
        assert done.returncode == 2
        assert done.stderr.startswith("error[BAD_TOKEN]: --token-file token: ")
        assert "0123456789abcdef" not in done.stderr


def test_with_a_token_other_machines_may_ask(starting, tmp_path):
    server = starting("--host", "0.0.0.0", "--allow-remote", "--token-file", token(tmp_path))
    assert server.send(asked())[0] == 401
    right = {"Authorization": "Bearer 0123456789abcdef-token"}
    endpoint = connect(f"http://127.0.0.1:{server.port}", "served", headers=right)
    assert endpoint.infer(feeds())["y"].shape == (2, 3)
    endpoint.close()
    shown = (
        Path(f"/proc/{server.child()}/cmdline").read_bytes() + Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    )
    assert b"0123456789abcdef-token" not in shown


def test_a_bundle_that_was_tampered_with(cli, served_bundle, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(served_bundle, copy)
    file = copy / "variants/onnx/model.onnx"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    done = cli("serve", copy, "--port", 0)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith("error[TAMPERED]: copy/variants/onnx/model.onnx: ")


def test_what_verify_did_not_pass_is_refused(cli, starting, tmp_path):
    failed = bundle(tmp_path / "failed", verdict="fail")
    done = cli("serve", failed, "--port", 0)
    assert done.returncode == 5
    assert done.stderr.startswith("error[NOT_VERIFIED]: onnx: verify said fail")
    (failed / "reports/verify.json").write_text("no JSON")
    assert cli("serve", failed, "--port", 0).stderr.startswith("error[NOT_VERIFIED]: onnx: the bundle holds no report")
    assert starting("--allow-unverified", bundle=failed).send(asked())[0] == 200


def test_code_from_elsewhere_is_refused(cli, served_bundle, tmp_path):
    done = cli("serve", served_bundle, "--port", 0, "--variant", "torchscript", XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 5
    assert done.stderr.startswith("error[UNTRUSTED_CODE]: torchscript: ")


def test_what_cannot_be_opened_is_said_and_nothing_is_left(cli, served_bundle):
    done = cli("serve", served_bundle, "--port", 0, "--variant", "torchscript", "--trust-code")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("error[LOAD_ERROR]: ")


def test_several_connections_wait_while_it_is_replaced(starting):
    server = starting()
    os.kill(server.child(), signal.SIGKILL)
    with ExitStack() as stack:
        socks = [stack.enter_context(server.raw(30)) for _ in range(5)]
        for sock in socks:
            sock.sendall(asked())
        assert [answer(sock)[0] for sock in socks] == [200] * 5
    assert len(children(server.process.pid)) == 1
