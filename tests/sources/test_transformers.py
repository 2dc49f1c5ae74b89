"""transformers' models: from folders, configurations and types; their inputs, their cache, and what is refused."""

import json

import numpy as np
import pytest
import torch

from deploykit.errors import DeploykitError, RefusedError, UsageError, WorkError
from deploykit.model import SourceSpec
from deploykit.sources import _hf_config
from deploykit.sources.transformers import Source

_hf_config.offline()
transformers = pytest.importorskip("transformers")


def load(target, **options):
    return Source().load(SourceSpec.parse(f"transformers:{target}", **options))


def answer(loaded, feeds=None):
    with torch.no_grad():
        return loaded.module(*(torch.from_numpy(array.copy()) for array in (feeds or loaded.example).values()))


def inputs(loaded):
    return [str(spec) for spec in loaded.signature.inputs]


def ranges(loaded):
    return {dim.name: (dim.min, dim.max) for dim in loaded.signature.dims}


def small_bert(**options):
    return transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, **options,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(5)
    model = transformers.BertForSequenceClassification(small_bert(num_labels=3)).eval()
    model.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine", model


IDS, MASK, TYPES = "input_ids:int64[N,L]", "attention_mask:int64[N,L]", "token_type_ids:int64[N,L]"
SOURCE, TARGET = ["input_ids:int64[N,S]", "attention_mask:int64[N,S]"], "decoder_input_ids:int64[N,T]"
IMAGE = "pixel_values:float32[N,3,64,64]"


@pytest.mark.parametrize(
    ("kind", "architecture", "expected"),
    [
        ("bert", "BertForSequenceClassification", [IDS, MASK, TYPES]),
        ("distilbert", "DistilBertForSequenceClassification", [IDS, MASK]),
        ("gpt2", "GPT2LMHeadModel", [IDS, MASK]),
        ("llama", "LlamaForCausalLM", [IDS, MASK]),
        ("t5", "T5ForConditionalGeneration", [*SOURCE, TARGET]),
        ("bart", "BartForConditionalGeneration", [*SOURCE, TARGET]),
        ("whisper", "WhisperForConditionalGeneration", ["input_features:float32[N,16,128]", TARGET]),
        ("vit", "ViTForImageClassification", [IMAGE]),
        ("convnext", "ConvNextForImageClassification", [IMAGE]),
        ("wav2vec2", "Wav2Vec2ForCTC", ["input_values:float32[N,S]"]),
        ("clip", "CLIPModel", [IDS, MASK, IMAGE]),
    ],
)
def test_a_type_alone_is_a_small_model_that_tells_inputs_apart(kind, architecture, expected):
    loaded = load(kind)
    assert loaded.notes["architecture"] == architecture
    assert inputs(loaded) == expected
    assert loaded.notes["configuration"] == "small sizes"
    outputs = answer(loaded)
    first = outputs[0] if "logits" not in outputs else outputs["logits"]
    assert not any(part.training for part in loaded.module.modules())
    assert sum(parameter.numel() for parameter in loaded.module.parameters()) < 2_000_000
    assert torch.isfinite(first).all()
    rows = first.reshape(-1, first.shape[-1])
    assert 0.3 < float((rows - rows.mean(dim=0)).square().mean().sqrt()) < 3
    assert "past_key_values" not in outputs


def test_ids_span_the_vocabulary_and_padding_is_where_generation_puts_it():
    decoder, encoder = load("gpt2").example, load("bert").example
    assert (decoder["input_ids"].min(), decoder["input_ids"].max()) == (0, 511)
    assert decoder["attention_mask"].tolist() == [[1] * 32, [0] * 8 + [1] * 24]
    assert encoder["attention_mask"].tolist() == [[1] * 32, [1] * 24 + [0] * 8]
    assert set(np.unique(encoder["token_type_ids"])) == {0, 1}


def test_lengths_end_where_the_positions_do(tmp_path):
    assert ranges(load("bert"))["L"] == (1, 128)
    assert ranges(load("roberta"))["L"] == (1, 126)  # positions are counted from the padding id on
    longest = load("roberta", inputs=("input_ids:int64[N,126]",))
    assert longest.example["attention_mask"].shape == (2, 126)
    answer(longest)
    small_bert(architectures=["BertModel"]).save_pretrained(tmp_path)
    assert ranges(load(str(tmp_path / "config.json")))["L"] == (1, 40)


