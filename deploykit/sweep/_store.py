"""Files by the sha256 of their bytes: what has come once does not come again, and what came is what was sent."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath

from deploykit.errors import WorkError, from_os_error
from deploykit.writing import write_bytes


@dataclass(frozen=True)
class Store:
    """A folder of files named by their digests."""

    folder: Path

    def known(self) -> frozenset[str]:
        """The digests that are here."""
        return frozenset(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else frozenset()

    def put(self, digest: str, data: bytes) -> None:
        """Keep `data`.

        Raises:
            WorkError: DIGEST_MISMATCH, these are other bytes.
            StorageError: the disk is full, say.
        """
        if sha256(data).hexdigest() != digest:
            raise WorkError(digest[:16], "other bytes came than were sent", "run the sweep again", "DIGEST_MISMATCH")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise from_os_error(error, str(self.folder)) from error
        write_bytes(self.folder / digest, data)

    def lay_out(self, index: Mapping[str, str], target: Path) -> None:
        """Make `target` the folder that `index` (path to digest) describes, also from the files that it has already.

        Raises:
            StorageError: it cannot be written.
        """
        stage = target.with_name(f".{target.name}.partial")
        try:
            shutil.rmtree(stage, ignore_errors=True)
            there = {digest: target / name for name, digest in index_of(target).items()}
            for name, digest in index.items():
                place = stage / safe(name)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(there.get(digest, self.folder / digest), place)
            shutil.rmtree(target, ignore_errors=True)
            stage.rename(target)
        except OSError as error:
            raise from_os_error(error, str(target)) from error
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def safe(name: str) -> str:
    """A relative path that stays below the folder it is laid out in.

    Raises:
        WorkError: it does not.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise WorkError(name, "a path that leads elsewhere", "run the sweep again", "DIGEST_MISMATCH")
    return str(path)


def index_of(folder: Path) -> dict[str, str]:
    """Every file below `folder`, by relative path, with its digest; empty where there is none."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as stream:
                found[path.relative_to(folder).as_posix()] = file_digest(stream, "sha256").hexdigest()
    return found
