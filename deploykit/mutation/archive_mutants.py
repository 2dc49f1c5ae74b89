"""Mutants of TorchScript and `.pt2` archives: a copy with other bytes in a tensor, or in the program's text.

torch is not needed: both are zip archives of stored entries.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

import numpy as np

from deploykit.errors import UsageError, from_os_error
from deploykit.mutation import archive, faults
from deploykit.mutation.archive import Tensor
from deploykit.mutation.faults import Made, Site

ORDER = (
    faults.SCALED, faults.FLIPPED, faults.TANH, faults.UNBIASED, faults.SWAPPED, faults.EPSILON, faults.ZEROED,
    faults.ROUNDED, faults.TRANSPOSED, faults.HALVES,
)  # fmt: skip

_EPSILON = re.compile(rb"(?<=\d)e-(0[5-9]|1[0-5])(?=\D)")
"""Exponent of a tiny number in the program's text; three less has the same length."""

_ACTIVATION = re.compile(rb"(?<=torch\.)relu(?=_?\()|(?<=torch\.ops\.aten\.)relu(?=_?\.)")
"""A ReLU in TorchScript code or in the JSON of a `.pt2`; `tanh` has the same length and takes the same arguments."""


def places(path: Path, found: list[Tensor], fault: str) -> list[str]:
    """Where `fault` can go, early layers first."""
    weights = [tensor for tensor in found if len(tensor.shape) > 1]
    if fault in {faults.EPSILON, faults.TANH}:
        return _in_program(path, _EPSILON if fault == faults.EPSILON else _ACTIVATION)
    if fault == faults.UNBIASED:
        return [t.name for t in _biases(found) if np.any(archive.read(path, t))]
    if fault == faults.SWAPPED:
        return [tensor.name for tensor in weights if len(tensor.shape) == 2 and tensor.shape[0] > 1][-1:]
    if fault == faults.TRANSPOSED:
        return [tensor.name for tensor in weights if faults.is_square(tensor.shape)]
    if fault == faults.ROUNDED:
        return [tensor.name for tensor in weights if tensor.dtype == "float32"]
    return [tensor.name for tensor in weights]


def mutate(path: Path, folder: Path, site: Site) -> Made:
    """Write the mutant that `site` describes to `folder`.

    Raises:
        UsageError: the archive has no such place.
        StorageError: the copy cannot be written.
    """
    copy = folder / path.name
    edits, change = _edits(path, site)
    try:
        shutil.copyfile(path, copy)
        for entry, data in edits.items():
            archive.overwrite(copy, entry, data)
    except OSError as error:
        raise from_os_error(error, copy.name) from error
    return Made(site.fault, site.place, copy, change)


def _edits(path: Path, site: Site) -> tuple[dict[str, bytes], float | None]:
    """New bytes by entry, and the relative change of the tensor."""
    entry, _, at = site.place.rpartition("@")
    if entry and site.fault in {faults.EPSILON, faults.TANH}:
        with zipfile.ZipFile(path) as stored:
            text = stored.read(entry)
        return {entry: _edited(text, int(at), site.fault)}, None
    found = archive.tensors(path)
    tensor = next((tensor for tensor in found if tensor.name == site.place), None)
    if tensor is None:
        hint = "ask for the sites of this artifact"
        raise UsageError(site.place, f"no place for the fault {site.fault}", hint, "NO_SITE")
    before = archive.read(path, tensor)
    after = faults.changed(before, site, 0)
    edits = {tensor.entry: after.tobytes()}
    if site.fault == faults.SWAPPED and (bias := _bias_of(found, tensor)):
        pair = faults.classes(tensor.shape[0], site.seed)
        edits[bias.entry] = faults.swap_channels(archive.read(path, bias), 0, *pair).tobytes()
    return edits, faults.relative_change(before, after)


def _biases(found: list[Tensor]) -> list[Tensor]:
    return [bias for tensor in found if len(tensor.shape) > 1 and (bias := _bias_of(found, tensor))]


def _bias_of(found: list[Tensor], tensor: Tensor) -> Tensor | None:
    """The vector right after a weight, with a value per output channel."""
    after = found[found.index(tensor) + 1 :][:1]
    is_norm = bool(after) and after[0].name.endswith("weight")
    return after[0] if after and after[0].shape == tensor.shape[:1] and not is_norm else None


def _in_program(path: Path, pattern: re.Pattern[bytes]) -> list[str]:
    """`ENTRY@OFFSET` of every match in the program's text."""
    places = []
    with zipfile.ZipFile(path) as stored:
        for info in stored.infolist():
            is_code = "/code/" in info.filename and info.filename.endswith(".py")
            is_graph = "/models/" in info.filename and info.filename.endswith(".json")
            if (is_code or is_graph) and info.compress_type == zipfile.ZIP_STORED:
                found = pattern.finditer(stored.read(info))
                places += [f"{info.filename}@{match.start()}" for match in found]
    return places


def _edited(text: bytes, at: int, fault: str) -> bytes:
    if fault == faults.TANH:
        return text[:at] + b"tanh" + text[at + 4 :]
    exponent = b"e-%02d" % (int(text[at + 2 : at + 4]) - 3)
    return text[:at] + exponent + text[at + 4 :]
