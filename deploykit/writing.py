"""Files that go where the user says: whole or not at all, and whether they can be written is found out before the work.

A link is followed and stays. What is no regular file (`/dev/stdout`, a pipe) is written as it is, never replaced.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from deploykit.errors import from_os_error

_NOT_REPLACEABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EINVAL}
"""How the system says no to another file in this one's place, though it may be written: its directory takes no file,
it is a mount of its own (EBUSY, as containers have them), or its owner cannot be given to another file."""


def check_file(path: Path) -> None:
    """Find out before the work, not after it, that `path` could not be written; what is there stays as it is.

    Raises:
        UsageError: it is a directory, or its directory does not exist.
        StorageError: it may not be written, or no file can be made there.
    """
    try:
        if _mode(path) is None:
            _probe(Path(os.path.realpath(path)).parent)
    except OSError as error:
        raise from_os_error(error, str(path)) from error


def make_folder(folder: Path) -> None:
    """Make a directory with its parents where there is none, and find out whether it takes files.

    Raises:
        OSError: as the system says it; callers know what the directory is for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _probe(folder)


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data`: a reader sees the old file or the whole new one, and a failure leaves the old one.

    A file that is there keeps its mode and owner, a new one is as the umask says. Only where the system lets a file be
    written and not replaced (see `_NOT_REPLACEABLE`) is it written in place, with half a file for a moment.

    Raises:
        UsageError: it is a directory, or its directory does not exist.
        StorageError: it cannot be written.
    """
    try:
        mode = _mode(path)
        if mode is None or (stat.S_ISREG(mode) and _descriptor(path) is None):
            _write_file(Path(os.path.realpath(path)), data)
        else:
            with _opened(path) as stream:
                stream.write(data)
    except OSError as error:
        raise from_os_error(error, str(path)) from error


def sync(path: Path) -> None:
    """Wait until a file, or what a directory says of its files, is on the disk.

    Raises:
        OSError: the disk is full or broken, or the file system cannot do that.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _probe(folder: Path) -> None:
    """Making a file is the one question that the system answers truly: modes say nothing of read-only mounts."""
    with tempfile.TemporaryFile(dir=folder):
        pass


def _mode(path: Path) -> int | None:
    """What kind of file is there; None where there is none.

    Raises:
        OSError: it is a directory or a circle of links, or it may not be written: then it is not replaced either.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISREG(mode) and _descriptor(path) is None:
        os.close(os.open(path, os.O_WRONLY))
    elif _descriptor(path) is None and not os.access(path, os.W_OK):  # opening a pipe would wait for its reader
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return mode


def _descriptor(path: Path) -> int | None:
    """The open file of this process that an existing `path` means (`/dev/stdout`, `/dev/fd/3`), else None."""
    own = Path(f"/proc/{os.getpid()}")
    while True:
        folder = Path(os.path.realpath(path.parent))
        if folder.name == "fd" and folder.is_relative_to(own):
            return int(path.name)
        if not path.is_symlink():
            return None
        path = folder / path.readlink()


def _opened(path: Path) -> BinaryIO:
    """A descriptor is written on from where it stands: opened by its name, a file behind it would be emptied."""
    own = _descriptor(path)
    return path.open("wb") if own is None else os.fdopen(os.dup(own), "wb")


def _write_file(place: Path, data: bytes) -> None:
    try:
        _replace(place, data)
    except OSError as error:
        if error.errno not in _NOT_REPLACEABLE or not place.is_file():
            raise
        with place.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())


def _replace(place: Path, data: bytes) -> None:
    """Write beside `place`, sync, rename; Ctrl-C leaves nothing either."""
    partial = place.with_name(f".{os.urandom(8).hex()}.partial")  # not after its name: that may be as long as names get
    try:
        with partial.open("xb") as stream:
            _make_alike(stream.fileno(), place)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(place)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    with suppress(OSError):  # the rename itself; some network file systems cannot, and the bytes are safe
        sync(place.parent)


def _make_alike(handle: int, place: Path) -> None:
    """Give a new file the owner and mode of the one that it is going to replace."""
    try:
        there, new = place.stat(), os.fstat(handle)
    except FileNotFoundError:
        return
    if (there.st_uid, there.st_gid) != (new.st_uid, new.st_gid):
        os.fchown(handle, there.st_uid, there.st_gid)
    if there.st_mode != new.st_mode:
        os.fchmod(handle, stat.S_IMODE(there.st_mode))
