"""Preprocessing before it is exported: four ways to do the same steps, held against each other on raw images."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from deploykit.diagnosis import remedy
from deploykit.errors import WorkError
from deploykit.preprocessing import Preprocessing
from deploykit.preprocessing_arrays import prepared
from deploykit.preprocessing_images import laid, patterns, pictures
from deploykit.preprocessing_torch import fused, written_out

EXACT = 0.01
"""Levels of 255 by which float evaluations of one definition may differ; wrong steps are off by whole levels."""

ROUNDED = 1.5
"""Levels for what rounds to whole ones after each of two passes, as Pillow does: half a level each, and fixed point."""

ROUNDING = {"Pillow", "torchvision in uint8"}

SIZES = ((320, 288), (97, 131), (300, 640))


def proof(preprocessing: Preprocessing, channels: int) -> str:
    """How far apart the evaluations are, in words.

    Args:
        preprocessing: the steps.
        channels: of the images.

    Raises:
        WorkError: PREPROCESS_MISMATCH, one of them is another pipeline.
    """
    found: dict[str, float] = {}
    for raw in _questions(preprocessing, channels):
        expected = prepared(preprocessing, raw)
        tensor = torch.from_numpy(raw)
        for name, way in (("the exported steps", fused), ("the reference", written_out)):
            actual = way(preprocessing, tensor, torch.float32).numpy()
            found[name] = max(found.get(name, 0.0), levels(preprocessing, expected, actual))
        for name, image in _elsewhere(preprocessing, raw):
            found[name] = max(found.get(name, 0.0), levels(preprocessing, expected, image))
    for name, value in found.items():
        if not value <= (ROUNDED if name in ROUNDING else EXACT):
            message = f"{name} and its definition in numpy are {value:.3g} levels of 255 apart"
            raise WorkError("--preprocess", message, remedy("PREPROCESS_MISMATCH"), "PREPROCESS_MISMATCH")
    shown = ", ".join(f"{name} {value:.2g}" for name, value in found.items())
    rounds = "; Pillow rounds to whole levels" if "Pillow" in found else ""
    return f"largest distance to its definition in levels of 255: {shown}{rounds}"


def levels(preprocessing: Preprocessing, expected: NDArray[np.float32], actual: NDArray[np.float32]) -> float:
    """The largest difference of two [N, C, H, W] in levels of the raw image; infinite where the shapes differ."""
    if expected.shape != actual.shape:
        return float("inf")
    std = np.asarray(preprocessing.std).reshape(1, -1, 1, 1)
    far = np.abs(expected.astype(np.float64) - actual) * std / preprocessing.scale
    return float(far.max(initial=0.0))


def prepare(preprocessing: Preprocessing, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the recorded steps give, by torch: verify holds numpy's to it."""
    image: NDArray[np.float32] = fused(preprocessing, torch.from_numpy(raw), torch.float32).contiguous().numpy()
    return image


def _questions(preprocessing: Preprocessing, channels: int) -> Iterator[NDArray[np.uint8]]:
    least = preprocessing.crop if preprocessing.resize is None and preprocessing.crop else (1, 1)
    generator = np.random.default_rng(0)
    for height, width in SIZES:
        size = max(height, least[0]), max(width, least[1])
        shape = preprocessing.raw_shape(2, channels, *size)
        yield pictures(shape, preprocessing.layout, generator)
        yield laid(np.stack([image for _, image in patterns(channels, *size)]), preprocessing.layout)


def _elsewhere(preprocessing: Preprocessing, raw: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The same by torchvision's transforms and by Pillow, where they are installed."""
    planes = raw if preprocessing.layout == "nchw" else np.moveaxis(raw, 3, 1)
    planes = np.ascontiguousarray(planes[:, ::-1] if preprocessing.order == "bgr" else planes)
    if find_spec("torchvision") is None or planes.shape[1] not in {1, 3}:
        return
    # it cuts what a cubic overshoots after both passes; on whole levels it does as Pillow
    if preprocessing.interpolation == "bilinear":
        yield "torchvision", _by_torchvision(preprocessing, torch.from_numpy(planes).float())
    yield "torchvision in uint8", _by_torchvision(preprocessing, torch.from_numpy(planes)).astype(np.float32)
    if find_spec("PIL") is not None:
        yield "Pillow", np.concatenate([_by_pillow(preprocessing, image) for image in planes])


def _by_torchvision(preprocessing: Preprocessing, image: torch.Tensor) -> NDArray[np.float32]:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as steps

    wanted: list[int] | None = list(preprocessing.size) if preprocessing.size else None
    if preprocessing.resize is not None:
        wanted = [preprocessing.resize]
    if wanted is not None:
        mode = InterpolationMode(preprocessing.interpolation)
        image = steps.resize(image, wanted, interpolation=mode, antialias=True)
    if preprocessing.crop is not None:
        image = steps.center_crop(image, list(preprocessing.crop))
    return _normalized(preprocessing, image)


def _normalized(preprocessing: Preprocessing, image: torch.Tensor) -> NDArray[np.float32]:
    from torchvision.transforms.v2 import functional as steps

    channels = image.shape[1]
    mean, std = (list(v) * (channels if len(v) == 1 else 1) for v in (preprocessing.mean, preprocessing.std))
    found: NDArray[np.float32] = steps.normalize(image.float() * preprocessing.scale, mean, std).numpy()
    return found


def _by_pillow(preprocessing: Preprocessing, planes: NDArray[np.uint8]) -> NDArray[np.float32]:
    from PIL import Image
    from torchvision.transforms.v2 import functional as steps

    image = Image.fromarray(planes[0] if len(planes) == 1 else np.moveaxis(planes, 0, 2))
    height, width = preprocessing.resized(image.height, image.width)
    if (height, width) != (image.height, image.width):
        way = Image.Resampling.BICUBIC if preprocessing.interpolation == "bicubic" else Image.Resampling.BILINEAR
        image = image.resize((width, height), way)
    if preprocessing.crop is not None:
        image = steps.center_crop(image, list(preprocessing.crop))
    array = np.asarray(image, np.float32)
    array = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    return _normalized(preprocessing, torch.from_numpy(np.ascontiguousarray(array))[None])
