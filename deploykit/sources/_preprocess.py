"""What published weights expect of raw images, as a text of `deploykit.preprocessing`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from deploykit.errors import UsageError

_INTERPOLATIONS = {"bilinear", "bicubic"}


def of_torchvision(name: str) -> str:
    """What torchvision's default weights of the model `name` expect: its own evaluation transforms.

    Raises:
        UsageError: BAD_PREPROCESS, they expect something else than single images.
    """
    from torchvision.models import get_model_weights

    steps = get_model_weights(name).DEFAULT.transforms()
    kind = type(steps).__name__
    if kind == "ObjectDetection":  # sizes are the model's own business
        return "scale=1/255"
    if kind not in {"ImageClassification", "SemanticSegmentation"}:
        raise _none("torchvision", f"its weights of {name} expect {kind}, no single images")
    parts = [_interpolation("torchvision", steps.interpolation.value)]
    resize = steps.resize_size[0] if isinstance(steps.resize_size, Sequence) else steps.resize_size
    if resize is not None:
        parts.append(f"resize={resize}")
    if kind == "ImageClassification":
        parts.append(f"crop={steps.crop_size[0]}")
    return ",".join([*parts, _normalization(steps.mean, steps.std)])


def of_timm(name: str, record: dict[str, Any]) -> str:
    """What timm's weights of the model `name` expect, from timm's record of them (`timm.data.resolve_data_config`).

    Raises:
        UsageError: BAD_PREPROCESS, timm records another way to crop.
    """
    _, height, width = record.get("input_size", (3, 224, 224))
    mode, share = record.get("crop_mode") or "center", record.get("crop_pct") or 0.875
    way = _interpolation("timm", record.get("interpolation") or "bicubic")
    if mode == "center" and height == width:
        # timm's transforms_imagenet_eval: the shorter side to floor(size / crop_pct), then the middle
        steps = f"resize={math.floor(height / share)},crop={height}"
    elif mode == "squash" and share == 1.0:
        steps = f"size={height}x{width}"
    else:
        raise _none("timm", f"its weights of {name} expect {height}x{width} by {mode} crop of {share:g}")
    mean, std = record.get("mean", (0.485, 0.456, 0.406)), record.get("std", (0.229, 0.224, 0.225))
    return ",".join([way, steps, _normalization(mean, std)])


def _interpolation(name: str, value: str) -> str:
    if value not in _INTERPOLATIONS:
        raise _none(name, f"its weights expect {value} interpolation")
    return f"interpolation={value}"


def _normalization(mean: Sequence[float], std: Sequence[float]) -> str:
    return f"mean={'/'.join(map(repr, mean))},std={'/'.join(map(repr, std))}"


def _none(name: str, message: str) -> UsageError:
    return UsageError(f"--preprocess {name}", message, "write the steps out: mean=…,std=…,size=…", "BAD_PREPROCESS")
