"""Servers are started, awaited and ended whole: daemons, own sessions, and when the test process itself is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import running as module
from tests.servers.environments import ROOT
from tests.servers.running import assert_gone, clean_environment, end, free_port, marked, running

FOUND = module.namespaces()
WAYS = {
    "root": ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
    "user": ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"),
    "none": (),
}
"""The three ways to hold a server together; a machine offers the last, and some of the others."""
DAEMON = "import subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True)"


def offered(way: str) -> bool:
    argv = [*WAYS[way], "--net", "true"]
    return way == "none" or (bool(FOUND) and subprocess.run(argv, capture_output=True, check=False).returncode == 0)


@pytest.fixture(params=WAYS)
def way(request, monkeypatch) -> str:
    if not offered(request.param):
        pytest.skip(f"this machine does not offer the way {request.param!r}")
    monkeypatch.setattr(module, "namespaces", lambda: WAYS[request.param])
    return request.param


def web_server(port: int, host: str = "127.0.0.1", *, before: str = "") -> list[object]:
    """A real HTTP server of the standard library, after the statement `before`."""
    program = (
        f"{before}\nfrom http.server import test, SimpleHTTPRequestHandler as H\ntest(H, port={port}, bind={host!r})"
    )
    return [sys.executable, "-c", program]


def answers(port: int) -> Callable[[], bool]:
    def ready() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
            return answer.status == 200

    return ready


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_server_answers_and_is_gone_afterwards_with_its_daemons(way, tmp_path):
    port = free_port()
    argv = web_server(port, before=DAEMON)
    with running(argv, ready=answers(port), cwd=tmp_path, log=tmp_path / "log") as server:
        names = {process.name() for process in marked(server.mark)}
        assert "sleep" in names  # in a session of its own, child of nobody's group
        assert server.own().cmdline()[-1] == argv[-1]
        assert server.own().cwd() == str(tmp_path)
    assert not marked(server.mark)
    assert server.process.returncode is not None  # reaped
    assert refuses(port)
    assert "GET / HTTP/1.1" in server.tail()


def test_a_failing_test_leaves_nothing(way, tmp_path):
    port = free_port()
    with (
        pytest.raises(ZeroDivisionError),
        running(web_server(port, before=DAEMON), ready=answers(port), cwd=tmp_path, log=tmp_path / "log") as server,
    ):
        raise ZeroDivisionError
    assert not marked(server.mark)


def test_a_server_that_ends_early_says_its_last_lines(way, tmp_path):
    program = "import sys; [print('line', n) for n in range(100)]; sys.exit('no model here')"
    with (
        pytest.raises(AssertionError, match="ended with 1 before it was ready") as failure,
        running([sys.executable, "-c", program], ready=lambda: False, cwd=tmp_path, log=tmp_path / "log"),
    ):
        pytest.fail("it was never ready")
    said = str(failure.value).splitlines()
    assert "no model here" in said
    assert "line 99" in said
    assert len(said) == 41  # what happened, and 40 lines


def test_a_server_that_is_never_ready_is_given_up_and_ended(way, tmp_path, monkeypatch):
    seen = []
    start = module._start
    monkeypatch.setattr(module, "_start", lambda *given: seen.append(start(*given)) or seen[0])
    program = f"{DAEMON}; import time; print('loading', flush=True); time.sleep(600)"
    with (
        pytest.raises(AssertionError, match=r"not ready in 1\.5 s:\nloading"),
        running(
            [sys.executable, "-c", program], ready=lambda: False, cwd=tmp_path, log=tmp_path / "log", timeout_s=1.5
        ),
    ):
        pytest.fail("it was never ready")
    assert not marked(seen[0].mark)


@pytest.mark.parametrize("delay_s", [0.0, 0.002, 0.005, 0.01, 0.02, 0.04])
def test_an_interrupt_at_any_moment_of_the_start_leaves_nothing(way, tmp_path, delay_s):
    """The namespace may not be open yet, or its first process may not have asked for the parent-death signal."""

    def ready() -> bool:
        time.sleep(delay_s)
        raise KeyboardInterrupt  # as any error that is not an OSError: it is not taken for "not yet"

    argv = [sys.executable, "-c", f"{DAEMON}; import time; time.sleep(600)"]
    with (
        pytest.raises(KeyboardInterrupt),
        running(argv, ready=ready, cwd=tmp_path, log=tmp_path / "log"),  # fails where a process is left
    ):
        pytest.fail("it was never ready")


@pytest.mark.skipif(not FOUND, reason="needs namespaces")
def test_killing_the_test_process_ends_the_server(tmp_path):
    port = free_port()
    program = f"""
