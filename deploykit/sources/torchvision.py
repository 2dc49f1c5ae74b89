"""`torchvision:NAME`: any model of torchvision's own list, with random weights or those of a checkpoint."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from deploykit.errors import UsageError
from deploykit.model import LoadedModel, SourceSpec
from deploykit.signature import Signature, TensorSpec, parse_dims, parse_input

if TYPE_CHECKING:
    from torch import nn

_PLAIN = {"detection", "segmentation", "video", "optical_flow"}
"""torchvision's folders whose models answer with more than class scores, or cost too much to probe while loading."""


@dataclass(frozen=True)
class Source:
    """One torchvision model in eval mode; nothing is ever downloaded."""

    runs_user_code: ClassVar[bool] = False
    example: ClassVar[str] = "torchvision:resnet18"

    def unavailable(self) -> str | None:
        """Why this source cannot be used here, in one line; None when it can."""
        return None if find_spec("torchvision") else "torchvision is not installed (pip install torchvision)"

    def load(self, spec: SourceSpec) -> LoadedModel:
        """The module, `image` float32[N, 3, 224, 224] unless `spec.inputs` says otherwise.

        Raises:
            UsageError: no such model or checkpoint, or the inputs do not fit forward.
            RefusedError: the checkpoint is malformed, does not fit, or carries code.
        """
        import torch

        from deploykit.sources._example import dims_of, draw
        from deploykit.sources._torchvision_tasks import informative, one_image
        from deploykit.sources._weights import load_weights

        builder = _builder(spec.target)
        task = _task(builder)
        inputs = tuple(parse_input(text) for text in spec.inputs) or _default_inputs(spec.target, task)
        stated = parse_dims(spec.inputs)
        torch.manual_seed(spec.seed)
        module = _build(builder, _sides(spec.target, inputs) if task == "detection" else {}).eval()
        if task == "detection":
            module = one_image(module)
        else:
            _check_count(spec.target, module, inputs)
        if spec.checkpoint is not None:
            load_weights(module, spec.checkpoint)
            weights, preprocessing = "checkpoint", _preprocessing(spec.target)
        else:
            done = informative(module, task, inputs[0], spec.seed)
            weights, preprocessing = ", ".join((f"random (seed {spec.seed})", *done)), "none"
        notes = {"weights": weights, "preprocessing": preprocessing, "task": task}
        return LoadedModel(
            module, Signature(inputs, dims=dims_of(inputs, stated)), draw(inputs, spec.seed, stated), notes, drawn=True
        )

    def expects(self, spec: SourceSpec) -> str:
        """What torchvision's published weights of this model expect of raw images, for `--preprocess torchvision`.

        Raises:
            UsageError: no such model, or its weights expect no single images.
        """
        from deploykit.sources._preprocess import of_torchvision

        _builder(spec.target)
        return of_torchvision(spec.target)


def _builder(name: str) -> Callable[..., nn.Module]:
    from torchvision.models import get_model_builder, list_models

    known: list[str] = list_models()
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "see torchvision.models.list_models()"
        raise UsageError(f"torchvision:{name}", "torchvision has no such model", hint, "UNKNOWN_MODEL")
    builder: Callable[..., nn.Module] = get_model_builder(name)
    return builder


def _task(builder: Callable[..., nn.Module]) -> str:
    """`classification`, or torchvision's folder for everything else."""
    folder = builder.__module__.split(".")[2]
    return folder if folder in _PLAIN else "classification"


def _sides(name: str, inputs: tuple[TensorSpec, ...]) -> dict[str, int]:
    """Options with which a detector takes images at the size they have, instead of enlarging them to 800 pixels.

    Raises:
        UsageError: BAD_INPUT, not one image of a fixed size.
    """
    shape = inputs[0].shape
    sizes = [size for size in shape if isinstance(size, int)]
    if len(inputs) != 1 or len(shape) != 3 or len(sizes) != 3 or sizes[0] != 3:
        message = "detection takes one image of a fixed size: their number of boxes differs, so there is no batch"
        raise UsageError(f"torchvision:{name}", message, "for example --input image:float32[3,320,320]", "BAD_INPUT")
    return {} if "ssd" in name else {"min_size": min(sizes[1:]), "max_size": max(sizes[1:])}


def _build(builder: Callable[..., nn.Module], sides: dict[str, int]) -> nn.Module:
    options: dict[str, Any] = {"weights": None, **sides}
    if "weights_backbone" in inspect.signature(builder).parameters:
        options["weights_backbone"] = None  # detection and segmentation would download it
    if builder.__name__.endswith(("inception_v3", "googlenet")):
        options["init_weights"] = (
            False  # unset it warns; their own initialization takes a minute and seeds as well as this
        )
    return builder(**options)


def _default_inputs(name: str, task: str) -> tuple[TensorSpec, ...]:
    if task == "optical_flow":
        return tuple(TensorSpec(f"image{i}", "float32", ("N", 3, 128, 128)) for i in (1, 2))
    if task == "video":  # the residual ones take any size; 16 frames of 112 pixels cost 80 billion operations each
        frames, size = (16, 224) if "mvit" in name or "swin" in name or name == "s3d" else (8, 64)
        return (TensorSpec("video", "float32", ("N", 3, frames, size, size)),)
    if task == "segmentation":
        return (TensorSpec("image", "float32", ("N", 3, 128, 128)),)
    if task == "detection":
        size = 320 if "ssdlite" in name else 300 if "ssd" in name else 128
        return (TensorSpec("image", "float32", (3, size, size)),)
    size = 299 if name.endswith("inception_v3") else 224
    return (TensorSpec("image", "float32", ("N", 3, size, size)),)


def _check_count(name: str, module: nn.Module, inputs: tuple[TensorSpec, ...]) -> None:
    """Raise UsageError unless forward can be called with that many tensors."""
    parameters = inspect.signature(module.forward).parameters.values()
    needed = sum(p.default is p.empty for p in parameters)
    if len(inputs) != needed:
        message = f"takes {needed} input{'s' if needed > 1 else ''}, --input names {len(inputs)}"
        raise UsageError(f"torchvision:{name}", message, "give one --input per tensor, or none", "INPUT_NAMES")


def _preprocessing(name: str) -> str:
    """What torchvision's published weights of this model expect in front of it, on one line."""
    from torchvision.models import get_model_weights

    transforms = repr(get_model_weights(name).DEFAULT.transforms())
    return f"not in the module; torchvision's published weights expect {', '.join(transforms.split(chr(10))[1:-1])}"
