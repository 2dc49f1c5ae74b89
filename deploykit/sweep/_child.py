"""One deploykit command in a process of its own, as a user would type it: its end, whatever it is, is data here."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNWIND_SECONDS = 15.0
"""How long a command may take to end its own children and to remove what it staged, after SIGTERM."""

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        exit_code: of the contract; 4 when it had none of its own to give.
        document: what it wrote as JSON; None where it ended without.
        code, message, hint: of its error; empty when it has a result.
    """

    exit_code: int
    document: dict[str, Any] | None
    code: str = ""
    message: str = ""
    hint: str = ""


class StoppedError(Exception):
    """The sweep was told to end; the command is gone."""


def call(
    words: list[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    log: Path,
    timeout_s: float,
    stopped: Callable[[], bool],
) -> Ended:
    """Run `deploykit WORDS --json -` and wait for its end.

    Args:
        words: the command and its options.
        cwd: its working folder.
        environment: all of its variables.
        log: what it says on stderr is appended here.
        timeout_s: wall time in seconds; then it is ended, and that is its result.
        stopped: asked five times a second; when true the command is ended.

    Raises:
        StoppedError: `stopped` said so.
        OSError: the log cannot be written, or no process can be started.
    """
    leash = [sys.executable, "-P", "-m", "deploykit.sweep._leashed", str(os.getpid())]
    with tempfile.TemporaryFile() as answer, log.open("ab") as said:
        said.write(f"$ deploykit {' '.join(words)}\n".encode())
        said.flush()
        began = said.tell()
        process = subprocess.Popen(
            [*leash, *words, "--json", "-"],
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=said,
            cwd=cwd,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C is for the sweep, which ends its commands in order
        )
        try:
            late = _wait(process, timeout_s, stopped)
        finally:
            end(process)
        if late:
            return Ended(4, None, "TIME_LIMIT", f"no end within {timeout_s:g} s", "raise task.timeout_s for it")
        answer.seek(0)
        return _ended(process.returncode, answer.read(), _last_line(log, began))


def end(process: subprocess.Popen[bytes]) -> None:
    """End a command: it unwinds after SIGTERM, or is killed with its group."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(UNWIND_SECONDS)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children die with it: see child.confine
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise


def _wait(process: subprocess.Popen[bytes], timeout_s: float, stopped: Callable[[], bool]) -> bool:
    """True when it did not end in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)
            return False
        if stopped():
            raise StoppedError
        if time.monotonic() > deadline:
            return True


def _ended(status: int, answer: bytes, last: str) -> Ended:
    """What an exit status and a JSON document on stdout say."""
    if status < 0:
        hint = "the system may have run out of memory" if -status == signal.SIGKILL else "see the log"
        message = f"the command died of {_signal_name(-status)} ({last or 'it said nothing'})"
        return Ended(4, None, "WORKER_CRASHED", message, hint)
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        message = f"exit status {status} without a result ({last or 'it said nothing'})"
        return Ended(status if status in {2, 4, 5, 6, 70} else 70, None, "INTERNAL", message, "see the log")
    error = document.get("error")
    if isinstance(error, dict):
        message = f"{error.get('subject', '')}: {error.get('message', '')}"
        return Ended(status, None, str(error.get("code", "")), message, str(error.get("hint", "")))
    return Ended(status, document)


def _last_line(log: Path, began: int) -> str:
    with log.open("rb") as stream:
        stream.seek(max(began, log.stat().st_size - 4000))
        lines = stream.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
