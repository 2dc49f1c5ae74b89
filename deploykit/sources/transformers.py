"""`transformers:DIR`, `transformers:FILE.json` and `transformers:TYPE`: models of transformers, never from the network.

A word after the name says which graph is wanted: `transformers:DIR:cache` is a decoder with its keys and values as
inputs and outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from deploykit.errors import WorkError
from deploykit.model import LoadedModel, SourceSpec
from deploykit.signature import Signature

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MISSING = "transformers is not installed (pip install 'deploykit[transformers]')"


@dataclass(frozen=True)
class Source:
    """One transformers model in eval mode, from a folder, from a configuration, or by its type with small sizes."""

    runs_user_code: ClassVar[bool] = False
    example: ClassVar[str] = "transformers:bert"

    def unavailable(self) -> str | None:
        """Why this source cannot be used here, in one line; None when it can."""
        return None if find_spec("transformers") else MISSING

    def load(self, spec: SourceSpec) -> LoadedModel:
        """The module and its inputs as the configuration has them.

        Weights come from the folder (safetensors, or a state dict in `pytorch_model.bin`), from `spec.checkpoint`, or
        are random. They are float32, whatever they were stored as. Attention is the plain kind (`eager`).

        Raises:
            UsageError: there is no such folder, configuration, type or class, or the inputs do not fit the model.
            RefusedError: a file is malformed, does not fit, or needs code that lies beside it.
            WorkError: PACKAGE_MISSING; SOURCE_ERROR, transformers cannot build or run the model.
        """
        if reason := self.unavailable():
            raise WorkError("transformers", reason, "pip install 'deploykit[transformers]'", "PACKAGE_MISSING")
        from deploykit.sources import _hf_config, _hf_inputs, _hf_model
        from deploykit.sources._example import dims_of
        from deploykit.sources._hf_cache import with_cache

        found = _hf_config.find(spec.target)
        module, notes = _hf_model.build(found, spec)
        wanted = _hf_inputs.wanted(found, module, spec)
        feeds = wanted.feeds(spec.seed)
        called = _hf_model.by_place(module, tuple(feeds))
        several = [feeds, *(wanted.feeds(spec.seed + 1 + index) for index in range(3))]
        heads = _hf_model.heads(found.subject, called, several)
        if spec.checkpoint is None and found.folder is None and _hf_model.rescaled(module, heads):
            notes["weights"] += ", head rescaled"
        if found.cached:
            called, wanted, feeds = with_cache(found, module, wanted, feeds)
        signature = Signature(wanted.specs, dims=dims_of(wanted.specs, wanted.dims))
        notes |= {"attention": _hf_model.ATTENTION, "preprocessing": "none", "task": found.task}
        notes |= _server_notes(module, cached=found.cached)
        return LoadedModel(called, signature, feeds, notes)


def _server_notes(module: PreTrainedModel, *, cached: bool) -> dict[str, Any]:
    """What whoever serves the model has to do beside calling it."""
    if cached:
        return {
            "cache": "past_key_I and past_value_I take what the last call gave as present_key_I and present_value_I; "
            "the first call takes zeros of length 1, and past_attention_mask 0"
        }
    if getattr(module.config, "is_encoder_decoder", False) and module.can_generate():
        return {"decoding": "encoder and decoder are one graph: a server that generates runs both for every token"}
    return {}
