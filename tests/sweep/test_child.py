"""A command's end, whatever it is, is data: real processes that crash, hang, talk nonsense, and lose their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from deploykit.sweep import _child
from deploykit.sweep._child import StoppedError, call

SITE = """
import os, signal, sys, time
if "deploykit" in sys.orig_argv:
    open(os.environ["PIDS"], "a").write(f"{os.getpid()}\\n")
    exec(os.environ["AS_IF"])
"""


@pytest.fixture
def started(tmp_path):
    """Runs a command in a Python that first does what it is told; gives the processes that were there."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    log, pids = tmp_path / "log", tmp_path / "pids"

    def run(words, as_if="", timeout_s=60.0, stopped=lambda: False):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "AS_IF": as_if, "PIDS": str(pids)}
        return call(words, cwd=tmp_path, environment=environment, log=log, timeout_s=timeout_s, stopped=stopped)

    yield run
    assert [pid for pid in map(int, pids.read_text().split()) if psutil.pid_exists(pid)] == []


def test_a_result_is_its_document(started, made, tmp_path):
    ended = started(["inspect", str(made)])
    assert (ended.exit_code, ended.code) == (0, "")
    assert ended.document["name"] == "made"
    assert (tmp_path / "log").read_text().startswith(f"$ deploykit inspect {made}\n")


def test_an_error_keeps_its_code_and_hint(started):
    ended = started(["verify", "nowhere"])
    assert (ended.exit_code, ended.document) == (2, None)
    assert ended.code in {"NOT_FOUND", "NOT_A_BUNDLE"}
    assert "nowhere" in ended.message
    assert ended.hint


@pytest.mark.parametrize(("number", "hint"), [(signal.SIGSEGV, "log"), (signal.SIGKILL, "memory")])
def test_a_crash_is_named_by_its_signal(started, number, hint):
    ended = started(
        ["doctor"], f"print('last words', file=sys.stderr, flush=True); os.kill(os.getpid(), {int(number)})"
    )
    assert (ended.exit_code, ended.code) == (4, "WORKER_CRASHED")
    assert signal.Signals(number).name in ended.message
    assert "last words" in ended.message
    assert hint in ended.hint


@pytest.mark.parametrize("first", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN); "])
def test_a_hang_ends_in_time_also_when_it_will_not_listen(started, monkeypatch, first):
    monkeypatch.setattr(_child, "UNWIND_SECONDS", 0.5)
    ended = started(["doctor"], first + "time.sleep(60)", timeout_s=1.5)
    assert (ended.exit_code, ended.code) == (4, "TIME_LIMIT")
    assert "1.5 s" in ended.message


@pytest.mark.parametrize(
    ("as_if", "code"),
    [("print('nonsense'); os._exit(0)", 70), ("os._exit(0)", 70), ("os._exit(3)", 70), ("os._exit(6)", 6)],
)
def test_an_end_without_a_result_is_an_error(started, as_if, code):
    ended = started(["doctor"], f"import os; {as_if.replace('os._exit', 'sys.stdout.flush(); os._exit')}")
    assert (ended.exit_code, ended.code, ended.document) == (code, "INTERNAL", None)


def test_a_sweep_that_stops_ends_its_commands(started):
    clock = time.monotonic()
    with pytest.raises(StoppedError):
        started(["doctor"], "time.sleep(60)", stopped=lambda: time.monotonic() - clock > 2)
    assert time.monotonic() - clock < 20


PARENT = """
import os, sys
from pathlib import Path
from deploykit.sweep._child import call
call(["doctor"], cwd=Path("."), environment=os.environ, log=Path("log"), timeout_s=60, stopped=lambda: False)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_a_killed_parent_takes_its_command_along(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SITE)
    pids = tmp_path / "pids"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "AS_IF": "time.sleep(60)", "PIDS": str(pids)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=tmp_path, env=environment)
    try:
        _until(lambda: pids.exists() and pids.read_text().endswith("\n"))
    finally:
        parent.kill()
        parent.wait()
    (child,) = map(int, pids.read_text().split())
    _until(lambda: not psutil.pid_exists(child) or Path(f"/proc/{child}/stat").read_text().split()[2] == "Z")


def _until(done):
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)
