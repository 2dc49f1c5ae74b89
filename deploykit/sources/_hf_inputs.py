"""What a transformers model takes: names, shapes and realistic values, read off its configuration and its forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploykit.errors import UsageError
from deploykit.model import SourceSpec
from deploykit.signature import Dim, Feeds, TensorSpec, parse_dims, parse_input
from deploykit.sources._example import dims_of, example_sizes
from deploykit.sources._hf_config import Found

LONGEST = 512
"""Upper end of a length when nobody states one and the model takes more: attention grows with its square."""

_SAMPLES = 16_000
"""Upper end of a waveform's length when nobody states one: a second at the rate that speech models are trained for."""

Values = Callable[[tuple[int, ...], np.random.Generator], NDArray[Any]]
"""Draws an array of a shape."""


@dataclass(frozen=True)
class Input:
    """One input: `dims` as `--input` writes them, and how its values are drawn for a shape."""

    name: str
    dtype: str
    dims: tuple[str, ...]
    values: Values

    @property
    def text(self) -> str:
        """As `--input` takes it."""
        return f"{self.name}:{self.dtype}[{','.join(self.dims)}]"


@dataclass(frozen=True)
class Wanted:
    """The inputs of a model in call order."""

    inputs: tuple[Input, ...]

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """Names, dtypes and shapes."""
        return tuple(parse_input(one.text) for one in self.inputs)

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The ranges stated."""
        return parse_dims(one.text for one in self.inputs)

    def feeds(self, seed: int) -> Feeds:
        """Seeded values, two rows where the leading dim is symbolic."""
        sizes = example_sizes(self.specs, dims_of(self.specs, self.dims))
        rng = np.random.default_rng(seed)
        return {
            one.name: one.values(spec.concrete(sizes), rng).astype(one.dtype)
            for one, spec in zip(self.inputs, self.specs, strict=True)
        }


def wanted(found: Found, module: Any, spec: SourceSpec) -> Wanted:
    """The inputs of `module` as its configuration has them, with what `--input` says of them.

    Raises:
        UsageError: INPUT_NAMES, BAD_INPUT: `--input` names another tensor, dtype or number of dims.
        UsageError: NO_INPUTS: it takes something that is not known here.
    """
    taken = inspect.signature(module.forward).parameters
    config = found.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    inputs: list[Input] = []
    if "input_ids" in taken:
        inputs += _text(text, taken, generates=module.can_generate(), cached=found.cached)
    if "pixel_values" in taken and _sees(config, module):
        inputs.append(_image(getattr(config, "vision_config", None) or config))
    if "input_features" in taken:
        inputs.append(_features(config))
    if "input_values" in taken and "input_ids" not in taken:
        inputs.append(_waveform(config))
    if "decoder_input_ids" in taken and getattr(config, "is_encoder_decoder", False):
        inputs.append(_ids("decoder_input_ids", text, ("N", f"T=1..{_longest(text, 'max_target_positions')}")))
    if not inputs:
        message = f"{found.architecture.__name__} takes {', '.join(taken)}"
        hint = "give it with inputs of your own: python:FILE.py:build that returns (module, example_inputs)"
        raise UsageError(found.subject, message, hint, "NO_INPUTS")
    return Wanted(_described(tuple(inputs), spec.inputs))


def _sees(config: Any, module: Any) -> bool:
    return module.main_input_name == "pixel_values" or getattr(config, "vision_config", None) is not None


def _text(config: Any, taken: Mapping[str, Any], *, generates: bool, cached: bool) -> list[Input]:
    """Ids and a padding mask of free length; token types where there are several."""
    encodes = bool(getattr(config, "is_encoder_decoder", False))
    longest = _longest(config, "max_position_embeddings")
    dims = ("N", f"{'S' if encodes else 'L'}=1..{max(2, longest // 2) if cached else longest}")
    # whoever generates puts the padding first, so that the newest token is the last one
    left = generates and not encodes
    inputs = [_ids("input_ids", config, dims)]
    if "attention_mask" in taken:
        inputs.append(Input("attention_mask", "int64", dims, lambda shape, _: mask(shape, left=left)))
    if "token_type_ids" in taken and (getattr(config, "type_vocab_size", 0) or 0) > 1:
        kinds = int(config.type_vocab_size)
        inputs.append(Input("token_type_ids", "int64", dims, lambda shape, rng: _spread(shape, rng, kinds)))
    return inputs


def _ids(name: str, config: Any, dims: tuple[str, ...]) -> Input:
    size = int(config.vocab_size)
    return Input(name, "int64", dims, lambda shape, rng: _spread(shape, rng, size))


def _spread(shape: tuple[int, ...], rng: np.random.Generator, size: int) -> NDArray[Any]:
    """Any of `size` numbers, the first and the last among them, since cases are drawn between these two."""
    drawn = rng.integers(0, size, shape)
    if drawn.size > 1:
        drawn.flat[drawn.size // 2], drawn.flat[drawn.size // 2 - 1] = 0, size - 1
    return drawn


def mask(shape: tuple[int, ...], *, left: bool) -> NDArray[Any]:
    """Ones, and in the last row a quarter of the positions hidden, on the left or on the right."""
    found = np.ones(shape, np.int64)
    hidden = shape[-1] // 4
    if hidden and shape[0] > 1:
        found[-1, slice(None, hidden) if left else slice(-hidden, None)] = 0
    return found


def _longest(config: Any, name: str) -> int:
    """The largest length that the configuration's table of positions holds, up to `LONGEST`.

    RoBERTa and those made after it count from the padding id on, so that the table has that many rows more.
    """
    table = getattr(config, name, None) or getattr(config, "max_position_embeddings", None)
    if not isinstance(table, int) or table < 2:
        return LONGEST
    padding = getattr(config, "pad_token_id", None) or 0
    offset = padding + 1 if config.model_type in _COUNT_FROM_PADDING else 0
    return max(2, min(table - offset, LONGEST))


_COUNT_FROM_PADDING = {
    "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text", "longformer",
    "mpnet", "esm", "xmod", "ibert", "luke", "mluke", "markuplm", "layoutlmv3", "lilt",
}  # fmt: skip


def _image(config: Any) -> Input:
    size = getattr(config, "image_size", None) or 224
    height, width = size if isinstance(size, list | tuple) else (size, size)
    dims = ("N", str(getattr(config, "num_channels", 3)), str(height), str(width))
    return Input("pixel_values", "float32", dims, lambda shape, rng: rng.standard_normal(shape))


def _features(config: Any) -> Input:
    """Mel bins by frames; Whisper takes exactly twice as many frames as its encoder has positions."""
    frames = 2 * int(getattr(config, "max_source_positions", 1500))
    dims = ("N", str(getattr(config, "num_mel_bins", 80)), str(frames))
    return Input("input_features", "float32", dims, lambda shape, rng: rng.standard_normal(shape))


def _waveform(config: Any) -> Input:
    """Samples of free length; frames by mel bins where the model reads spectrograms."""
    if hasattr(config, "max_length") and hasattr(config, "num_mel_bins"):
        dims = ("N", str(config.max_length), str(config.num_mel_bins))
        return Input("input_values", "float32", dims, lambda shape, rng: rng.standard_normal(shape))
    shortest = _field(config) * 2
    return Input(
        "input_values",
        "float32",
        ("N", f"S={shortest}..{max(_SAMPLES, 4 * shortest)}"),
        lambda shape, rng: rng.standard_normal(shape),
    )


def _field(config: Any) -> int:
    """How many samples the convolutions look at for one frame: below that there is none."""
    kernels, strides = getattr(config, "conv_kernel", ()), getattr(config, "conv_stride", ())
    field = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        field = (field - 1) * stride + kernel
    return max(field, 200)


def _described(inputs: tuple[Input, ...], texts: tuple[str, ...]) -> tuple[Input, ...]:
    """`inputs` with the dims that `--input` gives them; those that it does not name follow the ones that it does.

    `--input input_ids:int64[1,64]` fixes the mask to [1, 64] as well.
    """
    own = {one.name: one for one in inputs}
    given: dict[str, tuple[str, ...]] = {}
    renamed: dict[str, str] = {}
    for text in texts:
        spec = parse_input(text)
        if spec.name not in own:
            hint = f"it takes {', '.join(one.text for one in inputs)}"
            raise UsageError("--input", f"no input is called {spec.name}", hint, "INPUT_NAMES")
        one = own[spec.name]
        if spec.dtype != one.dtype or len(spec.shape) != len(one.dims):
            raise UsageError(
                f"--input {text}", "is another dtype or number of dims", f"for example {one.text}", "BAD_INPUT"
            )
        inside = text.replace(" ", "").partition("[")[2].removesuffix("]")
        given[spec.name] = tuple(inside.split(",")) if inside else ()
        renamed |= {name(dim): wanted for dim, wanted in zip(one.dims, given[spec.name], strict=True)}
    return tuple(
        replace(one, dims=given.get(one.name) or tuple(renamed.get(name(dim), dim) for dim in one.dims))
        for one in inputs
    )


def name(dim: str) -> str:
    """The name in `L=1..128`; a number stays one."""
    return dim.partition("=")[0]
