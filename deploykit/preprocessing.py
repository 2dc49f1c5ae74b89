"""What lies between a decoded image and a model's input: resize, crop, normalization, as one text and as data.

`imagenet`, `mean=0.485/0.456/0.406,std=0.229/0.224/0.225,resize=256,crop=224`, `recorded:imagenet,layout=nchw`: a name
or nothing, then what differs from it. By default the steps become part of the exported module; `recorded:` leaves them
to whoever feeds the model, and they are written down and proven.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any, Literal

from deploykit.errors import UsageError

RECORDED = "recorded:"

WEIGHTS = ("torchvision", "timm")
"""Names that stand for what a source's own published weights expect; the source replaces them by a full text."""

IMAGENET = 224
"""Size at which ImageNet classifiers are usually evaluated, after a resize of the shorter side to 256."""

SHORTER = Fraction(256, 224)
"""The shorter side before the crop: torchvision's reference evaluation; 299 gives its 342 for inception_v3."""

MAX_SIDE = 8192
"""Longest side asked for in a text: what is larger is no input of a network."""

_FIELDS = "mean, std, scale, size, resize, crop, layout, order, interpolation, input"


@dataclass(frozen=True)
class Preprocessing:
    """Steps from raw uint8 images to a model's input, in the order of the attributes.

    Attributes:
        mode: `fused` into the exported module, or `recorded` and left to whoever feeds the model.
        input: name of the input that the images are; empty where the model's only image is meant.
        layout: of the raw images, `nhwc` (what decoders and cameras give) or `nchw`; the model gets NCHW.
        order: of the raw images' channels: `rgb` as the model wants them, or `bgr`, which is turned round.
        resize: pixels that the shorter side gets, the aspect kept: the longer side is cut down to a whole number.
        size: height and width that the image gets whatever its aspect; not together with `resize` and `crop`.
        crop: height and width cut from the middle, half a pixel rounded to even.
        interpolation: `bilinear` or `bicubic`, antialiased as Pillow does it, without its rounding to whole levels.
        scale: factor on the pixels' 0 to 255.
        mean: subtracted after that, one number or one per channel.
        std: divides at the end, likewise.
    """

    mode: Literal["fused", "recorded"] = "fused"
    input: str = ""
    layout: Literal["nhwc", "nchw"] = "nhwc"
    order: Literal["rgb", "bgr"] = "rgb"
    resize: int | None = None
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __str__(self) -> str:
        parts = [f"{field.name}={_said(value)}" for field in fields(self) if (value := _own(self, field)) is not None]
        return (RECORDED if self.mode == "recorded" else "") + (",".join(parts) or "scale=1/255")

    @property
    def channel_axis(self) -> int:
        """Where the raw images have their channels."""
        return 3 if self.layout == "nhwc" else 1

    def raw_shape(self, rows: Any, channels: Any, height: Any, width: Any) -> tuple[Any, ...]:
        """The shape of raw images, in their layout."""
        return (rows, height, width, channels) if self.layout == "nhwc" else (rows, channels, height, width)

    def sides(self, shape: tuple[int | str, ...]) -> tuple[int | str, int | str]:
        """Height and width in a shape of raw images."""
        return (shape[1], shape[2]) if self.layout == "nhwc" else (shape[2], shape[3])

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing an image of `height` and `width` pixels (torchvision's and Pillow's rule)."""
        if self.size is not None:
            return self.size
        if self.resize is None:
            return height, width
        shorter = min(height, width)
        return self.resize * height // shorter, self.resize * width // shorter

    def result(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what the model gets."""
        return self.crop or self.resized(height, width)

    @property
    def settled(self) -> tuple[int, int] | None:
        """Height and width of what the model gets where they do not depend on the image, else None."""
        return self.crop or self.size


def said(preprocessing: Preprocessing) -> str:
    """The steps and who does them, for people."""
    what = str(preprocessing).removeprefix(RECORDED)
    if preprocessing.mode == "fused":
        return f"raw uint8 images; the module does {what}"
    return f"the model takes floats: whoever feeds it does {what}"


def sound(preprocessing: Preprocessing) -> str:
    """What is wrong with steps that came from a file, in words; empty for those that a text could have said."""
    try:
        again = parse(str(preprocessing))
    except UsageError as error:
        return error.message
    return "" if again == preprocessing else "is nothing that --preprocess says"


def _own(preprocessing: Preprocessing, field: Any) -> Any:
    """A field's value where it says something."""
    value = getattr(preprocessing, field.name)
    return None if field.name == "mode" or value == field.default else value


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        sides = all(isinstance(part, int) for part in value)
        return ("x" if sides else "/").join(f"{part!r}" for part in value)
    return f"{value!r}" if isinstance(value, float) else str(value)


def margin(full: int, part: int) -> int:
    """Pixels before the middle `part` of `full`, a half rounded to even: torchvision's `center_crop`."""
    return round((full - part) / 2.0)


