"""A loaded model behind its preprocessing: fused into the module, or written down beside it.

The fused module is a twin of the user's: class, weights and their names stay, so that checkpoints, digests and reports
speak of the model that the user knows, and only what goes in is another thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deploykit import registry
from deploykit.errors import UsageError
from deploykit.finished import Finished
from deploykit.model import LoadedModel, SourceSpec
from deploykit.preprocessing import IMAGENET, RECORDED, Preprocessing, parse
from deploykit.preprocessing_arrays import prepared
from deploykit.preprocessing_images import pictures
from deploykit.signature import Dim, Signature, TensorSpec, parse_dims, parse_input
from deploykit.twin import twin

SMALLEST, LARGEST = 32, 1024
"""Ends of a raw image's height and width where nobody states them and a resize takes any."""


def _usual(preprocessing: Preprocessing) -> tuple[int, int]:
    """Height and width of an ordinary raw image: somewhat larger than what is left of it, and no square."""
    side = preprocessing.resize or IMAGENET
    height, width = preprocessing.settled or (side, side)
    return max(SMALLEST, height * 10 // 7), max(SMALLEST, width * 9 // 7)


def load(spec: SourceSpec) -> LoadedModel:
    """What the user named, with the preprocessing asked for.

    Raises:
        DeploykitError: whatever the source raises; BAD_PREPROCESS where the steps do not fit the model.
    """
    source = registry.load("sources", spec.kind)()
    return behind(spec, source.load, getattr(source, "expects", None))


def behind(
    spec: SourceSpec, model_of: Callable[[SourceSpec], LoadedModel], expects: Callable[[SourceSpec], str] | None = None
) -> LoadedModel:
    """The model that `model_of` gives, behind the preprocessing that `spec` names.

    A `uint8` image among `spec.inputs` describes the raw images; all other texts describe the model's own inputs.

    Args:
        spec: what the user named.
        model_of: loads the model without preprocessing.
        expects: tells what the source's published weights expect, as a text; None where it cannot.

    Raises:
        UsageError: BAD_PREPROCESS, the steps do not lead from such images to the model's input.
    """
    if parse(spec.preprocess) is None:
        return model_of(spec)
    raw = [text for text in spec.inputs if _is_raw(text)]
    own = tuple(text for text in spec.inputs if text not in raw)
    if len(raw) > 1:
        raise _unfit(f"{len(raw)} inputs are raw images", "preprocess one, and the others in your own module")
    plain = replace(spec, inputs=own, preprocess="")
    try:
        model = model_of(plain)
    except UsageError as error:
        described = _described(raw, spec.preprocess) if error.code == "NO_INPUTS" and not own else None
        if described is None:
            raise
        model = model_of(replace(plain, inputs=(described,)))
    image = _image_input(model.signature, _asked(spec, expects, None))
    sides = tuple(side for side in image.shape[2:] if isinstance(side, int))
    asked = _asked(spec, expects, (sides[0], sides[1]) if len(sides) == 2 else None)
    return preprocessed(model, asked, parse_input(raw[0]) if raw else None, parse_dims(raw), spec.seed)


def _asked(
    spec: SourceSpec, expects: Callable[[SourceSpec], str] | None, side: tuple[int, int] | None
) -> Preprocessing:
    """The text of `spec` as data, names of published weights replaced by what they expect."""

    def expected(name: str) -> str:
        if name != spec.kind or expects is None:
            hint = f"name the steps: imagenet, or mean=…,std=…; {name} is for {name}:NAME"
            raise _unfit(f"{spec.kind} is no {name} model", hint, spec.preprocess)
        return expects(spec)

    found = parse(spec.preprocess, expected, side)
    assert found is not None
    return found


def _is_raw(text: str) -> bool:
    spec = parse_input(text)
    return spec.dtype == "uint8" and len(spec.shape) == 4


def _described(raw: list[str], text: str) -> str | None:
    """The model's own input where only the raw images are described and the steps say what comes out."""
    found = parse(text)
    if not raw or found is None or found.settled is None:
        return None
    spec = parse_input(raw[0])
    rows, channels = spec.shape[0], spec.shape[found.channel_axis]
    height, width = found.settled
    return f"{spec.name}:float32[{rows},{channels},{height},{width}]"


def preprocessed(
    model: LoadedModel, preprocessing: Preprocessing, raw: TensorSpec | None, dims: tuple[Dim, ...], seed: int
) -> LoadedModel:
    """The model with raw images as its input, or with a record of what they go through.

    Args:
        model: takes float32[N, C, H, W] and perhaps other inputs.
        preprocessing: the steps.
        raw: what the user says of the raw images, uint8; None derives it.
        dims: ranges that the user states.
        seed: of the example's pictures.

    Raises:
        UsageError: BAD_PREPROCESS, the steps do not lead from such images to the model's input.
    """
    from deploykit.preprocessing_torch import around_forward, fused, written_out

    spec = _image_input(model.signature, preprocessing)
    preprocessing = replace(preprocessing, input=spec.name)
    _check_channels(spec, preprocessing)
    _check_result(spec, preprocessing)
    if isinstance(model.module, Finished) and preprocessing.mode != "recorded":
        raise _unfit(
            "the source is a file, nothing can be fused into it", f"--preprocess {RECORDED}…, and do it before"
        )
    if preprocessing.mode == "recorded":
        return _recorded(model, preprocessing, spec, seed)
    given = raw or _raw_spec(spec, preprocessing, model.signature)
    signature = _with_raw(model.signature, spec, given, preprocessing, dims)
    place = next(i for i, one in enumerate(signature.inputs) if one.name == spec.name)
    sizes = _example_sizes(model, signature, preprocessing)
    shape = given.concrete(sizes)
    example = {**model.example, spec.name: _drawn(shape, preprocessing, seed)}
    return replace(
        model,
        module=twin(model.module, around_forward(preprocessing, place, fused)),
        reference=twin(model.module, around_forward(preprocessing, place, written_out)),
        signature=signature,
        example={one.name: example[one.name] for one in signature.inputs},
        preprocessing=preprocessing,
    )


def _drawn(shape: tuple[int, ...], preprocessing: Preprocessing, seed: int) -> NDArray[np.uint8]:
    return pictures(shape, preprocessing.layout, np.random.default_rng(seed))


def _recorded(model: LoadedModel, preprocessing: Preprocessing, spec: TensorSpec, seed: int) -> LoadedModel:
    """The model as it is; its example is what the steps make of pictures."""
    array = model.example[spec.name]
    rows, channels, height, width = array.shape
    size = source_size(preprocessing, height, width)
    raw = _drawn(preprocessing.raw_shape(rows, channels, *size), preprocessing, seed)
    example = {**model.example, spec.name: prepared(preprocessing, raw)}
    return replace(model, example=example, preprocessing=preprocessing)


def source_size(preprocessing: Preprocessing, height: int, width: int) -> tuple[int, int]:
    """Height and width of an image that the steps bring to `height` and `width`."""
    if preprocessing.settled is None and preprocessing.resize is None:
        return height, width
    return _usual(preprocessing)


def _image_input(signature: Signature, preprocessing: Preprocessing) -> TensorSpec:
    found = [spec for spec in signature.inputs if spec.dtype == "float32" and len(spec.shape) == 4]
    named = [spec for spec in found if spec.name == preprocessing.input] if preprocessing.input else found
    if len(named) == 1:
        return named[0]
    takes = ", ".join(map(str, signature.inputs))
    if found and len(named) != 1:
        names = ", ".join(spec.name for spec in found)
        raise _unfit(f"the model has the image inputs {names}", f"say which: input={found[0].name}")
    raise _unfit(f"the model takes {takes}, no image", "an image is float32[N,C,H,W]; leave --preprocess out")


def _check_channels(spec: TensorSpec, preprocessing: Preprocessing) -> None:
    channels = spec.shape[1]
    if not isinstance(channels, int):
        raise _unfit(f"the number of channels of {spec} is not fixed", "describe it with --input")
    for name in ("mean", "std"):
        count = len(getattr(preprocessing, name))
        if count not in {1, channels}:
            raise _unfit(f"{count} numbers as {name}, and {spec} has {channels} channels", f"give 1 or {channels}")
    if preprocessing.order == "bgr" and channels != 3:
        raise _unfit(f"{spec} has {channels} channels: there is no order to turn round", "leave out order=bgr")


def _check_result(spec: TensorSpec, preprocessing: Preprocessing) -> None:
    """The size that comes out is the one that the model takes."""
    wanted, settled = spec.shape[2:], preprocessing.settled
    if settled is None:
        if preprocessing.resize is not None and any(isinstance(side, int) for side in wanted):
            hint = f"add crop={'x'.join(map(str, wanted))}, or size= instead"
            raise _unfit(f"a resize alone gives images of any aspect, and the model takes {spec}", hint)
        return
    for side, size in zip(wanted, settled, strict=True):
        if isinstance(side, int) and side != size:
            message = f"the steps give {settled[0]}x{settled[1]}, and the model takes {spec}"
            raise _unfit(message, f"size={'x'.join(map(str, wanted))}, or resize and crop that end there")


def _raw_spec(spec: TensorSpec, preprocessing: Preprocessing, signature: Signature) -> TensorSpec:
    """The raw images where nobody describes them: any height and width where a resize takes them."""
    rows, channels, height, width = spec.shape
    if preprocessing.resize is not None or preprocessing.size is not None:
        taken = {dim for one in signature.inputs if one.name != spec.name for dim in one.shape}
        height, width = ("H" if "H" not in taken else "H_image"), ("W" if "W" not in taken else "W_image")
    elif preprocessing.crop is not None:
        height, width = "H", "W"
    return TensorSpec(spec.name, "uint8", preprocessing.raw_shape(rows, channels, height, width))


def _with_raw(
    signature: Signature, spec: TensorSpec, given: TensorSpec, preprocessing: Preprocessing, stated: tuple[Dim, ...]
) -> Signature:
    """The signature with raw images in the place of `spec`; dims that only the old one had are gone."""
    _check_raw(given, spec, preprocessing)
    inputs = tuple(given if one.name == spec.name else one for one in signature.inputs)
    known = {**{dim.name: dim for dim in signature.dims}, **{dim.name: dim for dim in stated}}
    least = preprocessing.crop if preprocessing.resize is None and preprocessing.crop else (SMALLEST, SMALLEST)
    sides = preprocessing.sides(given.shape)
    names = dict.fromkeys(dim for one in inputs for dim in one.shape if isinstance(dim, str))
    dims = []
    for name in names:
        dim = known.get(name, Dim(name))
        if name in sides and not dim.stated and (preprocessing.settled or preprocessing.resize):
            dim = Dim(name, max(1, least[sides.index(name)]), LARGEST)
        dims.append(dim)
    _check_least(given, preprocessing, {dim.name: dim for dim in dims})
    return Signature(inputs, dims=tuple(dims))


def _check_raw(given: TensorSpec, spec: TensorSpec, preprocessing: Preprocessing) -> None:
    if given.dtype != "uint8" or len(given.shape) != 4 or given.shape[preprocessing.channel_axis] != spec.shape[1]:
        wanted = TensorSpec(spec.name, "uint8", preprocessing.raw_shape(spec.shape[0], spec.shape[1], "H", "W"))
        raise _unfit(f"--input says {given}", f"raw images in this layout are {wanted}")


def _check_least(given: TensorSpec, preprocessing: Preprocessing, dims: dict[str, Dim]) -> None:
    """A crop without a resize needs images that are large enough."""
    if preprocessing.resize is not None or preprocessing.crop is None:
        return
    for side, crop in zip(preprocessing.sides(given.shape), preprocessing.crop, strict=True):
        least = side if isinstance(side, int) else dims[side].min
        if least < crop:
            what = "x".join(map(str, preprocessing.crop))
            message = f"a crop of {what} from images that may be {least} high or wide"
            raise _unfit(message, "add resize=, or describe larger images with --input")


def _example_sizes(model: LoadedModel, signature: Signature, preprocessing: Preprocessing) -> dict[str, int]:
    """A size for each symbolic dim: the model's example where it has one, `_usual` for sides of raw images."""
    old = model.signature.sizes_of(model.example)
    given = next(spec for spec in signature.inputs if spec.name == preprocessing.input)
    sides = preprocessing.sides(given.shape)
    found = {}
    for dim in signature.dims:
        usual = _usual(preprocessing)[sides.index(dim.name)] if dim.name in sides else 2
        free = dim.name in sides and (preprocessing.settled or preprocessing.resize)
        found[dim.name] = dim.nearest(usual if free else old.get(dim.name, usual))
    return found


def _unfit(message: str, hint: str, text: str = "") -> UsageError:
    return UsageError(f"--preprocess {text}".rstrip(), message, hint, "BAD_PREPROCESS")
