import json

import pytest

from deploykit.bundle import Bundle
from deploykit.errors import DeploykitError, UsageError
from deploykit.preprocessing import Preprocessing, margin, parse, said, sound

TEXTS = (
    "imagenet",
    "recorded:imagenet",
    "imagenet,layout=nchw,order=bgr",
    "imagenet,size=288x320",
    "mean=0.5,std=0.25",
    "mean=123.675/116.28/103.53,std=58.4/57.1/57.4,scale=1,resize=256,crop=224x200",
    "resize=300,interpolation=bicubic,input=photo",
    "recorded:scale=1/127.5,mean=1",
    "crop=64",
)


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_of_steps_says_the_same_steps(text):
    steps = parse(text)
    assert parse(str(steps)) == steps
    assert sound(steps) == ""
    assert str(parse(str(steps))) == str(steps)


def test_imagenet_is_what_torchvision_evaluates_with():
    from torchvision.models import ResNet18_Weights

    published, steps = ResNet18_Weights.IMAGENET1K_V1.transforms(), parse("imagenet")
    assert [steps.resize] == published.resize_size
    assert list(steps.crop) == published.crop_size * 2
    assert (list(steps.mean), list(steps.std)) == (published.mean, published.std)
    assert published.antialias
    assert published.interpolation.value == steps.interpolation


def test_imagenet_follows_the_size_that_the_model_takes():
    steps = parse("imagenet", side=(299, 299))
    assert (steps.resize, steps.crop) == (342, (299, 299))  # torchvision's own for inception_v3


def test_none_and_nothing_are_nothing():
    assert parse("") is None
    assert parse("none") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("imagnet", "imagnet is no preprocessing"),
        ("recorded:", "an empty text is no preprocessing"),
        ("recorded:none", "none is no preprocessing"),
        ("imagenet,", "an empty text is no setting"),
        ("imagenet,means=1", "means=1 is no setting"),
        ("mean=", "mean=: nothing does not fit"),
        ("mean=a/b/c", "does not fit"),
        ("mean=nan", "does not fit"),
        ("mean=1e999", "does not fit"),
        ("std=0", "std=0: 0 does not fit"),
        ("std=0.2/-1/3", "does not fit"),
        ("scale=1/0", "does not fit"),
        ("scale=0", "does not fit"),
        ("size=0", "does not fit"),
        ("size=224x", "does not fit"),
        ("size=99999", "does not fit"),
        ("resize=256x256", "does not fit"),
        ("layout=hwc", "does not fit"),
        ("interpolation=nearest", "does not fit"),
        ("input=1st", "does not fit"),
        ("mean=0.1,mean=0.2", "mean is given twice"),
        ("size=224,crop=200", "size is the whole of it"),
        ("mean=1/2,std=1/2/3", "2 means and 3 stds"),
        ("resize=200,crop=224", "larger than the shorter side"),
    ],
)
def test_what_is_no_preprocessing_is_refused_in_one_line(text, told):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.code == "BAD_PREPROCESS"
    assert caught.value.exit_code == 2
    assert told in caught.value.message
    assert caught.value.hint


def test_names_of_published_weights_are_the_sources_to_tell():
    steps = parse("torchvision,layout=nchw", lambda name: {"torchvision": "resize=232,crop=224,mean=0.1,std=0.2"}[name])
    assert (steps.resize, steps.crop, steps.layout) == (232, (224, 224), "nchw")


@pytest.mark.parametrize(
    ("full", "part", "before"), [(256, 224, 16), (341, 224, 58), (343, 224, 60), (224, 224, 0), (5, 4, 0), (7, 4, 2)]
)
def test_the_middle_is_that_of_torchvision(full, part, before):
    import torch
    from torchvision.transforms.v2.functional import center_crop

    assert margin(full, part) == before
    assert center_crop(torch.arange(float(full)).reshape(1, 1, full), [1, part]).flatten()[0] == before


@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 480), (375, 500), (33, 301), (1024, 1023), (7, 7)])
def test_the_longer_side_is_that_of_torchvision(height, width):
    import torch
    from torchvision.transforms.v2.functional import resize_image

    found = resize_image(torch.zeros(1, height, width), [256], antialias=True)
    assert parse("resize=256").resized(height, width) == tuple(found.shape[1:])


def test_people_are_told_who_does_it():
    assert "the module does" in said(parse("imagenet"))
    assert "whoever feeds it" in said(parse("recorded:imagenet"))


@pytest.mark.parametrize(
    "steps",
    [
        Preprocessing(std=(0.0,)),
        Preprocessing(scale=float("nan")),
        Preprocessing(mean=(0.1, 0.2), std=(1.0, 1.0, 1.0)),
        Preprocessing(size=(224, 224), crop=(10, 10)),
        Preprocessing(resize=10**7),
        Preprocessing(input="a,b=c"),
    ],
)
def test_steps_from_a_file_that_no_text_says_are_unsound(steps):
    assert sound(steps)


def test_a_manifest_with_unsound_steps_is_refused(tmp_path, build):
    build(tmp_path / "bundle")
    path = tmp_path / "bundle" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["preprocessing"] = {"size": [10**6, 10**6]}
    path.write_text(json.dumps(manifest))
    with pytest.raises(DeploykitError) as caught:
        Bundle(tmp_path / "bundle")
    assert caught.value.exit_code == 5
    assert "preprocessing" in caught.value.message
