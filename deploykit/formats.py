"""What a file is, told from its content: nothing is loaded, and a name's ending counts for nothing."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from deploykit.errors import RefusedError, UsageError, from_os_error

MAX_ENTRIES = 100_000
MAX_SCAN = 4096
MAX_INFLATED = 64 << 20
MAX_RATIO = 4
"""An archive may unpack to MAX_INFLATED bytes, or to MAX_RATIO times its own size."""


def recognize(path: Path) -> str:
    """The runtime plugin that opens this file: `onnxruntime`, `torchscript` or `torch-export`.

    Raises:
        UsageError: there is no such file, or it is a directory.
        RefusedError: it is none of these formats, or a zip archive that could unpack elsewhere or to any size.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(MAX_SCAN)
    except IsADirectoryError as error:
        raise UsageError(str(path), "is a directory", "give one artifact file", "NOT_FOUND") from error
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    if zipfile.is_zipfile(path):
        return _in_archive(path)
    if _looks_like_onnx(head):
        return "onnxruntime"
    what = "is empty" if not head else "is a text file" if _is_text(head) else "is no artifact that deploykit knows"
    raise RefusedError(str(path), what, "give an ONNX, TorchScript or .pt2 file")


def _in_archive(path: Path) -> str:
    """TorchScript and torch.export both are zip archives; which one, the entry names say."""
    hint = "give a file that torch.jit.save or torch.export.save wrote"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError, struct.error) as error:
        raise RefusedError(str(path), f"a broken zip archive: {error}", hint) from error
    if problem := _unsafe(entries, path.stat().st_size):
        raise RefusedError(str(path), problem, hint)
    names = [entry.filename for entry in entries]
    tails = {name.partition("/")[2] for name in names}
    if "constants.pkl" in tails and any(tail.startswith("code/") for tail in tails):
        return "torchscript"
    if any(tail.startswith("models/") for tail in tails) or "serialized_exported_program.json" in {*tails, *names}:
        return "torch-export"
    raise RefusedError(str(path), "a zip archive that is neither TorchScript nor torch.export", hint)


def _unsafe(entries: list[zipfile.ZipInfo], size: int) -> str | None:
    """What speaks against unpacking an archive of `size` bytes; None when nothing does."""
    names = [entry.filename for entry in entries]
    if len(entries) > MAX_ENTRIES or len(set(names)) != len(names):
        return "a zip archive with doubled or too many entries"
    for entry in entries:
        if entry.filename.startswith("/") or ".." in Path(entry.filename).parts:
            return f"an archive entry points outside: {entry.filename}"
        if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
            return "an archive entry with two sizes"
        if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            return "an archive entry compressed in a way that torch never uses"
    if sum(entry.compress_size for entry in entries) > size:
        return "archive entries that lie over each other"
    inflated = sum(entry.file_size for entry in entries)
    if inflated > max(MAX_INFLATED, MAX_RATIO * size):  # torch deflates code and debug records, never tensors
        return f"a zip archive of {size} bytes that unpacks to {inflated}"
    return None


def _looks_like_onnx(head: bytes) -> bool:
    """An ONNX ModelProto starts with its ir_version (field 1, varint) and goes on with a tag of a known field."""
    known_tags = {0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72, 0xA2, 0xCA}
    return len(head) > 3 and head[0] == 0x08 and 0 < head[1] < 0x40 and head[2] in known_tags


def _is_text(head: bytes) -> bool:
    try:
        return head.decode("utf-8").isprintable() or not any(b < 9 for b in head)
    except UnicodeDecodeError:
        return False