import sys, time
from pathlib import Path
from tests.servers.running import running
from tests.servers.test_running import answers, web_server, DAEMON
log = Path({str(tmp_path / "log")!r})
with running(web_server({port}, before=DAEMON), ready=answers({port}), cwd=log.parent, log=log) as server:
    print(server.mark, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        mark = tests.stdout.readline().strip()
        assert len(marked(mark)) >= 3
        os.kill(tests.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


@pytest.mark.parametrize("way", ["root", "user"], indirect=True)
def test_a_server_on_all_interfaces_is_reached_through_loopback_only(way, tmp_path):
    port = free_port()
    argv = web_server(port, "0.0.0.0")
    (tmp_path / "large").write_bytes(content := os.urandom(3_000_000))
    with running(argv, ready=answers(port), cwd=tmp_path, log=tmp_path / "log", own_network=[port]) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/large", timeout=10) as answer:
            assert answer.read() == content
        listening = [
            line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[3] == "0A"
        ]
        assert f"00000000:{port:04X}" not in listening
        assert f"0100007F:{port:04X}" in listening
        inside = Path(f"/proc/{server.own().pid}/net/tcp").read_text()
        assert f"00000000:{port:04X}" in inside
    assert refuses(port)


@pytest.mark.parametrize("way", ["root", "user"], indirect=True)
def test_what_a_killed_server_shared_in_memory_ends_with_it(way, tmp_path):
    port = free_port()
    before = (
        "from multiprocessing.shared_memory import SharedMemory as S; m = S('deploykit_left', create=True, size=10)"
    )
    with running(web_server(port, before=before), ready=answers(port), cwd=tmp_path, log=tmp_path / "log") as server:
        assert Path(f"/proc/{server.own().pid}/root/dev/shm/deploykit_left").exists()
        assert not Path("/dev/shm/deploykit_left").exists()


@pytest.mark.parametrize("way", ["root", "user"], indirect=True)
def test_orphans_are_reaped_while_the_server_runs(way, tmp_path):
    port = free_port()
    before = "import subprocess; subprocess.run(['sh', '-c', 'sleep 0.2 &'])"
    with running(web_server(port, before=before), ready=answers(port), cwd=tmp_path, log=tmp_path / "log") as server:
        time.sleep(0.5)
        first = server.own().parent()
        assert [process.pid for process in first.children()] == [server.own().pid]


def test_a_signal_to_the_server_itself_ends_it_in_its_own_way(way, tmp_path):
    port = free_port()
    before = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: (print('goodbye', flush=True), sys.exit(7)))"
    with running(web_server(port, before=before), ready=answers(port), cwd=tmp_path, log=tmp_path / "log") as server:
        server.own().send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 7
    assert "goodbye" in server.tail()


def test_no_namespace_skips_and_fails_in_ci(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "namespaces", lambda: ())
    for expected, outcome in ((False, pytest.skip.Exception), (True, pytest.fail.Exception)):
        monkeypatch.setattr(module, "expected_here", lambda expected=expected: expected)
        with (
            pytest.raises(outcome, match="network namespace"),
            running(["true"], ready=bool, cwd=tmp_path, log=tmp_path / "log", own_network=[free_port()]),
        ):
            pytest.fail("it was never started")


def test_what_is_left_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.2)
    server = module._start([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path, tmp_path / "log", {}, [])
    try:
        while not marked(server.mark):
            time.sleep(0.01)
        with pytest.raises(AssertionError, match=f"outlive their server: .*{server.process.pid}"):
            assert_gone(server)
    finally:
        monkeypatch.undo()
        end(server)


def test_the_environment_of_a_server_has_nothing_of_the_tests(monkeypatch):
    for name in ("PYTHONPATH", "PYTHONWARNINGS", "VIRTUAL_ENV", "COVERAGE_PROCESS_START", "PYTEST_CURRENT_TEST"):
        monkeypatch.setenv(name, "x")
    found = clean_environment(PYTHONPATH="mine", OMP_NUM_THREADS="1")
    assert found["PYTHONPATH"] == "mine"
    assert found["OMP_NUM_THREADS"] == "1"
    assert found["PATH"] == os.environ["PATH"]
    assert not {"VIRTUAL_ENV", "COVERAGE_PROCESS_START", "PYTHONWARNINGS", "PYTEST_CURRENT_TEST"} & set(found)


def test_a_free_port_can_be_bound_now():
    ports = {free_port() for _ in range(5)}
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()
