"""Putting a bundle in its place: staged beside it, synced, the manifest last, swapped in by rename.

At every moment the path shows the old bundle, the new one, or nothing; `amending` gives the bundle that is there
another manifest in the same way. Also remembers which bundles this machine made, since only those may run code
(TorchScript, `.pt2`) without `--trust-code`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from deploykit.bundle import MANIFEST, REPORTS, Bundle, Manifest, record_files
from deploykit.errors import RefusedError, StorageError, UsageError, from_os_error
from deploykit.writing import make_folder, sync


@dataclass(frozen=True)
class Kind:
    """What a directory is: the file that makes it one, which is written last, and the word for it."""

    record: str
    word: str


BUNDLE = Kind(MANIFEST, "bundle")

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def staging(target: Path, *, force: bool, kind: Kind = BUNDLE) -> Iterator[Path]:
    """An empty directory beside `target` to build in; gone at the end unless `publish` or `put` moved it.

    Raises:
        UsageError: EXISTS, something is at `target` and `force` is not set, or what is there is of another kind.
        StorageError: LOCKED, another run is writing there; or the place cannot be written.
    """
    check_target(target, force=force, kind=kind)
    place = _place(target)
    parent, name = place.parent, place.name
    try:
        _make_parent(parent, target)
        lock = FileLock(parent / f".{name}.lock", timeout=0)
        with lock:
            for orphan in parent.glob(f"{glob.escape(f'.{name}.staging-')}*"):  # we hold the lock: its maker is gone
                shutil.rmtree(orphan, ignore_errors=True)
            stage = parent / f".{name}.staging-{os.getpid()}"
            try:  # before there is anything to remove: an interrupt can come between any two lines
                stage.mkdir(mode=0o700)
                yield stage
            finally:
                shutil.rmtree(stage, ignore_errors=True)
    except Timeout as error:
        hint = "wait for the other run, or write to another directory with -o"
        raise StorageError(str(target), f"another run is writing this {kind.word}", hint, "LOCKED") from error
    except OSError as error:
        raise from_os_error(error, str(target)) from error


def _place(target: Path) -> Path:
    """The absolute path without `.` and `..`: its last part is the name of the bundle."""
    return Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow links


def _make_parent(parent: Path, target: Path) -> None:
    """Make the directory that the bundle goes into, and find out whether it takes files: a lock cannot say so.

    Raises:
        UsageError: NOT_FOUND, a file is where a directory should be.
        StorageError: nothing can be made there.
    """
    hint = "choose another path with -o"
    try:
        make_folder(parent)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(str(target), "a file is where a directory should be", hint, "NOT_FOUND") from error
    except FileNotFoundError as error:  # the kernel's answer in /proc
        raise StorageError(str(target), "nothing can be made there", hint, "READ_ONLY") from error


def check_target(target: Path, *, force: bool, kind: Kind = BUNDLE) -> None:
    """Refuse early to write where something is, unless `force` is set and it is of the same kind."""
    if not target.exists() and not target.is_symlink():
        return
    if Path.cwd().is_relative_to(target.resolve()):
        hint = "run the command elsewhere, or choose another path with -o"
        raise UsageError(str(target), "the working directory cannot be replaced", hint, "EXISTS")
    if target.is_symlink() or not (target / kind.record).is_file():
        if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
            return
        hint = "choose another path with -o"
        raise UsageError(str(target), f"something that is no {kind.word} is there", hint, "EXISTS")
    if not force:
        raise UsageError(
            str(target),
            f"a {kind.word} is there already",
            "replace it with --force, or choose another path with -o",
            "EXISTS",
        )


def publish(stage: Path, manifest: Manifest, target: Path) -> Bundle:
    """Record the digests of everything in `stage`, write the manifest, sync, and swap it in as `target`."""
    try:
        complete = manifest.model_copy(update={"files": record_files(stage)})
    except OSError as error:
        raise from_os_error(error, str(target)) from error
    text = complete.to_json()
    put(stage, text, target)
    remember(sha256(text.encode()).hexdigest())
    return Bundle(target)


def put(stage: Path, record: str, target: Path, kind: Kind = BUNDLE) -> None:
    """Write the record of a staged directory, last and synced, and swap the directory in as `target`.

    Raises:
        StorageError: the place cannot be written.
    """
    place = _place(target)
    mask = os.umask(0)
    os.umask(mask)
    try:
        for path in [*stage.rglob("*"), stage]:
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)  # mkdtemp and safetensors keep theirs private
            sync(path)
        with (stage / kind.record).open("xb") as stream:
            stream.write(record.encode())
            stream.flush()
            os.fsync(stream.fileno())
        sync(stage)
        _swap(stage, place)
        sync(place.parent)
    except OSError as error:
        raise from_os_error(error, str(target)) from error


@contextlib.contextmanager
def amending(bundle: Bundle) -> Iterator[Callable[[Manifest], Bundle]]:
    """Hold a bundle while what will be added to its record is worked out; the function given writes the new manifest.

    The manifest is replaced whole or not at all, the files stay as they are, and a bundle that this machine made stays
    one that it made. That nothing can be written is found out here, before the work.

    Raises:
        StorageError: LOCKED, another run works on the bundle; CHANGED, it is no longer the one that was opened; or the
            place cannot be written.
        RefusedError: TAMPERED, the folder for reports is a link.
    """
    place = bundle.path.resolve()  # the bundle itself, though it may have been opened through a link
    subject = str(bundle.path)
    try:
        with _alone(place, subject):
            if (place / REPORTS).is_symlink():
                raise RefusedError(f"{place.name}/{REPORTS}", "is a link", "remove it", "TAMPERED")
            for folder in (place, place / REPORTS):
                make_folder(folder)
            yield lambda manifest: _replace_manifest(bundle, place, manifest)
    except OSError as error:
        raise from_os_error(error, subject) from error


@contextlib.contextmanager
def holding(bundle: Bundle) -> Iterator[None]:
    """Hold a bundle while reports are made for it: two runs at once would lay one's readings beside the other's table.

    A bundle that takes no reports is not held, nor is one beside which no lock can be laid: another run cannot either.

    Raises:
        StorageError: LOCKED, another run works on the bundle.
    """
    place = bundle.path.resolve()
    possible = bundle.takes_reports and os.access(place.parent, os.W_OK)
    with _alone(place, str(bundle.path)) if possible else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _alone(place: Path, subject: str) -> Iterator[None]:
    """Hold the lock of the bundle at `place`.

    Raises:
        StorageError: LOCKED, or no lock can be made.
    """
    lock = FileLock(place.parent / f".{place.name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        hint = "wait for the other run"
        raise StorageError(subject, "another run is working on this bundle", hint, "LOCKED") from error
    except OSError as error:
        raise from_os_error(error, subject) from error
    try:
        yield
    finally:
        lock.release()


def _replace_manifest(bundle: Bundle, place: Path, manifest: Manifest) -> Bundle:
    text = manifest.to_json().encode()
    # among the reports: a file beside the manifest would be one too many for whoever checks the bundle just now
    partial = place / REPORTS / f".{MANIFEST}.partial"
    partial.unlink(missing_ok=True)
    try:
        with partial.open("xb") as stream:
            os.fchmod(stream.fileno(), (place / MANIFEST).stat().st_mode & 0o777)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        if Bundle(place).digest != bundle.digest:
            message, hint = "was changed meanwhile by something else", "run the command again"
            raise StorageError(str(bundle.path), message, hint, "CHANGED")
        if made_here(bundle):
            remember(sha256(text).hexdigest())
        partial.replace(place / MANIFEST)
    finally:
        partial.unlink(missing_ok=True)
    sync(place)
    return Bundle(bundle.path)


def _swap(stage: Path, target: Path) -> None:
    """Rename; an old bundle changes places with the new one in one step where the file system can do that."""
    try:
        stage.rename(target)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        if not _exchange(stage, target):  # then there is a moment with nothing at the path, never one with half
            old = stage.with_name(f"{stage.name}-old")
            target.rename(old)
            stage.rename(target)
            shutil.rmtree(old, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0)


def _state() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "deploykit" / "made-here"


def remember(digest: str) -> None:
    """Note that this machine made the bundle whose manifest has this sha256; a read-only home is no error."""
    with contextlib.suppress(OSError, RuntimeError):
        _state().mkdir(parents=True, exist_ok=True)
        (_state() / digest).touch(mode=0o600)


def made_here(bundle: Bundle) -> bool:
    """Whether this machine, as this user, made exactly this bundle."""
    with contextlib.suppress(OSError, RuntimeError):
        return (_state() / bundle.digest).is_file()
    return False
