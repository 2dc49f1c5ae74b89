import numpy as np
import pytest
import torch

from deploykit.preprocessing import parse
from deploykit.preprocessing_arrays import prepared, resample
from deploykit.preprocessing_images import laid, patterns, pictures, sizes_of

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def photos(height, width, rows=2):
    return pictures((rows, height, width, 3), "nhwc", np.random.default_rng(height * width))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "wanted"), [(500, 224), (33, 224), (224, 224), (7, 1), (1, 9), (1023, 256)])
def test_every_output_pixel_is_a_mean_and_the_weights_are_mirrored(interpolation, size, wanted):
    weights = resample(interpolation, size, wanted)
    assert weights.shape == (wanted, size)
    assert np.allclose(weights.sum(1), 1.0, rtol=0, atol=1e-12)
    assert np.allclose(weights, weights[::-1, ::-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (33, 301), (301, 33), (255, 257), (256, 256)])
def test_imagenet_in_numpy_is_torchvisions_evaluation_of_floats(height, width):
    from torchvision.transforms import v2

    raw = photos(height, width)
    steps = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224), v2.Normalize(*IMAGENET)])
    expected = steps(torch.from_numpy(raw).movedim(3, 1).double() / 255).numpy()
    actual = prepared(parse("imagenet"), raw)
    assert actual.dtype == np.float32
    assert np.abs(actual - expected).max() * 0.229 * 255 < 2e-4  # levels


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_it_is_pillow_but_for_its_rounding(interpolation):
    from PIL import Image

    raw = laid(np.stack([image for _, image in patterns(3, 97, 131)]), "nhwc")
    actual = prepared(parse(f"size=64x50,interpolation={interpolation},scale=1"), raw)
    way = Image.Resampling[interpolation.upper()]
    expected = np.stack([np.asarray(Image.fromarray(image).resize((50, 64), way)) for image in raw])
    assert np.abs(actual - np.moveaxis(expected, 3, 1)).max() < 1.5


def test_layout_and_order_are_only_another_way_to_give_the_same():
    raw = photos(60, 70)
    expected = prepared(parse("imagenet"), raw)
    planes = np.ascontiguousarray(np.moveaxis(raw, 3, 1))
    assert np.array_equal(prepared(parse("imagenet,layout=nchw"), planes), expected)
    assert np.array_equal(prepared(parse("imagenet,order=bgr"), raw[..., ::-1]), expected)
    assert not np.array_equal(prepared(parse("imagenet,order=bgr"), raw), expected)


def test_without_steps_only_the_scale_is_left():
    raw = photos(20, 30)
    assert np.array_equal(prepared(parse("scale=1"), raw), np.moveaxis(raw, 3, 1).astype(np.float32))


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_pictures_use_the_whole_range_and_do_not_average_to_grey(layout):
    shape = (3, 64, 80, 3) if layout == "nhwc" else (3, 3, 64, 80)
    found = pictures(shape, layout, np.random.default_rng(0))
    assert (found.shape, found.dtype) == (shape, np.uint8)
    assert (found.min(), found.max()) == (0, 255)
    small = prepared(parse(f"size=8,scale=1,layout={layout}"), found)
    assert small.std() > 30
    assert sizes_of(shape, layout) == (3, 3, 64, 80)


def test_patterns_hold_the_extremes():
    named = dict(patterns(3, 40, 30))
    assert (named["black"].max(), named["white"].min()) == (0, 255)
    assert set(np.unique(named["checkerboard"])) == {0, 255}
    assert all(image.shape == (3, 40, 30) and 0 <= image.min() <= image.max() <= 255 for image in named.values())
    assert sum(name.startswith("only-channel") for name in named) == 3
