"""Zip archives that torch writes: the tensors in them, and their bytes changed in place, which keeps every offset."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from deploykit.errors import RefusedError
from deploykit.mutation.faults import Array

_PT2_DTYPES = {7: "float32", 8: "float64", 6: "float16"}
"""`ScalarType` of torch.export's serialization schema, for the types whose values a fault changes."""

_STORAGES = {"FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16"}

_LOCAL, _CENTRAL, _DESCRIPTOR = b"PK\x03\x04", b"PK\x01\x02", b"PK\x07\x08"
_HAS_DESCRIPTOR = 1 << 3


@dataclass(frozen=True)
class Tensor:
    """A float tensor that fills a stored entry of its own.

    Attributes:
        name: the parameter's in a `.pt2`; the entry's, or `cN` of a frozen module, in TorchScript.
        entry: name in the archive.
    """

    name: str
    entry: str
    dtype: str
    shape: tuple[int, ...]


def tensors(path: Path) -> list[Tensor]:
    """The float tensors of a `.pt2` or TorchScript archive in the order of its index, which is that of the layers.

    Raises:
        RefusedError: the file is no archive, or its index cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {i.filename: i.file_size for i in archive.infolist() if i.compress_type == zipfile.ZIP_STORED}
            found = list(_indexed(archive))
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, pickle.UnpicklingError, EOFError) as error:
        raise RefusedError(path.name, f"not an archive of torch: {error}", "export it again") from error
    once = {tensor.entry: tensor for tensor in found if tensor.shape and min(tensor.shape) > 0}
    return [t for t in once.values() if sizes.get(t.entry) == prod(t.shape) * np.dtype(t.dtype).itemsize]


def read(path: Path, tensor: Tensor) -> Array:
    """The values of `tensor`."""
    with zipfile.ZipFile(path) as archive:
        return np.frombuffer(archive.read(tensor.entry), tensor.dtype).reshape(tensor.shape)


def overwrite(path: Path, entry: str, data: bytes) -> None:
    """Put `data` in the place of a stored entry of the same size, and its CRC-32 wherever the archive keeps it.

    Raises:
        ValueError: the entry is compressed or has another size.
    """
    with zipfile.ZipFile(path) as archive:
        info, directory = archive.getinfo(entry), archive.start_dir
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != len(data):
        raise ValueError(f"{entry} is compressed, or not of {len(data)} bytes")
    crc = struct.pack("<I", zlib.crc32(data))
    with path.open("r+b") as stream:
        stream.seek(info.header_offset)
        head = stream.read(30)
        start = info.header_offset + 30 + sum(struct.unpack("<HH", head[26:30]))
        stream.seek(start)
        stream.write(data)
        if info.flag_bits & _HAS_DESCRIPTOR:
            after = stream.read(4)
            stream.seek(start + len(data) + (4 if after == _DESCRIPTOR else 0))
        else:
            stream.seek(info.header_offset + 14)
        stream.write(crc)
        stream.seek(_central_crc(stream, directory, info.header_offset))
        stream.write(crc)


def _central_crc(stream: io.BufferedRandom, directory: int, header: int) -> int:
    """Where the central directory keeps the CRC-32 of the entry whose local header is at `header`."""
    at = directory
    while True:
        stream.seek(at)
        head = stream.read(46)
        if head[:4] != _CENTRAL:
            raise ValueError("the archive's directory ends without the entry")
        name, extra, comment = struct.unpack("<HHH", head[28:34])
        stream.seek(at + 46)
        fields = stream.read(name + extra)[name:]
        offset = struct.unpack("<I", head[42:46])[0]
        if (offset if offset != 0xFFFFFFFF else _zip64_offset(head, fields)) == header:
            return at + 16
        at += 46 + name + extra + comment


def _zip64_offset(head: bytes, extra: bytes) -> int:
    """The offset of an entry beyond 4 GiB: after the sizes that are in the same field for the same reason."""
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        if kind == 1:
            skipped = 8 * sum(head[at : at + 4] == b"\xff\xff\xff\xff" for at in (20, 24))
            return int(struct.unpack("<Q", extra[4 + skipped : 12 + skipped])[0])
        extra = extra[4 + length :]
    return -1


def _indexed(archive: zipfile.ZipFile) -> Any:
    names = archive.namelist()
    for name in sorted(names):
        if name.endswith("_weights_config.json"):
            yield from _pt2(json.loads(archive.read(name)), name.rpartition("/")[0])
    for name in names:
        if name.count("/") == 1 and name.endswith(("/constants.pkl", "/data.pkl")):
            yield from _pickled(archive.read(name), name.removesuffix(".pkl"), frozen=name.endswith("/constants.pkl"))


def _pt2(index: dict[str, Any], folder: str) -> Any:
    for name, record in index["config"].items():
        meta = record["tensor_meta"]
        if record["use_pickle"] or meta["dtype"] not in _PT2_DTYPES or meta["storage_offset"].get("as_int") != 0:
            continue
        shape = tuple(int(size["as_int"]) for size in meta["sizes"])
        yield Tensor(name, f"{folder}/{record['path_name']}", _PT2_DTYPES[meta["dtype"]], shape)


def _pickled(data: bytes, folder: str, *, frozen: bool) -> Any:
    reader = _Index(io.BytesIO(data))
    reader.load()
    for number, (kind, key, shape) in enumerate(reader.found):
        if kind in _STORAGES:
            name = f"c{number}" if frozen else f"{folder.rpartition('/')[2]}/{key}"
            yield Tensor(name, f"{folder}/{key}", _STORAGES[kind], shape)


class _Inert:
    """Stands for whatever class a pickle names: it can be built and filled, and does nothing."""

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        """Lists of unknown classes are filled so."""


class _Index(pickle.Unpickler):
    """Reads which storages the tensors of a pickle lie in; no class or function that it names is ever looked up."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.found: list[tuple[str, str, tuple[int, ...]]] = []

    def find_class(self, module: str, name: str) -> Any:
        """A tensor's builder notes the tensor; storages become their own names, all the rest is inert."""
        if name in {"_rebuild_tensor", "_rebuild_tensor_v2"}:
            return self._tensor
        return name if module == "torch" and name.endswith("Storage") else _Inert

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        """`('storage', type, key, device, numel)` as type and key."""
        return str(pid[1]), str(pid[2])

    def _tensor(self, storage: tuple[str, str], offset: int, shape: tuple[int, ...], *_rest: object) -> _Inert:
        if offset == 0:
            self.found.append((*storage, tuple(shape)))
        else:
            self.found.append(("", "", ()))
        return _Inert()
