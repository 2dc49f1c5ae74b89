"""Building a transformers model: from a folder's weights, from a checkpoint, or with random ones.

This file imports torch and transformers at the top: only children import it, after `_hf_config.offline`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deploykit.errors import DeploykitError, RefusedError, UsageError, WorkError
from deploykit.model import SourceSpec
from deploykit.quiet import quiet
from deploykit.signature import Feeds
from deploykit.sources._hf_config import Found
from deploykit.sources._weights import load_weights, read_weights
from deploykit.twin import twin

_SAFE = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")

ATTENTION = "eager"
"""Plain matrix products and a softmax. The fused kind (`sdpa`) goes another way when a mask hides nothing and answers
rows that are hidden whole otherwise than ONNX does; plain attention is one computation for every mask."""


def build(found: Found, spec: SourceSpec) -> tuple[Any, dict[str, Any]]:
    """The module in eval mode, and notes on its weights and class.

    Raises:
        UsageError: the folder has no weights.
        RefusedError: a file is malformed, does not fit, or carries code.
        WorkError: SOURCE_ERROR, transformers cannot build it.
    """
    config = found.config
    config.use_cache = False
    config.dtype = None
    torch.manual_seed(spec.seed)
    notes: dict[str, Any] = {"architecture": found.architecture.__name__, "configuration": found.origin}
    if found.folder is not None and spec.checkpoint is None:
        module, notes["weights"] = _stored(found, found.folder)
    else:
        module = _guarded(found, lambda: found.architecture._from_config(config, attn_implementation=ATTENTION))  # noqa: SLF001 - what AutoModel.from_config calls, for a class that is known
        notes["weights"] = "checkpoint" if spec.checkpoint else f"random (seed {spec.seed})"
        if spec.checkpoint is not None:
            load_weights(module, spec.checkpoint)
    return module.float().eval(), notes


def by_place(module: Any, names: tuple[str, ...]) -> Any:
    """`module` as it is called by everything behind the sources: the tensors `names` by position."""

    def around(forward: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
        return forward(**dict(zip(names, inputs, strict=True)))

    return twin(module, around)


def _stored(found: Found, folder: Path) -> tuple[Any, str]:
    """The module with the weights in `folder`, and what kind of file they came from."""
    present = [name for name in (*_SAFE, *_PICKLED) if (folder / name).is_file()]
    if not present:
        message = f"the folder has no {_SAFE[0]}"
        hint = f"name {folder.name}/config.json for random weights, or give --checkpoint FILE"
        raise UsageError(found.subject, message, hint, "NOT_FOUND")
    options: dict[str, Any] = {
        "config": found.config,
        "attn_implementation": ATTENTION,
        "dtype": torch.float32,
        "output_loading_info": True,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    files = _files(folder, present[0], found.subject)
    weights = {name: tensor for file in files for name, tensor in read_weights(file).items()}
    stored = {str(tensor.dtype).removeprefix("torch.") for tensor in weights.values() if tensor.is_floating_point()}
    module, info = _guarded(found, lambda: found.architecture.from_pretrained(None, state_dict=weights, **options))
    _check_fit(found, info)
    notes = "safetensors" if present[0] in _SAFE else "state dict"
    if stored - {"float32"}:
        notes += f", stored as {', '.join(sorted(stored))}, exported as float32"
    return module, notes


def _files(folder: Path, name: str, subject: str) -> list[Path]:
    """The file itself, or those that an index names, all of them in the folder."""
    if not name.endswith(".index.json"):
        return [folder / name]
    try:
        named = json.loads((folder / name).read_text(encoding="utf-8"))["weight_map"].values()
        files = sorted({folder / file for file in named})
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise RefusedError(subject, f"{name} is no index of weights", "write it with save_pretrained") from error
    for file in files:
        if file.parent != folder:
            raise RefusedError(subject, f"{name} names a file outside the folder", "write it with save_pretrained")
    return files


def _check_fit(found: Found, info: Any) -> None:
    """Refuse a part of random weights: it would be exported without a word."""
    missing, mismatched = sorted(info["missing_keys"]), info["mismatched_keys"]
    if missing or mismatched:
        wrong = f"{missing[0]} is missing" if missing else f"{next(iter(mismatched))[0]} has another shape"
        message = f"the weights do not fit {found.architecture.__name__}: {wrong}"
        hint = "name the class that they were saved from in the configuration's architectures"
        raise RefusedError(found.subject, message, hint, "CHECKPOINT_MISMATCH")


def _guarded(found: Found, make: Callable[[], Any]) -> Any:
    try:
        with quiet():
            return make()
    except (DeploykitError, MemoryError):
        raise
    except Exception as error:
        message = f"{found.architecture.__name__}: {' '.join(str(error).split())[:240]}"
        raise WorkError(found.subject, message, "build it in Python first", "SOURCE_ERROR") from error


def heads(subject: str, module: Any, several: list[Feeds]) -> list[tuple[nn.Linear, torch.Tensor]]:
    """The layer that runs last, and what it gives, for each of `several` inputs.

    Raises:
        WorkError: SOURCE_ERROR, the model does not take its own example.
    """
    ran: list[tuple[nn.Linear, torch.Tensor]] = []
    found: list[tuple[nn.Linear, torch.Tensor]] = []

    def remember(part: nn.Module, _: Any, output: torch.Tensor) -> None:
        if isinstance(part, nn.Linear):
            ran[:] = [(part, output)]

    handles = [part.register_forward_hook(remember) for part in module.modules() if isinstance(part, nn.Linear)]
    try:
        with torch.no_grad(), quiet():
            for feeds in several:
                module(*(torch.from_numpy(array.copy()) for array in feeds.values()))
                found += ran
    except MemoryError:
        raise
    except Exception as error:  # whatever a model raises that wants other inputs
        message = f"it does not take the inputs drawn for it: {' '.join(str(error).split())[:200]}"
        hint = "give it with inputs of your own: python:FILE.py:build that returns (module, example_inputs)"
        raise WorkError(subject, message, hint, "SOURCE_ERROR") from error
    finally:
        for handle in handles:
            handle.remove()
    return found


def rescaled(module: nn.Module, found: list[tuple[nn.Linear, torch.Tensor]]) -> bool:
    """Scale the layer that runs last to answers of unit deviation, in place; whether that was done.

    A head that shares its weights with the embeddings stays as it is.
    """
    if not found or _shared(module, found[0][0]):
        return False
    head = found[0][0]
    rows = torch.cat([output.reshape(-1, output.shape[-1]) for _, output in found])
    deviation = float((rows - rows.mean(dim=0)).square().mean().sqrt())
    if not deviation > 0:
        return False
    with torch.no_grad():
        if head.bias is not None:
            head.bias.sub_(rows.mean(dim=0)).div_(deviation)
        head.weight.div_(deviation)
    return True


def _shared(module: nn.Module, head: nn.Linear) -> bool:
    return sum(getattr(part, "weight", None) is head.weight for part in module.modules()) > 1
