"""The far end of `isolation.py`: reads a step, runs it, answers. Also the one edge where foreign errors get a CODE.

Started as `python -P -m deploykit.child READ_FD WRITE_FD LIMITS`. A message is a 4-byte big-endian length and that
many bytes of JSON: `{"step", "arguments"}` in; `{"note"}` any number of times, then `{"result"}` or `{"error"}` out.
"""

from __future__ import annotations

import ctypes
import importlib
import inspect
import json
import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any

from deploykit.errors import DeploykitError, InternalError, UsageError, WorkError, from_os_error
from deploykit.foreign import brief

MAX_MESSAGE = 64 << 20
"""Longest message in bytes, either way: tensors travel as files."""

_PR_SET_PDEATHSIG = 1
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "std::bad_alloc",
    "bad allocation",
    "Failed to allocate memory",
    "out of memory",
)
_STEP_CODE = {
    "exporting": "EXPORT_ERROR",
    "transforming": "EXPORT_ERROR",
    "sessions": "RUN_ERROR",
    "training": "TRAIN_ERROR",
}


def run_step(step: str, arguments: dict[str, Any], note: Callable[[str], None]) -> Any:
    """Run `module:function` of `deploykit.steps` and give its result.

    Raises:
        DeploykitError: whatever went wrong; a foreign exception is its cause.
    """
    module, _, name = step.partition(":")
    try:
        function = getattr(importlib.import_module(f"deploykit.steps.{module}"), name)
        if "note" in inspect.signature(function).parameters:
            arguments = {**arguments, "note": note}
        return function(**arguments)
    except DeploykitError:
        raise
    except OSError as error:
        raise from_os_error(error, error.filename or step) from error
    except MemoryError as error:
        raise _memory(step, "MemoryError") from error
    except Exception as error:
        raise _foreign(step, module, error) from error


def _foreign(step: str, module: str, error: Exception) -> DeploykitError:
    text = brief(str(error)) or type(error).__name__
    if any(sign in text for sign in _OUT_OF_MEMORY):
        return _memory(step, text)
    if isinstance(error, TypeError | AttributeError | KeyError) and _raised_here(error):
        return InternalError(step, f"{type(error).__name__}: {text}", "please report this with the output of --debug")
    return WorkError(
        step, f"{type(error).__name__}: {text}", "see the whole error with --debug", _STEP_CODE.get(module)
    )


def _memory(step: str, text: str) -> DeploykitError:
    return WorkError(step, f"out of memory: {text}", "raise the limit with DEPLOYKIT_MEMORY_GB", "MEMORY_LIMIT")


def _raised_here(error: Exception) -> bool:
    """Whether the innermost frame is deploykit's own: then it is our bug and not the model's."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and f"{os.sep}deploykit{os.sep}steps{os.sep}" in frames[-1].filename


def error_data(error: DeploykitError) -> dict[str, Any]:
    """An error as JSON data; `isolation.py` rebuilds it."""
    return {
        "exit_code": error.exit_code,
        "code": error.code,
        "subject": error.subject,
        "message": error.message,
        "hint": error.hint,
        "detail": "".join(traceback.format_exception(error))[-20_000:],
    }


def send(fd: int, message: dict[str, Any]) -> None:
    """Write one message."""
    body = json.dumps(message, allow_nan=False).encode()
    if len(body) > MAX_MESSAGE:
        raise InternalError("message", f"{len(body)} bytes are too many", "please report this")
    view = memoryview(struct.pack(">I", len(body)) + body)
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int) -> dict[str, Any] | None:
    """Read one message; None when the other end is gone."""
    head = _read(fd, 4)
    if head is None:
        return None
    (length,) = struct.unpack(">I", head)
    body = _read(fd, length) if length <= MAX_MESSAGE else None
    return None if body is None else json.loads(body)


def _read(fd: int, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        part = os.read(fd, count - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


def confine(limits: dict[str, int]) -> None:
    """Die with the parent, and never take more memory or disk than allowed.

    RLIMIT_DATA counts private writable memory: unlike RLIMIT_AS it leaves alone the gigabytes of address space that a
    CUDA build of torch maps and never touches.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # the parent died before prctl took hold
            sys.exit(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file over the limit is an OSError (EFBIG), not a death
    for name, kind in (("memory_bytes", resource.RLIMIT_DATA), ("file_bytes", resource.RLIMIT_FSIZE)):
        if limits.get(name):
            hard = resource.getrlimit(kind)[1]
            value = limits[name] if hard == resource.RLIM_INFINITY else min(limits[name], hard)
            resource.setrlimit(kind, (value, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _allow_cpu(seconds: int) -> None:
    """Give the coming step `seconds` of CPU time on top of what the process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    wanted = int(usage.ru_utime + usage.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def main(read_fd: int, write_fd: int, limits: dict[str, int]) -> None:
    """Be a child: confined, serving steps until the parent closes its end."""
    confine(limits)
    serve(read_fd, write_fd, limits)


def serve(read_fd: int, write_fd: int, limits: dict[str, int]) -> None:
    """Answer requests until the parent closes its end."""
    while (request := receive(read_fd)) is not None:
        _allow_cpu(limits["cpu_s"])
        try:
            answer = run_step(request["step"], request["arguments"], lambda text: send(write_fd, {"note": text}))
            send(write_fd, {"result": answer})
        except DeploykitError as error:
            send(write_fd, {"error": error_data(error)})
        except (TypeError, ValueError) as error:  # the result was no JSON
            wrong = InternalError(request["step"], f"cannot answer: {error}", "please report this")
            send(write_fd, {"error": error_data(wrong)})


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(str(UsageError("deploykit.child", "not a command for people", "use deploykit")))
    main(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
