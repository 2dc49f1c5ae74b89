"""The zoo's models from libraries: all of torchvision, and small members of families of timm and transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo_entry import Entry

# --- torchvision: everything in its own list; only what differs from the first line of its folder is written down -----

SIZES = {
    "alexnet": 64, "inception_v3": 96, "maxvit_t": 224, "vit_b_16": 224, "vit_b_32": 224, "vit_l_16": 224,
    "vit_l_32": 224, "vit_h_14": 224,
}  # fmt: skip
"""Pixels where 32 are too few."""

VIDEO = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (16, 224)}
"""Frames and pixels; 8 and 64 elsewhere."""

EXPECTED: Mapping[str, tuple[str, str]] = {}
"""Right outcomes of library models other than `pass`, with a reason: written by hand, model by model."""


def torchvision_models() -> list[Entry]:
    """Classification, segmentation, video and detection models of torchvision, from its own list."""
    import torchvision
    from torchvision.models import detection, list_models, segmentation, video

    names = list_models(module=torchvision.models)
    rows = [("classification", name, (_image(SIZES.get(name, 32)),)) for name in names]
    rows += [("segmentation", n, ("image:float32[N=1..4,3,64,64]",)) for n in list_models(module=segmentation)]
    rows += [("video", name, (_video(name),)) for name in list_models(module=video)]
    rows += [("detection", name, ()) for name in list_models(module=detection)]
    return [_entry(f"torchvision {task}", f"torchvision:{name}", inputs) for task, name, inputs in rows]


def _image(size: int) -> str:
    """A few rows prove the batch to be free: what a case costs is rows times pixels."""
    return f"image:float32[N=1..{4 if size >= 224 else 8},3,{size},{size}]"


def _video(name: str) -> str:
    frames, size = VIDEO.get(name, (8, 64))
    return f"video:float32[N=1..2,3,{frames},{size},{size}]"


def _entry(family: str, source: str, inputs: tuple[str, ...] = (), config: Mapping[str, Any] | None = None) -> Entry:
    expected, why = EXPECTED.get(source, ("", ""))
    return Entry(family, source, inputs, expected, why, config or {})


# --- timm: one small member of each family, and pixels ----------------------------------------------------------------

TIMM = {
    "beit_base_patch16_224": 224, "botnet26t_256": 256, "cait_xxs24_224": 224, "coat_lite_tiny": 224,
    "coatnet_pico_rw_224": 224, "convit_tiny": 224, "convmixer_768_32": 64, "convnext_zepto_rms": 64,
    "convnextv2_atto": 64, "crossvit_9_240": 240, "cspresnet50": 64, "davit_tiny": 64, "deit_tiny_patch16_224": 224,
    "densenet121": 32, "dla46_c": 64, "dpn48b": 64, "edgenext_xx_small": 64, "efficientformerv2_s0": 224,
    "efficientnet_lite0": 64, "efficientvit_b0": 64, "efficientvit_m0": 224, "eva02_tiny_patch14_224": 224,
    "fasternet_t0": 64, "fastvit_t8": 64, "focalnet_tiny_srf": 64, "gcvit_xxtiny": 224, "gernet_s": 64,
    "ghostnetv2_100": 64, "gmlp_ti16_224": 224, "hardcorenas_a": 64, "hgnetv2_b0": 64, "hiera_tiny_224": 224,
    "hrnet_w18_small": 64, "inception_next_atto": 64, "lcnet_035": 64, "levit_128s": 224, "mambaout_femto": 64,
    "mixer_s32_224": 224, "mixnet_s": 64, "mobilenetv1_100": 64, "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small_035": 64, "mobileone_s0": 64, "mobilevit_xxs": 64, "mobilevitv2_050": 64, "nest_tiny": 224,
    "nf_resnet26": 64, "pit_ti_224": 224, "poolformerv2_s12": 64, "pvt_v2_b0": 64, "regnetx_002": 64,
    "repghostnet_050": 64, "repvgg_a0": 64, "repvit_m0_9": 64, "res2net50_14w_8s": 64, "resmlp_12_224": 224,
    "resnest14d": 64, "resnet10t": 64, "resnetv2_18": 64, "rexnet_100": 64, "selecsls42": 64, "shvit_s1": 64,
    "skresnet18": 64, "starnet_s050": 64, "swiftformer_xs": 224, "swin_tiny_patch4_window7_224": 224,
    "swinv2_tiny_window8_256": 256, "tf_efficientnetv2_b0": 64, "tiny_vit_5m_224": 224, "tinynet_e": 64,
    "tnt_s_patch16_224": 224, "tresnet_m": 64, "twins_svt_small": 224, "visformer_tiny": 224,
    "vit_tiny_patch16_224": 224, "volo_d1_224": 224, "ese_vovnet19b_slim_dw": 64, "xception41": 64,
    "xcit_nano_12_p16_224": 224,
}  # fmt: skip


def timm_models() -> list[Entry]:
    """Families of timm."""
    return [_entry("timm", f"timm:{name}", (_image(size),)) for name, size in TIMM.items()]


# --- transformers: model type, architecture, configuration ------------------------------------------------------------

LOUD = {"initializer_range": 0.4}
"""Weights that make answers differ clearly; 0.02, which pretraining starts from, leaves them all alike."""

SMALL = {
    **LOUD, "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8}
GPT = {
    **LOUD, "vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
T5 = {
    "vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
    "initializer_factor": 3.0, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
BART = {
    "init_std": 0.3, "vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "pad_token_id": 1,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
VISION = {
    **LOUD, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "image_size": 32, "patch_size": 8, "num_channels": 3,
}  # fmt: skip
SPEECH = {
    **LOUD, "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "conv_dim": [32, 32, 32], "conv_stride": [5, 4, 2], "conv_kernel": [10, 8, 4],
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
    "do_stable_layer_norm": False, "feat_extract_norm": "group",
}  # fmt: skip
EXPERTS = {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}
WHISPER = {
    **BART, "vocab_size": 99, "num_mel_bins": 16, "max_source_positions": 30, "max_target_positions": 32,
    "decoder_start_token_id": 2, "pad_token_id": 1,
}  # fmt: skip

TRANSFORMERS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("albert", "AlbertForSequenceClassification", {**SMALL, "embedding_size": 16}),
    ("bart", "BartForConditionalGeneration", BART),
    ("bert", "BertForSequenceClassification", SMALL),
    ("bloom", "BloomForCausalLM", {**LOUD, "vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    ("convbert", "ConvBertForSequenceClassification", {**SMALL, "embedding_size": 32}),
    ("deberta_v2", "DebertaV2ForSequenceClassification", SMALL),
    ("deit", "DeiTForImageClassification", VISION),
    ("dinov2", "Dinov2ForImageClassification", VISION),
    ("distilbert", "DistilBertForSequenceClassification",
     {**LOUD, "vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48,
      "max_position_embeddings": 64}),
    ("electra", "ElectraForTokenClassification", {**SMALL, "embedding_size": 16}),
    ("falcon", "FalconForCausalLM", {**SMALL, "new_decoder_architecture": False}),
    ("fnet", "FNetForSequenceClassification", {**SMALL, "tpu_short_seq_length": 64}),
    ("gemma2", "Gemma2ForCausalLM", {**GROUPED, "sliding_window": 16, "query_pre_attn_scalar": 8}),
    ("gpt2", "GPT2LMHeadModel", GPT),
    ("gpt_neox", "GPTNeoXForCausalLM", SMALL),
    ("gptj", "GPTJForCausalLM", {**GPT, "rotary_dim": 4}),
    ("hubert", "HubertForCTC", SPEECH),
    ("llama", "LlamaForCausalLM", GROUPED),
    ("mamba", "MambaForCausalLM",
     {**LOUD, "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    ("marian", "MarianMTModel", {**BART, "decoder_start_token_id": 1}),
    ("mistral", "MistralForCausalLM", {**GROUPED, "sliding_window": 16}),
    ("mixtral", "MixtralForCausalLM", EXPERTS),
    ("mpnet", "MPNetForSequenceClassification", SMALL),
    ("opt", "OPTForCausalLM",
     {"init_std": 0.3, "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
      "ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": 32, "pad_token_id": 1}),
    ("phi", "PhiForCausalLM", {**SMALL, "partial_rotary_factor": 0.5}),
    ("qwen3", "Qwen3ForCausalLM", GROUPED),
    ("roberta", "RobertaForSequenceClassification", {**SMALL, "pad_token_id": 1}),
    ("segformer", "SegformerForImageClassification",
     {**LOUD, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16,
      "num_attention_heads": [1, 2, 2, 4], "image_size": 64}),
    ("siglip_vision_model", "SiglipVisionModel", VISION),
    ("squeezebert", "SqueezeBertForSequenceClassification", {**SMALL, "embedding_size": 32}),
    ("swin", "SwinForImageClassification",
     {**LOUD, "image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2],
      "window_size": 4}),
    ("t5", "T5ForConditionalGeneration", T5),
    ("vit", "ViTForImageClassification", VISION),
    ("wav2vec2", "Wav2Vec2ForCTC", SPEECH),
    ("whisper", "WhisperForConditionalGeneration", WHISPER),
    ("xlm-roberta", "XLMRobertaForSequenceClassification", {**SMALL, "pad_token_id": 1}),
)  # fmt: skip


def transformers_models() -> list[Entry]:
    """Architectures of transformers, built from a configuration that the run writes into a folder of its own."""
    made = []
    for kind, architecture, values in TRANSFORMERS:
        config = {"model_type": kind.replace("_v2", "-v2"), "architectures": [architecture], **values}
        made.append(_entry("transformers", f"transformers:{kind}", config=config))
    return made
