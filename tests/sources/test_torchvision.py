"""torchvision's models by name: offline, repeatable, and informative without trained weights."""

import time

import numpy as np
import pytest
import torch

from deploykit.errors import RefusedError, UsageError
from deploykit.model import SourceSpec
from deploykit.sources.torchvision import Source


def load(name, **options):
    return Source().load(SourceSpec.parse(f"torchvision:{name}", **options))


def answer(loaded, feeds=None):
    with torch.no_grad():
        return loaded.module(*map(torch.from_numpy, (feeds or loaded.example).values()))


def test_resnet18_is_informative_and_quick():
    from torchvision.models import resnet18

    start = time.process_time()
    loaded = load("resnet18")
    assert time.process_time() - start < 30  # CPU seconds, both cores; about 3 on a quiet machine
    assert str(loaded.signature.inputs[0]) == "image:float32[N,3,224,224]"
    assert loaded.signature.sizes_of(loaded.example) == {"N": 2}
    assert loaded.notes["weights"] == "random (seed 0), batch-norm calibrated, head rescaled"
    assert not any(part.training for part in loaded.module.modules())
    assert all(norm.momentum == 0.1 for norm in loaded.module.modules() if isinstance(norm, torch.nn.BatchNorm2d))
    noise = {"image": np.random.default_rng(9).standard_normal((8, 3, 224, 224), np.float32)}
    scores = answer(loaded, noise)
    assert 0.5 < float(scores.std(dim=0).mean()) < 2
    assert len(set(scores.argmax(dim=1).tolist())) >= 4
    torch.manual_seed(0)
    plain = resnet18(weights=None).eval()
    with torch.no_grad():  # what it is good for: as torchvision builds it, the answer hardly depends on the input
        untouched = plain(torch.from_numpy(noise["image"]))
    assert len(set(untouched.argmax(dim=1).tolist())) <= 2


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("squeezenet1_1", 64),
        ("vit_b_32", 224),
        ("mobilenet_v3_small", 64),
        ("googlenet", 64),
        ("quantized_resnet18", 64),
    ],
)
def test_every_head_varies_by_about_one(name, size):
    loaded = load(name, inputs=(f"image:float32[N,3,{size},{size}]",))
    assert loaded.notes["weights"].endswith("head rescaled")
    noise = {"image": np.random.default_rng(9).standard_normal((8, 3, size, size), np.float32)}
    assert 0.3 < float(answer(loaded, noise).std(dim=0).square().mean().sqrt()) < 3


def test_seed_decides_the_weights():
    options = {"inputs": ("image:float32[N,3,64,64]",)}
    first, again, other = (load("mobilenet_v3_small", seed=seed, **options) for seed in (1, 1, 2))
    ours, same = first.module.state_dict(), again.module.state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in ours.items())
    assert not torch.equal(ours["classifier.3.weight"], other.module.state_dict()["classifier.3.weight"])


def test_checkpoint_is_taken_as_it_is(tmp_path):
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(7)
    trained = mobilenet_v3_small(weights=None).eval()
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    loaded = load("mobilenet_v3_small", checkpoint=str(tmp_path / "weights.pth"))
    assert all(torch.equal(tensor, loaded.module.state_dict()[name]) for name, tensor in trained.state_dict().items())
    assert loaded.notes["weights"] == "checkpoint"
    assert "mean=[0.485, 0.456, 0.406]" in loaded.notes["preprocessing"]
    with pytest.raises(RefusedError, match="CHECKPOINT_MISMATCH"):
        load("resnet18", checkpoint=str(tmp_path / "weights.pth"))


def test_inception_has_its_own_size_and_one_output(tmp_path):
    small = load("inception_v3", inputs=("image:float32[N,3,75,75]",))
    torch.save(small.module.state_dict(), tmp_path / "weights.pth")
    loaded = load("inception_v3", checkpoint=str(tmp_path / "weights.pth"))
    assert loaded.signature.inputs[0].shape == ("N", 3, 299, 299)
    assert answer(loaded).shape == (2, 1000)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("lraspp_mobilenet_v3_large", ["image:float32[N,3,128,128]"]),
        ("ssdlite320_mobilenet_v3_large", ["image:float32[3,320,320]"]),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", ["image:float32[3,128,128]"]),
        ("r3d_18", ["video:float32[N,3,8,64,64]"]),
        ("raft_small", ["image1:float32[N,3,128,128]", "image2:float32[N,3,128,128]"]),
    ],
)
def test_other_tasks_download_nothing(name, inputs, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", forbidden)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", forbidden)
    loaded = load(name)
    assert [str(spec) for spec in loaded.signature.inputs] == inputs
    assert loaded.notes["weights"].startswith("random (seed 0)")
    assert answer(loaded) is not None


def test_segmentation_and_video_tell_inputs_apart():
    for name, output in (("lraspp_mobilenet_v3_large", "out"), ("r3d_18", None)):
        loaded = load(name)
        scores = answer(loaded)[output] if output else answer(loaded)
        assert 0.3 < float((scores - scores.mean(dim=0)).std()) < 3
        assert loaded.notes["weights"] == "random (seed 0), batch-norm calibrated, head rescaled"


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_detection_takes_one_image_and_finds_boxes(name):
    loaded = load(name)
    found = answer(loaded)
    assert set(found) == {"boxes", "labels", "scores"}
    assert len(found["boxes"]) == len(found["labels"]) > 0
    assert float(found["scores"].max()) < 1
    with pytest.raises(UsageError, match=r"BAD_INPUT.*one image of a fixed size.*image:float32\[3,320,320\]"):
        load(name, inputs=("image:float32[N,3,128,128]",))


def test_unknown_name_comes_with_close_ones():
    with pytest.raises(UsageError, match=r"UNKNOWN_MODEL.*did you mean .*resnet18"):
        load("resnet_18")
    with pytest.raises(UsageError, match=r"list_models"):
        load("")


def test_wrong_number_of_inputs():
    with pytest.raises(UsageError, match=r"INPUT_NAMES.*takes 1 input, --input names 2"):
        load("resnet18", inputs=("a:float32[N,3,64,64]", "b:float32[N,3,64,64]"))
