"""Preprocessing as torch operators, twice and independently.

`fused` is what is exported, its sizes symbolic if need be. `written_out` answers the reference: plane by plane, with
weights from `preprocessing_arrays` for each size, so that a mistake in one of the two shows as a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deploykit.preprocessing import Preprocessing, margin
from deploykit.preprocessing_arrays import CUBIC, resample

if TYPE_CHECKING:
    import torch

Steps = Callable[[Preprocessing, "torch.Tensor", "torch.dtype"], "torch.Tensor"]
"""Raw images and the dtype that is wanted, to what the model gets."""


def around_forward(preprocessing: Preprocessing, place: int, steps: Steps) -> Callable[..., Any]:
    """Calls forward with the image at `place` preprocessed, in the dtype of the module's weights."""

    def around(forward: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        image = steps(preprocessing, arguments[place], _dtype(forward))
        return forward(*arguments[:place], image, *arguments[place + 1 :])

    return around


def _dtype(forward: Callable[..., Any]) -> torch.dtype:
    """That of the weights behind `forward`: of the module it is bound to (a copy may be wider), or of a program."""
    import torch

    owner = forward.args[0] if isinstance(forward, partial) else getattr(forward, "__self__", forward)
    weights = owner.parameters() if isinstance(owner, torch.nn.Module) else ()
    return next((p.dtype for p in weights if p.is_floating_point()), torch.float32)


def fused(preprocessing: Preprocessing, images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The steps as exported: resize and crop are two matrix products, whose weights are computed from the image's size.

    No branch depends on a size, so that dims stay symbolic; no operator needs a recent opset; and only what the crop
    keeps is computed. torch's own antialiased resize and ONNX's `Resize` place pixels in float32, which costs up to
    0.006 levels of 255 and R up to 10 on sharp edges; places as ratios of whole numbers cost nothing.
    """
    import torch

    work = torch.float64 if dtype == torch.float64 else torch.float32
    x = images.permute(0, 3, 1, 2) if preprocessing.layout == "nhwc" else images
    x = x.to(work)
    height, width = x.shape[2], x.shape[3]
    high, wide = _resized(preprocessing, height, width)
    cut = preprocessing.crop or (high, wide)
    if preprocessing.size is not None or preprocessing.resize is not None:
        # Pillow's order, columns first: it shows where bicubic overshoots and is cut to what a pixel holds
        x = _clipped(preprocessing, x @ _weights(preprocessing, width, wide, cut[1], work).transpose(0, 1))
        x = _clipped(preprocessing, _weights(preprocessing, height, high, cut[0], work) @ x)
    elif preprocessing.crop is not None:
        x = x.index_select(2, _places(high, cut[0])).index_select(3, _places(wide, cut[1]))
    if preprocessing.order == "bgr":
        x = x.flip(1)
    mean, std = (torch.tensor(v, dtype=work).reshape(1, -1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return ((x * preprocessing.scale - mean) / std).to(dtype)


def _clipped(preprocessing: Preprocessing, x: torch.Tensor) -> torch.Tensor:
    return x.clamp(0.0, 255.0) if preprocessing.interpolation == "bicubic" else x


def _resized(preprocessing: Preprocessing, height: Any, width: Any) -> tuple[Any, Any]:
    """`Preprocessing.resized` for sizes that are numbers, symbols, or tensors while tracing."""
    import torch

    if preprocessing.size is not None or preprocessing.resize is None:
        return preprocessing.resized(height, width)
    traced = isinstance(height, torch.Tensor)
    shorter = torch.minimum(height, width) if traced else torch.sym_min(height, width)
    return preprocessing.resize * height // shorter, preprocessing.resize * width // shorter


def _places(full: Any, part: Any) -> torch.Tensor:
    """int64[part]: the middle of `full` pixels, `margin` without branches."""
    import torch

    if part is full:
        return torch.arange(full)
    half = (full - part) // 2
    places: torch.Tensor = torch.arange(part) + (half + ((full - part) % 2) * (half % 2))
    return places


def _weights(preprocessing: Preprocessing, size: Any, full: Any, part: Any, dtype: torch.dtype) -> torch.Tensor:
    """[part, size]: how much of each pixel goes into the middle `part` of `full` pixels; rows sum to 1."""
    import torch

    rows, pixels = _places(full, part).unsqueeze(1), torch.arange(size).unsqueeze(0)
    # (row + 1/2) * size / full - (pixel + 1/2), over the width of the filter: whole numbers up to the last division
    apart = ((2 * rows + 1) * size - (2 * pixels + 1) * full).abs()
    larger = torch.maximum(_scalar(size), _scalar(full))
    x = apart.to(dtype) / (2 * larger).to(dtype)
    if preprocessing.interpolation == "bilinear":
        weights = (1.0 - x).clamp(min=0.0)
    else:
        near = ((CUBIC + 2.0) * x - (CUBIC + 3.0)) * x * x + 1.0
        far = (((x - 5.0) * x + 8.0) * x - 4.0) * CUBIC
        weights = torch.where(x < 1.0, near, torch.where(x < 2.0, far, torch.zeros_like(x)))
    shares: torch.Tensor = weights / weights.sum(1, keepdim=True)
    return shares


def _scalar(size: Any) -> torch.Tensor:
    """A size as an int64 tensor, whichever of a number, a symbol and a tensor it is."""
    import torch

    scalar: torch.Tensor = torch.arange(1) + size
    return scalar


def written_out(preprocessing: Preprocessing, images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The steps with the weights of `preprocessing_arrays.resample`, crop included: what the reference answers."""
    import torch

    work = torch.float64 if dtype == torch.float64 else torch.float32
    x = images if preprocessing.layout == "nchw" else images.movedim(-1, 1)
    x = x.to(work)
    if preprocessing.order == "bgr":
        x = torch.stack([x[:, 2], x[:, 1], x[:, 0]], 1)
    rows, columns = (torch.from_numpy(matrix).to(x) for matrix in _matrices(preprocessing, *map(int, x.shape[2:])))
    x = _clipped(preprocessing, torch.einsum("nchw,vw->nchv", x, columns))
    x = _clipped(preprocessing, torch.einsum("nchv,uh->ncuv", x, rows))
    planes = [
        (x[:, channel] * preprocessing.scale - _of(preprocessing.mean, channel)) / _of(preprocessing.std, channel)
        for channel in range(x.shape[1])
    ]
    return torch.stack(planes, 1).to(dtype)


def _of(values: tuple[float, ...], channel: int) -> float:
    return values[channel] if len(values) > 1 else values[0]


@lru_cache(maxsize=64)
def _matrices(preprocessing: Preprocessing, height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """float64[rows, height] and float64[columns, width]: resize and crop along each axis."""
    resized = preprocessing.resized(height, width)
    cut = preprocessing.crop or resized
    found = []
    for size, full, part in zip((height, width), resized, cut, strict=True):
        start = margin(full, part)
        found.append(resample(preprocessing.interpolation, size, full)[start : start + part])
    return found[0], found[1]
