"""Start a real server for a test so that nothing of it outlives the test.

Where namespaces can be had (root, or unprivileged user namespaces) the server runs in a process namespace of its own:
its first process is killed, and the kernel ends every other, daemons too. Elsewhere it runs in a session of its own,
and every process that carries its mark in the environment, or descends from it, is killed until none is left. If the
test process itself is killed, the server ends too: a pipe from it breaks, or the parent-death signal comes.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.servers.environments import expected_here

INSIDE = Path(__file__).with_name("inside.py")
MARK = "DEPLOYKIT_TEST_SERVER"
"""Environment variable whose value is unique to one server and inherited by all that it starts."""
GRACE_SECONDS = 5.0
"""How long killed processes may take to vanish."""
DROPPED = ("PYTHON", "VIRTUAL_ENV", "COVERAGE", "COV_CORE", "PYTEST")
"""Beginnings of variables that belong to the test process, not to another environment's Python."""


@dataclass(frozen=True)
class Server:
    """A running server: its outermost process, its mark, and where its output goes."""

    process: subprocess.Popen[bytes]
    mark: str
    log: Path

    def own(self) -> psutil.Process:
        """The server's own process, as this process sees it: namespaces number it differently inside."""
        process = psutil.Process(self.process.pid)
        for _ in range(2 if namespaces() else 0):  # what opens the namespaces, and their first process
            process = process.children()[0]
        return process

    def tail(self, lines: int = 40) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment(**more: str) -> dict[str, str]:
    """The environment for a server: this process's, without what belongs to the tests' Python, with `more`.

    A Python server writes its output at once: the last lines of a log are what happened last.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED)}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}


@contextlib.contextmanager
def running(
    argv: Sequence[object],
    *,
    ready: Callable[[], bool],
    cwd: Path,
    log: Path,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
    own_network: Sequence[int] = (),
) -> Iterator[Server]:
    """Start a server, wait until it is ready, and leave nothing of it behind.

    Args:
        argv: The command.
        ready: Asked every 0.1 s; a false answer, OSError or HTTPException means "not yet".
        cwd: The server's working folder.
        log: File that takes its standard output and standard error.
        env: Its environment; None: `clean_environment()`.
        timeout_s: Seconds until `ready` has to be true.
        own_network: Ports of a server that insists on all interfaces: it runs in a network namespace of its own, and
            127.0.0.1 with the same port leads in from here. Skips the test where there are no namespaces.

    Raises:
        AssertionError: It ended early or was not ready in time (with the last 40 lines of its log), or something of it
            could not be ended.
    """
    with contextlib.ExitStack() as stack:
        doors = [stack.enter_context(_listener(port)) for port in own_network]
        server = _start([str(word) for word in argv], cwd, log, clean_environment() if env is None else env, doors)
        try:
            for door in doors:
                door.close()  # the server's side holds them now: when it ends, connections are refused
            _wait(server, ready, timeout_s)
            yield server
        finally:
            end(server)


def end(server: Server) -> None:
    """Kill all of a server and reap it; returns when nothing of it is left."""
    if first := _first(server):
        first.kill()  # the first process of a namespace: the kernel ends the others before it can be reaped
    else:  # no namespace, or interrupted while it was being opened
        _kill_marked(server)
    try:
        server.process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait(GRACE_SECONDS)
    if server.process.stdin:
        server.process.stdin.close()
    assert_gone(server)


def assert_gone(server: Server) -> None:
    """Fail unless no process of this server is there any more.

    Raises:
        AssertionError: Names the processes that are left.
    """
    deadline = time.monotonic() + GRACE_SECONDS
    while left := marked(server.mark):
        if time.monotonic() > deadline:
            raise AssertionError(f"processes that outlive their server: {[process.pid for process in left]}")
        time.sleep(0.05)


def marked(mark: str) -> list[psutil.Process]:
    """Living processes that carry this mark in the environment they were started with."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(psutil.Process(int(entry.name)))
    return found


@functools.cache
def namespaces() -> tuple[str, ...]:
    """The command that opens namespaces of processes and mounts here; empty where there is none."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return ()
    for rights in ((), ("--user", "--map-root-user")):
        command = ("unshare", *rights, "--pid", "--fork", "--mount-proc", "--kill-child")
        if subprocess.run([*command, "--net", "true"], capture_output=True, check=False).returncode == 0:
            return command
    return ()


@contextlib.contextmanager
def _listener(port: int) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
        yield listener


def _start(argv: list[str], cwd: Path, log: Path, env: Mapping[str, str], doors: list[socket.socket]) -> Server:
    opening = list(namespaces())
    if doors and not opening:
        _no_namespaces()
    words = [f"{door.fileno()}:{door.getsockname()[1]}" for door in doors]
    wrapped = [*opening, *(["--net"] if doors else []), sys.executable, "-I", "-S", str(INSIDE), *words, "--", *argv]
    mark = uuid.uuid4().hex
    with log.open("wb") as output:
        process = subprocess.Popen(
            wrapped if opening else [*_dies_with_us(), *argv],
            cwd=cwd,
            env={**env, MARK: mark},
            stdin=subprocess.PIPE if opening else subprocess.DEVNULL,  # the lifeline that inside.py watches
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[door.fileno() for door in doors],
        )
    return Server(process, mark, log)


def _no_namespaces() -> None:
    """Ubuntu's kernels refuse them to ordinary users unless kernel.apparmor_restrict_unprivileged_userns is 0."""
    reason = "a server that listens on all interfaces needs a network namespace, and there is none here"
    if expected_here():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _dies_with_us() -> list[str]:
    """`setpriv` sets the parent-death signal and becomes the command; a function run after fork would not be safe."""
    return ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []


def _wait(server: Server, ready: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        if (code := server.process.poll()) is not None:
            raise AssertionError(f"the server ended with {code} before it was ready:\n{server.tail()}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ready():
                return
        if time.monotonic() > deadline:
            raise AssertionError(f"the server was not ready in {timeout_s:g} s:\n{server.tail()}")
        time.sleep(0.1)


def _first(server: Server) -> psutil.Process | None:
    """The first process of the server's namespace: the only child of the command that opened it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return next(iter(psutil.Process(server.process.pid).children()), None) if namespaces() else None
    return None


def _kill_marked(server: Server) -> None:
    """The descendants, the group, and whatever carries the mark, until nothing new appears."""
    deadline = time.monotonic() + GRACE_SECONDS
    with contextlib.suppress(psutil.NoSuchProcess):
        descendants = psutil.Process(server.process.pid).children(recursive=True)
        for process in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(server.process.pid, signal.SIGKILL)
    while (left := marked(server.mark)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        server.process.poll()
