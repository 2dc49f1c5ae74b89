import numpy as np
import pytest
import torch
from torch.nn import functional

from deploykit.capture import images
from deploykit.errors import WorkError
from deploykit.preprocessing import parse
from deploykit.preprocessing_torch import fused

IMAGENET = parse("imagenet")


@pytest.mark.parametrize(
    "text",
    [
        "imagenet",
        "imagenet,order=bgr,layout=nchw,interpolation=bicubic",
        "size=90x130",
        "resize=100",
        "crop=64",
        "mean=1",
    ],
)
def test_four_ways_to_do_the_same_agree(text):
    said = images.proof(parse(text), 3)
    assert "torchvision" in said
    assert "Pillow" in said


def test_grey_images_are_proven_too():
    assert "Pillow" in images.proof(parse("size=50,mean=0.5,std=0.5"), 1)


def plain_resize(steps, raw, dtype):
    x = functional.interpolate(raw.permute(0, 3, 1, 2).to(dtype), size=(224, 224), mode="bilinear")
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (steps.mean, steps.std))
    return (x / 255 - mean) / std


def other(text):
    return lambda steps, raw, dtype: fused(parse(text), raw, dtype)


def twice(steps, raw, dtype):
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (steps.mean, steps.std))
    return (fused(steps, raw, dtype) - mean) / std


MISTAKES = {
    "std swapped": other("imagenet,std=0.225/0.224/0.229"),
    "mean and std exchanged": other("imagenet,mean=0.229/0.224/0.225,std=0.485/0.456/0.406"),
    "blue first": other("imagenet,order=bgr"),
    "not antialiased": plain_resize,
    "normalized twice": twice,
    "not scaled": other("imagenet,scale=1"),
    "cubic": other("imagenet,interpolation=bicubic"),
    "aspect lost": other("imagenet,size=224"),
    "crop half a pixel off": other("resize=256,crop=224x223,mean=0.485/0.456/0.406,std=0.229/0.224/0.225"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_exported_steps_stops_the_export(monkeypatch, mistake):
    monkeypatch.setattr(images, "fused", MISTAKES[mistake])
    with pytest.raises(WorkError) as caught:
        images.proof(IMAGENET, 3)
    assert caught.value.code == "PREPROCESS_MISMATCH"
    assert "the exported steps" in caught.value.message


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_reference_stops_the_export(monkeypatch, mistake):
    monkeypatch.setattr(images, "written_out", MISTAKES[mistake])
    with pytest.raises(WorkError) as caught:
        images.proof(IMAGENET, 3)
    assert caught.value.code == "PREPROCESS_MISMATCH"


def test_a_mistake_that_all_of_ours_share_is_seen_by_those_of_others(monkeypatch):
    wrong = MISTAKES["std swapped"]
    monkeypatch.setattr(images, "fused", wrong)
    monkeypatch.setattr(images, "written_out", wrong)
    monkeypatch.setattr(
        images, "prepared", lambda steps, raw: wrong(steps, torch.from_numpy(raw), torch.float32).numpy()
    )
    with pytest.raises(WorkError, match="torchvision"):
        images.proof(IMAGENET, 3)


def test_levels_are_those_of_the_raw_image():
    zero = np.zeros((1, 3, 2, 2), np.float32)
    one = zero + np.asarray([1 / 0.229, 0, 0], np.float32).reshape(1, 3, 1, 1) / 255
    assert images.levels(IMAGENET, zero, one) == pytest.approx(1.0)
    assert images.levels(IMAGENET, zero, zero[:, :, :1]) == float("inf")
