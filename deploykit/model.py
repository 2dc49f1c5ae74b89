"""A model on its way to being exported: where it came from, and the live module with its signature."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deploykit.errors import UsageError
from deploykit.preprocessing import Preprocessing
from deploykit.signature import Feeds, Signature

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SourceSpec:
    """What the user named: `kind:target`, and how to turn it into a module.

    Attributes:
        kind: the source plugin (`mlp`, `torchvision`, `python`, …).
        target: what that plugin loads (`resnet18`, `pkg.module:callable`); empty for `mlp`.
        checkpoint: path of a safetensors or state-dict file with the weights, or None.
        inputs: `--input` texts, in call order; empty where the source knows its own.
        seed: seeds torch before the module is built, so that random weights repeat.
        trust_code: whether a file that can run code when it is opened may be opened.
        preprocess: what lies between raw images and the model's input, see `deploykit.preprocessing`, or nothing.
    """

    kind: str
    target: str = ""
    checkpoint: str | None = None
    inputs: tuple[str, ...] = ()
    seed: int = 0
    trust_code: bool = False
    preprocess: str = ""

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        checkpoint: str | None = None,
        inputs: tuple[str, ...] = (),
        seed: int = 0,
        trust_code: bool = False,
        preprocess: str = "",
    ) -> SourceSpec:
        """`torchvision:resnet18` and the options beside it.

        Raises:
            UsageError: no source kind is named.
        """
        kind, _, target = text.partition(":")
        if not kind:
            raise UsageError(text or "SOURCE", "no source is named", "mlp, torchvision:NAME or python:MODULE:CALLABLE")
        return cls(kind, target, checkpoint, inputs, seed, trust_code, preprocess)

    @property
    def parted(self) -> tuple[str, str]:
        """What of the target may be a path, and what follows it: `models.py` and `:build`, `gpt2` and `:cache`."""
        if self.kind == "python":
            file, colon, name = self.target.rpartition(":")
            return file, f"{colon}{name}"
        cached = ":cache" if self.kind == "transformers" and self.target.endswith(":cache") else ""
        return self.target.removesuffix(cached), cached

    @property
    def name(self) -> str:
        """A short name for a directory: `mlp`, `resnet18`, `two_inputs`."""
        stem = self.target.split(":")[0] if self.kind == "python" else self.target
        stem = stem.removesuffix(".py").replace("\\", "/").rstrip("/").removesuffix("/config.json").split("/")[-1]
        stem = stem.split(".")[-1] if self.kind == "python" else _ENDING.sub("", stem)
        return "".join(c if c.isalnum() or c in "-_" else "_" for c in stem) or self.kind


_ENDING = re.compile(r"\.(onnx|json|pt2?|pth)\b")
"""Of files that are models; what follows a dot in timm's names says which weights are meant."""


@dataclass(frozen=True)
class LoadedModel:
    """A live module in eval mode and everything an exporter needs to know of it.

    Attributes:
        module: the untouched eager module; exporters work on it and leave it as it was.
        signature: inputs in call order; outputs are filled in once eager has answered.
        example: one set of inputs, batch 2 where the leading dim is symbolic (a batch of 1 is specialised away).
        notes: what a reader of the manifest should know (`preprocessing`, `weights`, …).
        drawn: whether the example's values were made up from dtypes and shapes.
        preprocessing: what raw images go through, in the module (`fused`) or before it (`recorded`).
        reference: the module that answers for eager where it is not `module`: the same model behind a preprocessing
            written independently of the exported one.
    """

    module: torch.nn.Module
    signature: Signature
    example: Feeds
    notes: dict[str, Any] = field(default_factory=dict)
    drawn: bool = False
    preprocessing: Preprocessing | None = None
    reference: torch.nn.Module | None = None
