"""A decoder with its keys and values as plain tensors: `past_key_0`, `past_value_0`, … in, `present_key_0`, … out.

Lengths are free of each other: the new tokens (`L`) and the past ones (`P`) have a mask each, so that no dim is the sum
of two others. Positions are counted over both masks, as transformers' own `generate` does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from deploykit.errors import UsageError
from deploykit.quiet import quiet
from deploykit.signature import Feeds
from deploykit.sources._hf_config import Found
from deploykit.sources._hf_inputs import Input, Wanted, mask
from deploykit.twin import twin

PAST_MASK = "past_attention_mask"


def with_cache(found: Found, module: Any, plain: Wanted, feeds: Feeds) -> tuple[Any, Wanted, Feeds]:
    """The decoder that takes and gives its cache, its inputs, and an example whose past was really computed.

    Args:
        found: the model.
        module: a decoder.
        plain: its inputs without a cache: `input_ids` and `attention_mask`.
        feeds: an example of them.

    Raises:
        UsageError: BAD_SOURCE, the model is no decoder, or remembers otherwise than by keys and values.
    """
    names = [one.name for one in plain.inputs]
    takes = inspect.signature(module.forward).parameters
    if names != ["input_ids", "attention_mask"] or "past_key_values" not in takes:
        raise _no_cache(found, f"takes {', '.join(names)}, and only decoders of text have a cache")
    past = _past(found, module, feeds)
    ids, hidden = plain.inputs
    batch, length = ids.dims
    inputs = [ids, hidden, Input(PAST_MASK, "int64", (batch, _past_dim(length)), lambda s, _: mask(s, left=True))]
    for index, (key, value) in enumerate(past):
        inputs += [_state(f"past_key_{index}", key, inputs[2]), _state(f"past_value_{index}", value, inputs[2])]
    wanted = Wanted(tuple(inputs))
    example = {**wanted.feeds(0), **feeds}
    for index, layer in enumerate(past):
        for kind, state in zip(("key", "value"), layer, strict=True):
            name = f"past_{kind}_{index}"
            example[name] = _fitted(state, example[name].shape)
    has_positions = "position_ids" in takes
    called = twin(module, _around(len(past), has_positions=has_positions))
    return called, wanted, {one.name: example[one.name] for one in wanted.inputs}


def _past_dim(length: str) -> str:
    """`P` with the range of the new tokens' length."""
    _, equal, limits = length.partition("=")
    return f"P{equal}{limits}"


def _state(name: str, tensor: torch.Tensor, hidden: Input) -> Input:
    """Keys or values of one layer, [batch, heads, past, width]."""
    dims = (hidden.dims[0], str(tensor.shape[1]), hidden.dims[1], str(tensor.shape[3]))
    return Input(name, "float32", dims, lambda shape, rng: rng.standard_normal(shape))


def _past(found: Found, module: Any, feeds: Feeds) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of every layer after the example's tokens."""
    cache = DynamicCache()
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    try:
        with torch.no_grad(), quiet():
            module(**tensors, past_key_values=cache, use_cache=True)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError) as error:
        raise _no_cache(found, f"does not take one: {' '.join(str(error).split())[:160]}") from error
    layers: list[Any] = cache.layers
    plain = bool(layers) and all(type(layer) is DynamicLayer and layer.keys is not None for layer in layers)
    if not plain or any(layer.keys.ndim != 4 for layer in layers):
        raise _no_cache(found, "remembers otherwise than by the keys and values of every layer")
    return [(layer.keys, layer.values) for layer in layers]


def _no_cache(found: Found, what: str) -> UsageError:
    hint = f"leave :cache out: {found.subject.removesuffix(':cache')}"
    return UsageError(found.subject, f"{found.architecture.__name__} {what}", hint, "BAD_SOURCE")


def _fitted(state: torch.Tensor, shape: tuple[int, ...]) -> Any:
    """The computed state, its rows and positions repeated or cut to `shape`."""
    array = state.numpy()
    for axis, size in enumerate(shape):
        array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return np.ascontiguousarray(array)


def _around(layers: int, *, has_positions: bool) -> Callable[..., Any]:
    """What is called instead of forward."""

    def around(forward: Callable[..., Any], inputs: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        ids, hidden, past_hidden, *past = inputs
        seen = torch.cat([past_hidden, hidden], dim=1)
        cache = DynamicCache()
        for layer in range(layers):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        options: dict[str, Any] = {}
        if has_positions:
            counted = (seen.cumsum(dim=1) - 1).clamp(min=0)
            options["position_ids"] = counted[:, past_hidden.shape[1] :]
        answer = forward(ids, attention_mask=seen, past_key_values=cache, use_cache=True, **options)
        outputs = {"logits": answer[0]}
        layers_after: list[Any] = cache.layers
        for layer in range(layers):
            outputs[f"present_key_{layer}"] = layers_after[layer].keys
            outputs[f"present_value_{layer}"] = layers_after[layer].values
        return outputs

    return around