def test_input_texts_fix_rename_and_bound(tmp_path):
    fixed = load("bert", inputs=("input_ids:int64[1,16]",))
    assert inputs(fixed) == ["input_ids:int64[1,16]", "attention_mask:int64[1,16]", "token_type_ids:int64[1,16]"]
    bounded = load("bert", inputs=("input_ids:int64[B=1..4,T=8..64/8]",))
    assert inputs(bounded)[2] == "token_type_ids:int64[B,T]"
    assert ranges(bounded) == {"B": (1, 4), "T": (8, 64)}
    with pytest.raises(UsageError, match=r"INPUT_NAMES.*no input is called ids.*input_ids:int64\[N,L=1\.\.128\]"):
        load("bert", inputs=("ids:int64[N,L]",))
    with pytest.raises(UsageError, match=r"BAD_INPUT.*another dtype"):
        load("bert", inputs=("input_ids:int32[N,L]",))


def test_a_folder_is_what_save_pretrained_wrote(folder):
    path, model = folder
    loaded = load(str(path))
    assert loaded.notes["weights"] == "safetensors"
    assert loaded.notes["architecture"] == "BertForSequenceClassification"
    assert loaded.notes["task"] == "text classification"
    ids, mask, types = (torch.from_numpy(array) for array in loaded.example.values())
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
    assert torch.allclose(answer(loaded).logits, expected, atol=1e-6)
    assert str(path) not in json.dumps(loaded.notes)


def test_state_dicts_shards_and_half_precision(folder, tmp_path):
    path, model = folder
    expected = answer(load(str(path))).logits
    (path / "model.safetensors").unlink()
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    loaded = load(str(path))
    assert loaded.notes["weights"] == "state dict"
    assert torch.equal(answer(loaded).logits, expected)
    model.half().save_pretrained(tmp_path / "half", max_shard_size="4KB")
    assert (tmp_path / "half" / "model.safetensors.index.json").exists()
    loaded = load(str(tmp_path / "half"))
    assert loaded.notes["weights"] == "safetensors, stored as float16, exported as float32"
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    assert torch.allclose(answer(loaded).logits, expected, atol=1e-2)


def test_a_checkpoint_goes_into_a_configuration(folder):
    path, model = folder
    torch.save(model.state_dict(), path.parent / "mine.pt")
    loaded = load(str(path / "config.json"), checkpoint=str(path.parent / "mine.pt"))
    assert loaded.notes["weights"] == "checkpoint"
    assert torch.equal(answer(loaded).logits, answer(load(str(path))).logits)


def test_a_configuration_alone_has_random_weights_by_seed(folder):
    path, _ = folder
    first, again, other = (load(str(path / "config.json"), seed=seed) for seed in (1, 1, 2))
    assert first.notes["weights"] == "random (seed 1), head rescaled"
    ours, same, not_ours = (one.module.state_dict()["classifier.weight"] for one in (first, again, other))
    assert torch.equal(ours, same)
    assert not torch.equal(ours, not_ours)


def test_weights_that_do_not_fit_the_class_are_refused(folder):
    path, model = folder
    model.bert.save_pretrained(path)  # without the head, and names its own class
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(RefusedError, match=r"CHECKPOINT_MISMATCH.*classifier\.bias is missing"):
        load(str(path))


def test_files_with_code_are_refused(folder):
    path, _ = folder
    config = json.loads((path / "config.json").read_text())
    (path / "model.safetensors").unlink()

    class Nasty:
        def __reduce__(self):
            return print, ("code ran",)

    torch.save({"weight": Nasty()}, path / "pytorch_model.bin")
    with pytest.raises(RefusedError, match="UNTRUSTED_CODE"):
        load(str(path))
    (path / "modeling.py").write_text("raise SystemExit('code ran')")
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RefusedError, match=r"UNTRUSTED_CODE.*python:FILE\.py:build"):
        load(str(path))


