"""One process that has imported an engine and opened nothing: it forks workers, which need not import it again.

Started by `forks.py` with a Unix socket. It says that it is ready, or why it cannot be forked, and then answers
requests until the socket closes: for a fork come the ends of its pipes and its log; for a fork's exit status its id.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import os
import resource
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from deploykit import child
from deploykit.errors import UsageError

PAGE = resource.getpagesize()
"""Bytes in a page."""

MAX_REQUEST = 4096
"""Longest request or answer in bytes."""

_BEFORE = ("deploykit.steps.measure", "threadpoolctl")
"""Imported before the clock starts, as in a process of its own."""


@dataclass(frozen=True)
class Inherited:
    """What a fork has from its template, and would have had to do itself.

    Attributes:
        import_ms: processor time of the engine's import, milliseconds. Its wall time would tell of verify and of the
            other imports, which go on meanwhile.
        pages: address and length of what is resident of the engine's libraries and other files. The kernel gives a fork
            all private memory and none of these pages; it touches them, to hold what a process of its own would.
    """

    import_ms: float = 0.0
    pages: tuple[tuple[int, int], ...] = ()


inherited = Inherited()
"""Of this process; nothing where it is no fork."""


def resident_files() -> tuple[tuple[int, int], ...]:
    """Address and length of every run of resident, readable pages of files in this process.

    Raises:
        OSError: the system does not tell.
    """
    import numpy as np

    found: list[tuple[int, int]] = []
    with (
        Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as maps,
        Path("/proc/self/pagemap").open("rb", 0) as page,
    ):
        for line in list(maps):
            span, rights, _, _, inode, *_ = line.split()
            if inode == "0" or not rights.startswith("r"):
                continue
            start, end = (int(text, 16) for text in span.split("-"))
            page.seek(start // PAGE * 8)
            entries = np.frombuffer(page.read((end - start) // PAGE * 8), np.uint64)
            present = np.concatenate([[0], (entries >> np.uint64(63)).astype(np.int8), [0]])
            edges = np.flatnonzero(np.diff(present)).reshape(-1, 2) * PAGE
            found += [(start + int(low), int(high - low)) for low, high in edges]
    return tuple(found)


def _touch(pages: tuple[tuple[int, int], ...]) -> None:
    """Read a byte of every page."""
    for start, length in pages:
        bytes(memoryview((ctypes.c_char * length).from_address(start)).cast("B")[::PAGE])


def main(fd: int, imports: str, limits: dict[str, int]) -> None:
    """Import the modules that `imports` names, comma between them, then fork on request until the other end closes."""
    global inherited  # noqa: PLW0603 - it describes the process
    child.confine(limits)
    parent = socket.socket(fileno=fd)
    try:
        inherited = _imported(imports.split(","))
        reason = _unfit()
    except Exception as error:  # noqa: BLE001 - whatever an import raises: a fresh worker will meet it again
        reason = f"{type(error).__name__}: {error}"
    _say(parent, {"unfit": reason[:500]} if reason else {"import_ms": inherited.import_ms})
    while not reason:
        body, fds, _, _ = socket.recv_fds(parent, MAX_REQUEST, 3)
        if not body:
            return
        request = json.loads(body)
        if "wait" in request:
            _say(parent, {"status": os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])})
        else:
            _fork(parent, fds, limits)
            for one in fds:
                os.close(one)


def _imported(names: list[str]) -> Inherited:
    """Import what opening an artifact would import; what is not there is left for the fork to meet."""
    for name in _BEFORE:
        importlib.import_module(name)
    started = time.process_time()
    for name in names:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
    return Inherited((time.process_time() - started) * 1e3, resident_files())


def _unfit() -> str:
    """Why this process must not be forked: a thread is not copied, and may hold a lock forever in the copy.

    OpenBLAS, under numpy, starts its pool when it is imported, and ends it before each fork; the pool comes back when
    it is next used. The first fork is for that alone.
    """
    gc.collect()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    return f"{threads - 1} threads are alive after the import" if threads > 1 else ""


def _fork(parent: socket.socket, fds: list[int], limits: dict[str, int]) -> None:
    """Make one fork; it tells its process id itself, when it has a group of its own and can be killed."""
    template = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        _say(parent, {"refused": str(error)})
        return
    if pid == 0:
        try:
            _serve(parent, fds, limits, template)
        finally:  # nothing of the template's is to be tidied up here
            os._exit(1)


def _serve(parent: socket.socket, fds: list[int], limits: dict[str, int], template: int) -> NoReturn:
    os.setsid()
    child.confine(limits)
    if os.getppid() != template:
        os._exit(1)
    to_read, to_write, log = fds
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    _touch(inherited.pages)
    _say(parent, {"pid": os.getpid()})
    parent.close()
    status = 0
    try:
        child.serve(to_read, to_write, limits)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does at its end
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _say(parent: socket.socket, message: dict[str, Any]) -> None:
    parent.sendall(json.dumps(message).encode())


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(str(UsageError("deploykit.template", "not a command for people", "use deploykit")))
    # steps read `inherited` of the module by its name, and this one is called __main__
    importlib.import_module("deploykit.template").main(int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
