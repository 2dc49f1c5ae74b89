"""Every error deploykit raises on purpose, with its exit code and stable CODE.

    DeploykitError
    ├── UsageError      2   the command line, an option or a configuration is wrong
    ├── WorkError       4   export, load or run failed; a worker crashed or hit a limit; the reference is invalid
    ├── RefusedError    5   malformed, corrupt, tampered with, or able to run code and not trusted
    ├── StorageError    6   disk full, read-only, no permission, locked by another run
    └── InternalError  70   a bug in deploykit

A gate that says no (exit 1) or cannot decide (exit 3) is a result, not an error: see `results.py`.
Foreign exceptions become one of these at one edge each: `from_os_error` for files, `isolation.py` for
everything a model library raises in a child process.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from typing import ClassVar

LINE_LIMIT = 400
"""Longest error line in characters; what does not fit is cut in the middle of the message."""

GRAVITY = (70, 2, 6, 5, 4, 1, 3, 0)
"""Exit codes, gravest first: when several variants end differently, the first one present wins."""


class DeploykitError(Exception):
    """An error with a place in the exit-code table; `str()` gives its one line."""

    exit_code: ClassVar[int] = 70
    default_code: ClassVar[str] = "INTERNAL"

    def __init__(self, subject: str, message: str, hint: str, code: str | None = None) -> None:
        self.subject = subject
        self.message = message
        self.hint = hint
        self.code = code or self.default_code
        self.detail = ""  # a traceback or a log, for --debug only
        super().__init__(subject, message, hint, self.code)

    def __str__(self) -> str:
        head = f"error[{self.code}]: {escape(self.subject, 120)}: "
        tail = f"; hint: {escape(self.hint, 160)}"
        return head + escape(self.message, LINE_LIMIT - len(head) - len(tail)) + tail


class UsageError(DeploykitError):
    """The request itself is wrong; nothing was started."""

    exit_code = 2
    default_code = "USAGE"


class WorkError(DeploykitError):
    """The request is fine and could not be carried out."""

    exit_code = 4
    default_code = "RUN_ERROR"


class RefusedError(DeploykitError):
    """An input that deploykit will not touch."""

    exit_code = 5
    default_code = "MALFORMED"


class StorageError(DeploykitError):
    """The file system said no."""

    exit_code = 6
    default_code = "STORAGE"


class InternalError(DeploykitError):
    """deploykit broke one of its own promises."""


KINDS: dict[int, type[DeploykitError]] = {
    kind.exit_code: kind for kind in (UsageError, WorkError, RefusedError, StorageError, InternalError)
}
"""Exit code to class, to rebuild an error that a child process reported."""

_STORAGE = {
    errno.ENOSPC: ("DISK_FULL", "the disk is full", "free some space and run the command again"),
    errno.EDQUOT: ("DISK_FULL", "the disk quota is used up", "free some space and run the command again"),
    errno.EFBIG: ("DISK_FULL", "the file grew over its size limit", "raise the limit or write a smaller artifact"),
    errno.EROFS: ("READ_ONLY", "the file system is read-only", "choose another output directory with -o"),
    errno.EACCES: ("PERMISSION", "permission denied", "check the owner and mode, or choose another path"),
    errno.EPERM: ("PERMISSION", "permission denied", "check the owner and mode, or choose another path"),
}


def escape(text: str, limit: int | None = None) -> str:
    """`text` on one line, unprintable characters escaped, shortened to `limit` characters with `…` in the middle."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split(" ")))
    if limit is not None and len(plain) > limit:
        keep = max(limit - 1, 2)
        plain = plain[: keep - keep // 3] + "…" + plain[len(plain) - keep // 3 :]
    return plain


def from_os_error(error: OSError, subject: str) -> DeploykitError:
    """The deploykit error for a failed file operation on `subject`."""
    if isinstance(error, FileNotFoundError):
        return UsageError(subject, "no such file or directory", "check the path", "NOT_FOUND")
    if isinstance(error, IsADirectoryError | NotADirectoryError) or error.errno in {errno.ENAMETOOLONG, errno.ELOOP}:
        return UsageError(subject, (error.strerror or "wrong kind of path").lower(), "check the path", "NOT_FOUND")
    code, message, hint = _STORAGE.get(
        error.errno or 0, ("STORAGE", (error.strerror or str(error)).lower(), "check the file system")
    )
    return StorageError(subject, message, hint, code)


def from_os_text(error: Exception, subject: str) -> DeploykitError:
    """The same for an exception that carries the system's error number in its text only, as safetensors' does."""
    if isinstance(error, OSError):
        return from_os_error(error, subject)
    found = re.search(r"os error (\d+)", str(error))
    # OSError picks its own subclass from the number
    plain = OSError(int(found[1]), os.strerror(int(found[1]))) if found else OSError(str(error))
    return from_os_error(plain, subject)


def gravest(codes: Iterable[int]) -> int:
    """The exit code that stands for all of `codes` (0 when there are none)."""
    present = set(codes)
    return next((code for code in GRAVITY if code in present), 70 if present else 0)
