"""The seed model: 784-128-10, ready to train or with the weights of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

from deploykit.errors import UsageError
from deploykit.model import LoadedModel, SourceSpec
from deploykit.signature import Dim, Signature, TensorSpec

SIGNATURE = Signature(inputs=(TensorSpec("image", "float32", ("N", 1, 28, 28)),), dims=(Dim("N"),))

NOTES = {"preprocessing": "in the module: (image - mean) / std", "task": "classification", "classes": "10"}


@dataclass(frozen=True)
class Source:
    """The seed MLP; without a checkpoint its weights are random and seeded, for the caller to train."""

    runs_user_code: ClassVar[bool] = False
    example: ClassVar[str] = "mlp"

    def unavailable(self) -> str | None:
        """Why this source cannot be used here, in one line; None when it can."""
        return None if find_spec("torch") else "torch is not installed"

    def check(self, spec: SourceSpec) -> None:
        """Refuse what the seed model does not take; callers that train first ask before they do.

        Raises:
            UsageError: a target or inputs are named.
        """
        if spec.target:
            raise UsageError(f"mlp:{spec.target}", "the seed model has no other form", "write mlp", "UNKNOWN_MODEL")
        if spec.inputs:
            raise UsageError(
                "--input", f"the seed model takes {SIGNATURE.inputs[0]}", "leave --input out", "INPUT_NAMES"
            )

    def load(self, spec: SourceSpec) -> LoadedModel:
        """The module in eval mode, its input `image` float32[N, 1, 28, 28] in [0, 1].

        Raises:
            UsageError: a target or inputs are named, or there is no such checkpoint.
            RefusedError: the checkpoint is malformed, does not fit, or carries code.
        """
        import torch

        from deploykit.sources._example import BATCH
        from deploykit.sources._mlp_net import MLP
        from deploykit.sources._weights import load_weights

        self.check(spec)
        torch.manual_seed(spec.seed)
        module = MLP()
        if spec.checkpoint is not None:
            load_weights(module, spec.checkpoint)
        # pixels live in [0, 1]: the shared example draws normals
        image = torch.rand(BATCH, 1, 28, 28, generator=torch.Generator().manual_seed(spec.seed))
        return LoadedModel(module.eval(), SIGNATURE, {"image": image.numpy()}, dict(NOTES))
