"""The checkpoint of a training run: safetensors, with what was trained and how in one metadata key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from deploykit.errors import RefusedError, UsageError, from_os_error
from deploykit.writing import write_bytes

KEY = "deploykit"
"""The one metadata key: with more than one, safetensors writes them in random order and the bytes would not repeat."""


def save(module: nn.Module, record: dict[str, Any], path: str | Path) -> None:
    """Write the state dict and `{"architecture", "record"}`; `path` holds the old file or the whole new one.

    Args:
        module: its `architecture` attribute, else its class name, names what the weights belong to.
        record: how it was trained; plain JSON values, numbers finite.
        path: the file to write; its directory must exist.

    Raises:
        UsageError: the directory does not exist.
        StorageError: the file cannot be written.
    """
    from safetensors.torch import save as to_bytes

    # cloned: safetensors refuses tensors that share memory
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in sorted(module.state_dict().items())}
    facts = {"architecture": getattr(module, "architecture", type(module).__name__), "record": record}
    write_bytes(Path(path), to_bytes(tensors, metadata={KEY: json.dumps(facts, sort_keys=True, allow_nan=False)}))


def read_record(path: str | Path) -> dict[str, Any]:
    """`{"architecture": str, "record": {…}}` as `save` wrote it; no weight is read.

    Raises:
        UsageError: there is no such file, or NO_RECORD: it was not written by `deploykit train`.
        RefusedError: it is no safetensors file, or the record is no JSON object.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with Path(path).open("rb"), safe_open(str(path), framework="pt") as stored:
            metadata = stored.metadata() or {}
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    except SafetensorError as error:
        raise RefusedError(str(path), f"not a safetensors file: {error}", "train again") from error
    if KEY not in metadata:
        raise UsageError(str(path), "no training record in it", "write it with deploykit train", "NO_RECORD")
    try:
        facts = json.loads(metadata[KEY])
    except ValueError as error:
        raise RefusedError(str(path), "the training record is not JSON", "train again") from error
    if not isinstance(facts, dict) or not {"architecture", "record"} <= facts.keys():
        raise RefusedError(str(path), "the training record has another form", "train again")
    return facts