def test_an_index_that_leads_outside_is_refused(folder):
    path, _ = folder
    (path / "model.safetensors").rename(path.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"classifier.bias": "../elsewhere.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RefusedError, match="outside the folder"):
        load(str(path))


def test_broken_and_missing_files(folder, tmp_path):
    path, _ = folder
    (path / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"NOT_FOUND.*no model\.safetensors.*mine/config\.json"):
        load(str(path))
    for content in (b"{", b"[]", b"\xff\xfe", b'{"a":' * 5000):
        (path / "config.json").write_bytes(content)
        with pytest.raises(RefusedError, match=r"MALFORMED.*no JSON object"):
            load(str(path))
    (path / "config.json").write_text('{"model_type": "bertt"}')
    with pytest.raises(UsageError, match=r"UNKNOWN_MODEL.*did you mean bert"):
        load(str(path))
    (path / "config.json").write_text('{"model_type": "bert", "hidden_size": "many"}')
    with pytest.raises(RefusedError, match=r"MALFORMED.*configuration is refused"):
        load(str(path))
    (path / "config.json").write_text('{"model_type": "bert", "quantization_config": {"quant_method": "gptq"}}')
    with pytest.raises(RefusedError, match=r"MALFORMED.*quantized"):
        load(str(path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"NOT_FOUND.*no config\.json"):
        load(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match=r"NOT_FOUND.*nothing is downloaded"):
        load("google-bert/bert-base-uncased")
    with pytest.raises(UsageError, match="UNKNOWN_MODEL"):
        load("")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt", "mistral", "qwen2", "gpt_neox"])
def test_a_cached_decoder_answers_as_one_without(kind):
    """Tokens in two steps, the first behind an empty past, against all of them at once, padded on the left."""
    plain, cached = load(kind), load(f"{kind}:cache")
    names = [spec.name for spec in cached.signature.inputs]
    assert names[:3] == ["input_ids", "attention_mask", "past_attention_mask"]
    assert names[3:5] == ["past_key_0", "past_value_0"]
    assert ranges(cached) == {"N": (1, 65535), "L": (1, 64), "P": (1, 64)}
    whole = {name: plain.example[name] for name in ("input_ids", "attention_mask")}
    expected = _counted(plain, whole)
    feeds = {
        n: np.zeros([1 if d == "P" else 2 if d == "N" else d for d in s.shape], s.dtype)
        for n, s in zip(names, cached.signature.inputs, strict=True)
        if n.startswith("past")
    }
    seen, got = np.zeros((2, 1), np.int64), []
    for start, end in ((0, 20), (20, 21), (21, 32)):
        step = {"input_ids": whole["input_ids"][:, start:end], "attention_mask": whole["attention_mask"][:, start:end]}
        outputs = answer(
            cached,
            {**step, "past_attention_mask": seen, **{n: a for n, a in feeds.items() if n != "past_attention_mask"}},
        )
        got.append(outputs["logits"])
        feeds = {n.replace("present", "past"): t.numpy() for n, t in outputs.items() if n != "logits"}
        seen = np.concatenate([seen, step["attention_mask"]], axis=1)
    real = torch.from_numpy(whole["attention_mask"]).bool()
    assert torch.allclose(torch.cat(got, dim=1)[real], expected[real], atol=1e-4)
    assert list(outputs) == ["logits", *(n.replace("past", "present") for n in names[3:])]


def _counted(plain, feeds):
    """What transformers answers with the positions that its own `generate` gives."""
    ids, mask = (torch.from_numpy(array) for array in feeds.values())
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    forward = type(plain.module).forward
    taken = forward.__wrapped__ if hasattr(forward, "__wrapped__") else forward
    import inspect

    options = {"position_ids": positions} if "position_ids" in inspect.signature(taken).parameters else {}
    with torch.no_grad():
        return forward(plain.module, input_ids=ids, attention_mask=mask, **options).logits


def test_only_decoders_with_keys_and_values_have_a_cache():
    for kind in ("bert", "vit", "t5", "mamba"):
        with pytest.raises(UsageError, match=rf"BAD_SOURCE.*leave :cache out: transformers:{kind}"):
            load(f"{kind}:cache")


@pytest.mark.parametrize(("kind", "code"), [("patchtst", "NO_INPUTS"), ("sam", "SOURCE_ERROR")])
def test_a_model_with_inputs_that_are_not_known_here_says_so(kind, code):
    with pytest.raises(DeploykitError, match=rf"{code}.*python:FILE\.py:build"):
        load(kind)


def test_a_class_can_be_named():
    assert load("BertForMaskedLM").notes["task"] == "fill mask"
    with pytest.raises(UsageError, match="UNKNOWN_MODEL"):
        load("BertTokenizer")


def test_nothing_reaches_the_network(monkeypatch, folder):
    def forbidden(*_, **__):
        raise AssertionError("a connection")

    monkeypatch.setattr("socket.socket.connect", forbidden)
    load(str(folder[0]))
    load("gpt2")


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("deploykit.sources.transformers.find_spec", lambda _: None)
    assert "deploykit[transformers]" in str(Source().unavailable())
    with pytest.raises(WorkError, match=r"PACKAGE_MISSING.*pip install 'deploykit\[transformers\]'"):
        load("bert")
