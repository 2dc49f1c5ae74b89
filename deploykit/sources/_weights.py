"""Checkpoints: told apart by content, never unpickled with code, and fitted to the module name by name."""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit.errors import RefusedError, from_os_error, from_os_text

if TYPE_CHECKING:
    from torch import Tensor, nn

_WRAPPERS = ("state_dict", "model_state_dict")
"""Keys under which training scripts keep the weights, beside the optimizer and the epoch."""


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Copy the checkpoint at `path` into `module`, all of it or nothing.

    Raises:
        UsageError: there is no such file.
        RefusedError: MALFORMED, UNTRUSTED_CODE, or CHECKPOINT_MISMATCH when names, shapes or kinds do not fit.
    """
    import torch

    weights = read_weights(path)
    own = module.state_dict(keep_vars=True)
    for name in own.keys() - weights.keys():  # writers of safetensors drop the second name of a tied tensor
        mate = next((other for other in weights if own.get(other) is own[name]), None)
        if mate is not None:
            weights[name] = weights[mate]
    _check_fit(module, weights, str(path))
    rest = {name: value for name, value in own.items() if not isinstance(value, torch.Tensor)}
    try:
        module.load_state_dict({**rest, **weights})
    except RuntimeError as error:  # a module's own load hook may ask for more than names and shapes
        raise _mismatch(str(path), str(error)) from error


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors by name in a safetensors file or in a state dict written by `torch.save`.

    Raises:
        UsageError: there is no such file.
        RefusedError: the file is neither, is cut off, or carries code.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:
            head = stream.read(16)
        if head[8:9] == b"{":  # eight bytes of length, then JSON
            return _read_safetensors(file)
        return _read_state_dict(file, head)
    except OSError as error:
        raise from_os_error(error, str(path)) from error


def save_weights(module: nn.Module, path: str | Path) -> None:
    """Write the whole state dict as safetensors; the same weights give the same bytes.

    Tied tensors are written once per name, since safetensors refuses shared memory and a reader wants every name.

    Raises:
        StorageError: the file cannot be written.
        UsageError: the directory does not exist.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    seen: set[int] = set()
    tensors = {}
    for name, value in sorted(module.state_dict().items()):
        if not isinstance(value, torch.Tensor):  # what modules keep beside: the code makes it again
            continue
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        # a view of a larger storage is copied too: safetensors counts any overlap as shared
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        tensors[name] = tensor if whole and storage not in seen else tensor.clone()
        seen.add(storage)
    try:
        # metadata stays at one key: with more, safetensors writes them in random order
        save_file(tensors, path, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        raise from_os_text(error, str(path)) from error


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype this torch does not have
        raise _malformed(str(file), f"broken safetensors: {error}") from error


def _read_state_dict(file: Path, head: bytes) -> dict[str, Tensor]:
    import torch

    zipped = head.startswith(b"PK\x03\x04")
    if zipped and _is_torchscript(file):
        raise _untrusted(str(file), "it is a TorchScript program, not a checkpoint")
    try:
        # given a path, torch goes by the file's extension; its warning is of pickle protocols, which are judged below
        with file.open("rb") as stream, warnings.catch_warnings(action="ignore"):
            stored = torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if zipped or _names_code(file):
            raise _untrusted(str(file), f"it holds more than tensors ({_named_global(error)})") from error
        raise _malformed(str(file), "neither safetensors nor a torch state dict") from error
    except OSError:
        raise
    except (
        Exception
    ) as error:  # a damaged file surfaces as RuntimeError, EOFError, KeyError, AssertionError, struct.error…
        raise _malformed(str(file), f"not a readable checkpoint: {_first_line(error)}") from error
    return _unwrap(stored, str(file))


def _unwrap(stored: Any, subject: str) -> dict[str, Tensor]:
    from torch import Tensor

    if isinstance(stored, Mapping):
        inner = [stored[key] for key in _WRAPPERS if isinstance(stored.get(key), Mapping)]
        weights = dict(inner[0] if inner else stored)
        if weights and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()):
            return weights
    raise _malformed(subject, f"it holds a {type(stored).__name__} that is no state dict")


def _is_torchscript(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise _malformed(str(file), "the zip archive is cut off or damaged") from error
    return any(name.split("/")[-1] == "constants.pkl" or "/code/" in name for name in names)


def _names_code(file: Path) -> bool:
    """Whether the file is a pickle, whole or cut off, that names something to import: only its opcodes are read."""
    found = ended = False
    with file.open("rb") as stream:
        framed = stream.read(1) == b"\x80"
        stream.seek(0)
        with suppress(ValueError):  # the end of the file, or no pickle from here on
            while True:  # torch's old format is several pickles in a row
                for opcode, _, _ in pickletools.genops(stream):
                    found = found or opcode.name in {"GLOBAL", "STACK_GLOBAL", "INST"}
                ended = True
    return found and (framed or ended)  # a text may begin like a pickle, but has neither its mark nor its end


def _check_fit(module: nn.Module, weights: dict[str, Tensor], subject: str) -> None:
    own = {name: value for name, value in module.state_dict().items() if hasattr(value, "is_floating_point")}
    missing = [name for name in own if name not in weights]
    if missing:
        raise _mismatch(subject, f"{_count(missing)} missing, first {missing[0]}")
    unexpected = [name for name in weights if name not in own]
    if unexpected:
        raise _mismatch(subject, f"{_count(unexpected)} not in the model, first {unexpected[0]}")
    for name, tensor in own.items():
        given = weights[name]
        if given.shape != tensor.shape:
            raise _mismatch(subject, f"{name} is {list(given.shape)}, the model has {list(tensor.shape)}")
        # copying would round or reinterpret without a word; another float width is fine
        if (given.is_floating_point(), given.is_complex()) != (tensor.is_floating_point(), tensor.is_complex()):
            raise _mismatch(subject, f"{name} is {_dtype(given)}, the model has {_dtype(tensor)}")


def _count(names: list[str]) -> str:
    return f"{len(names)} tensor{'s are' if len(names) > 1 else ' is'}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _named_global(error: Exception) -> str:
    match = re.search(r"GLOBAL (\S+)", str(error))
    return match[1] if match else "objects that need code"


def _mismatch(subject: str, message: str) -> RefusedError:
    return RefusedError(subject, message, "load it into the model it was saved from", "CHECKPOINT_MISMATCH")


def _malformed(subject: str, message: str) -> RefusedError:
    return RefusedError(subject, message, "write it with safetensors, or with torch.save(module.state_dict())")


def _untrusted(subject: str, message: str) -> RefusedError:
    hint = "save only the weights: torch.save(module.state_dict(), FILE)"
    return RefusedError(subject, f"{message}; nothing in it was run", hint, "UNTRUSTED_CODE")