def parse(
    text: str, expected: Callable[[str], str] | None = None, side: tuple[int, int] | None = None
) -> Preprocessing | None:
    """A text as data; None for `none` and for an empty one.

    Args:
        text: see the module's description.
        expected: gives the text that stands behind a name of `WEIGHTS`.
        side: height and width that the model takes, for `imagenet`; None is 224 by 224.

    Raises:
        UsageError: BAD_PREPROCESS, an unknown name or key, a value of the wrong form, or steps that exclude each other.
    """
    plain = text.replace(" ", "")
    recorded, plain = plain.startswith(RECORDED), plain.removeprefix(RECORDED)
    if plain in {"", "none"} and not recorded:
        return None
    name, comma, rest = plain.partition(",")
    if "=" in name:
        found, comma, rest = Preprocessing(), ",", plain
    else:
        found = _named(name, text, expected, side)
    parts = rest.split(",") if comma else []
    _check_keys([part.partition("=")[0] for part in parts], text)
    for part in parts:
        found = _changed(found, part, text)
    found = replace(found, mode="recorded" if recorded else "fused")
    _check(found, text)
    return found


def _named(name: str, text: str, expected: Callable[[str], str] | None, side: tuple[int, int] | None) -> Preprocessing:
    if name == "imagenet":
        height, width = side or (IMAGENET, IMAGENET)
        return Preprocessing(
            resize=round(min(height, width) * SHORTER),
            crop=(height, width),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )
    if name in WEIGHTS and expected is not None:
        found = parse(expected(name))
        assert found is not None
        return found
    if name in WEIGHTS:
        return Preprocessing()  # what it stands for is known where the model is loaded; the rest is checked here
    raise _bad(text, f"{name or 'an empty text'} is no preprocessing", f"one of imagenet, {', '.join(WEIGHTS)}, none")


def _check_keys(keys: list[str], text: str) -> None:
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise _bad(text, f"{twice} is given twice", "give each key once")
    if "size" in keys and {"resize", "crop"} & set(keys):
        raise _bad(text, "size is the whole of it", "leave out resize and crop, or size")


def _changed(found: Preprocessing, part: str, text: str) -> Preprocessing:
    key, equals, value = part.partition("=")
    read = _READERS.get(key)
    if read is None or not equals:
        raise _bad(text, f"{part or 'an empty text'} is no setting", f"KEY=VALUE with KEY in {_FIELDS}")
    try:
        return replace(found, **read(value))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise _bad(text, f"{part}: {value or 'nothing'} does not fit", _FORMS[key]) from error


def _sides(value: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", value)
    if match is None:
        raise ValueError
    height = _side(match[1])
    return height, _side(match[2]) if match[2] else height


def _side(value: str) -> int:
    if not re.fullmatch(r"\d{1,5}", value) or not 1 <= int(value) <= MAX_SIDE:
        raise ValueError
    return int(value)


def _number(value: str) -> float:
    above, _, below = value.partition("/")
    number = float(above) / float(below or 1)
    if not math.isfinite(number):
        raise ValueError
    return number


def _numbers(value: str) -> tuple[float, ...]:
    return tuple(_number(part) for part in value.strip("[]()").replace(";", "/").split("/"))


def _spread(value: str) -> tuple[float, ...]:
    numbers = _numbers(value)
    if any(number <= 0 for number in numbers):
        raise ValueError
    return numbers


def _factor(value: str) -> float:
    number = _number(value)
    if number <= 0:
        raise ValueError
    return number


def _one_of(*allowed: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in allowed:
            raise ValueError
        return value

    return read


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*", value):
        raise ValueError
    return value


def _maybe(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda value: None if value == "none" else read(value)


_READERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "mean": lambda v: {"mean": _numbers(v)},
    "std": lambda v: {"std": _spread(v)},
    "scale": lambda v: {"scale": _factor(v)},
    "size": lambda v: {"size": _sides(v), "resize": None, "crop": None},
    "resize": lambda v: {"resize": _maybe(_side)(v), "size": None},
    "crop": lambda v: {"crop": _maybe(_sides)(v), "size": None},
    "layout": lambda v: {"layout": _one_of("nhwc", "nchw")(v)},
    "order": lambda v: {"order": _one_of("rgb", "bgr")(v)},
    "interpolation": lambda v: {"interpolation": _one_of("bilinear", "bicubic")(v)},
    "input": lambda v: {"input": _name(v)},
}

_FORMS = {
    "mean": "one number or one per channel, for example mean=0.485/0.456/0.406",
    "std": "positive numbers, one or one per channel, for example std=0.229/0.224/0.225",
    "scale": "a positive number, for example scale=1/255",
    "size": "height and width in pixels, for example size=224 or size=224x320",
    "resize": "pixels of the shorter side, for example resize=256, or none",
    "crop": "height and width in pixels, for example crop=224, or none",
    "layout": "nhwc or nchw",
    "order": "rgb or bgr",
    "interpolation": "bilinear or bicubic",
    "input": "the name of the model's image input",
}


def _check(found: Preprocessing, text: str) -> None:
    """What each value alone does not show."""
    counts = {len(found.mean), len(found.std)} - {1}
    if len(counts) > 1:
        raise _bad(text, f"{len(found.mean)} means and {len(found.std)} stds", "give as many of one as of the other")
    if found.resize is not None and found.crop is not None and max(found.crop) > found.resize:
        message = f"a crop of {found.crop[0]}x{found.crop[1]} is larger than the shorter side, {found.resize}"
        raise _bad(text, message, f"for example resize={round(max(found.crop) * SHORTER)}, or size= instead of both")


def _bad(text: str, message: str, hint: str) -> UsageError:
    return UsageError(f"--preprocess {text}", message, hint, "BAD_PREPROCESS")
