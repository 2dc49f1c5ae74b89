"""Small sizes for every type of transformers, so that a model can be tried by its name alone."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from deploykit.errors import WorkError
from deploykit.quiet import quiet

VOCABULARY, WIDTH, HEADS, LAYERS, POSITIONS, CLASSES = 512, 64, 4, 2, 128, 10
"""What a small model has; its weights are some hundred kilobytes."""

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "emb_dim", "embedding_size"), WIDTH),
    **dict.fromkeys(("head_dim", "d_kv", "d_head"), WIDTH // HEADS),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "encoder_layers"), LAYERS
    ),
    "decoder_layers": LAYERS,
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), HEADS),
    "num_key_value_heads": HEADS // 2,
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "hidden_dim", "d_inner"), 2 * WIDTH),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size"), 2 * WIDTH),
    **dict.fromkeys(("word_embed_proj_dim", "projection_dim", "projection_size"), WIDTH),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_target_positions"), POSITIONS),
    "max_source_positions": POSITIONS // 2,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("image_size",), 64),
    "patch_size": 16,
    "sliding_window": 16,
}
"""Sizes by the names that configurations use; a type takes those that it has as whole numbers."""

_OWN: dict[str, dict[str, Any]] = {
    "wav2vec2": {"conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    "resnet": {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1]},
    "convnext": {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1], "patch_size": 4},
    "convnextv2": {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 1, 1], "patch_size": 4},
    "swin": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "patch_size": 4, "window_size": 4},
    "swinv2": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "patch_size": 4, "window_size": 4},
    "segformer": {
        "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4],
        "decoder_hidden_size": 32,
    },
    "albert": {"embedding_size": 32},
    "electra": {"embedding_size": 32},
    "funnel": {"block_sizes": [1, 1], "d_head": 16},
    "longformer": {"attention_window": [8, 8]},
    "big_bird": {"attention_type": "original_full"},
    "audio-spectrogram-transformer": {"max_length": 64, "num_mel_bins": 32},
    "gptj": {"rotary_dim": 8},
    "codegen": {"rotary_dim": 8},
    "detr": {"num_queries": 10},
    "whisper": {"num_mel_bins": 16, "suppress_tokens": None, "begin_suppress_tokens": None},
}  # fmt: skip
"""What a type needs beside, or otherwise. Hubert, WavLM and the like are built as wav2vec2 is."""

_AS_WAV2VEC2 = ("hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio", "sew")

_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "sep_token_id", "cls_token_id")


def small(config_class: Any, subject: str) -> Any:
    """A configuration of `config_class` with small sizes and weights that give every layer a say.

    Raises:
        WorkError: SOURCE_ERROR, the type has no such sizes.
    """
    try:
        with quiet():
            usual = config_class()
            changed = _changed(usual, config_class.model_type)
            return config_class(**changed, num_labels=CLASSES)
    except Exception as error:
        message = f"no small form of it: {' '.join(str(error).split())[:200]}"
        hint = "write the sizes into a config.json and name that file"
        raise WorkError(subject, message, hint, "SOURCE_ERROR") from error


def _changed(usual: Any, kind: str) -> dict[str, Any]:
    own = {one.name for one in fields(usual)}  # others are computed from these
    changed = {name: size for name, size in _SIZES.items() if name in own and _is_count(getattr(usual, name))}
    if kind in _AS_WAV2VEC2:
        kind = "wav2vec2"
    changed |= {name: value for name, value in _OWN.get(kind, {}).items() if hasattr(usual, name)}
    for name, part in vars(usual).items():  # a text and a vision tower, say
        if hasattr(part, "model_type") and hasattr(part, "to_dict"):
            changed[name] = {**part.to_dict(), **_changed(part, part.model_type)}
    vocabulary = changed.get("vocab_size", 0)
    for name in _TOKENS:
        token = getattr(usual, name, None)
        if vocabulary and _is_count(token) and token >= vocabulary:
            changed[name] = 2 if name == "eos_token_id" else 1
    # the usual 0.02 is made for widths of thousands: here a whole layer would hardly show in the answer
    for name in ("initializer_range", "init_std"):
        if hasattr(usual, name):
            changed[name] = 1 / math.sqrt(WIDTH)
    return changed


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
