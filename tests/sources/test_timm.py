"""timm's models by name: offline, sized as asked for, and informative without trained weights."""

import numpy as np
import pytest
import torch

from deploykit.errors import RefusedError, UsageError, WorkError
from deploykit.model import SourceSpec
from deploykit.sources.timm import Source

timm = pytest.importorskip("timm")

SMALL = "image:float32[N,3,64,64]"


def load(name, **options):
    return Source().load(SourceSpec.parse(f"timm:{name}", **options))


def answer(loaded, rows=8, seed=9):
    noise = np.random.default_rng(seed).standard_normal(
        (rows, *next(iter(loaded.example.values())).shape[1:]), np.float32
    )
    with torch.no_grad():
        return loaded.module(torch.from_numpy(noise))


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto", "efficientnet_lite0"]
)
def test_random_weights_tell_inputs_apart(name):
    loaded = load(name, inputs=(SMALL,))
    assert [str(spec) for spec in loaded.signature.inputs] == [SMALL]
    assert loaded.notes["weights"].endswith("head rescaled")
    scores = answer(loaded)
    assert 0.3 < float(scores.std(dim=0).square().mean().sqrt()) < 3
    assert len(set(scores.argmax(dim=1).tolist())) >= 4
    assert not any(part.training for part in loaded.module.modules())


def test_the_recorded_size_is_the_default():
    assert [str(spec) for spec in load("mobilenetv3_small_050").signature.inputs] == ["image:float32[N,3,224,224]"]
    assert load("vit_tiny_patch16_384").example["image"].shape == (2, 3, 384, 384)


def test_another_size_builds_a_fixed_size_model_for_it():
    loaded = load("vit_tiny_patch16_224", inputs=(SMALL,))
    assert loaded.notes["built with img_size"] == "(64, 64)"
    assert loaded.module.pos_embed.shape[1] == 16 + 1
    assert "built with img_size" not in load("mobilenetv3_small_050", inputs=(SMALL,)).notes


def test_other_channels_and_free_sizes():
    loaded = load("mobilenetv3_small_050", inputs=("scan:float32[N=1..8,1,H=32..128/32,W=32..128/32]",))
    assert loaded.notes["built with in_chans"] == "1"
    assert loaded.signature.sizes_of(loaded.example) == {"N": 2, "H": 32, "W": 64}
    assert answer(loaded).shape == (8, 1000)


def test_the_seed_decides_the_weights():
    first, again, other = (load("mobilenetv3_small_050", inputs=(SMALL,), seed=seed) for seed in (1, 1, 2))
    ours, same, not_ours = (one.module.state_dict() for one in (first, again, other))
    assert all(torch.equal(tensor, same[name]) for name, tensor in ours.items())
    assert not torch.equal(ours["classifier.weight"], not_ours["classifier.weight"])


def test_a_checkpoint_brings_its_own_number_of_classes(tmp_path):
    torch.manual_seed(3)
    trained = timm.create_model("mobilenetv3_small_050", num_classes=7).eval()
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "mine.pth")
    loaded = load("mobilenetv3_small_050", inputs=(SMALL,), checkpoint=str(tmp_path / "mine.pth"))
    assert loaded.notes["weights"] == "checkpoint"
    assert loaded.notes["built with num_classes"] == "7"
    assert "mean=(0.485, 0.456, 0.406)" in loaded.notes["preprocessing"]
    image = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.module(image), trained(image))
    with pytest.raises(RefusedError, match="CHECKPOINT_MISMATCH"):
        load("resnet18", inputs=(SMALL,), checkpoint=str(tmp_path / "mine.pth"))


def test_nothing_is_downloaded(monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a download")

    monkeypatch.setattr("socket.socket.connect", forbidden)
    assert load("mobilenetv3_small_050.lamb_in1k", inputs=(SMALL,)).notes["weights"].startswith("random")
    for name in (
        "hf_hub:timm/resnet18.a1_in1k",
        "hf-hub:timm/resnet18.a1_in1k",
        "local-dir:/somewhere",
        "timm/resnet18",
    ):
        with pytest.raises(UsageError, match=r"UNKNOWN_MODEL.*nothing is downloaded.*--checkpoint"):
            load(name)


def test_unknown_names_come_with_close_ones():
    with pytest.raises(UsageError, match=r"UNKNOWN_MODEL.*did you mean .*resnet18"):
        load("resnet_18")
    with pytest.raises(UsageError, match=r"UNKNOWN_MODEL.*one of resnet18\.a1_in1k"):
        load("resnet18.nope")
    with pytest.raises(UsageError, match="UNKNOWN_MODEL"):
        load("")


def test_inputs_that_are_no_images():
    with pytest.raises(UsageError, match=r"INPUT_NAMES.*takes 1 input, --input names 2"):
        load("resnet18", inputs=("a:float32[N,3,64,64]", "b:float32[N,3,64,64]"))
    with pytest.raises(UsageError, match=r"BAD_INPUT.*no batch of images"):
        load("resnet18", inputs=("image:float32[N,3]",))


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("deploykit.sources.timm.find_spec", lambda _: None)
    assert "deploykit[timm]" in str(Source().unavailable())
    with pytest.raises(WorkError, match=r"PACKAGE_MISSING.*pip install 'deploykit\[timm\]'"):
        load("resnet18")
