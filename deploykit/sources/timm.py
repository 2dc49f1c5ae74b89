"""`timm:NAME`: any model that timm registers, with random weights or those of a checkpoint."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from deploykit.errors import UsageError, WorkError
from deploykit.model import LoadedModel, SourceSpec
from deploykit.signature import Signature, TensorSpec, parse_dims, parse_input

if TYPE_CHECKING:
    from torch import nn

MISSING = "timm is not installed (pip install 'deploykit[timm]')"


@dataclass(frozen=True)
class Source:
    """One timm model in eval mode; nothing is ever downloaded."""

    runs_user_code: ClassVar[bool] = False
    example: ClassVar[str] = "timm:resnet18"

    def unavailable(self) -> str | None:
        """Why this source cannot be used here, in one line; None when it can."""
        return None if find_spec("timm") else MISSING

    def load(self, spec: SourceSpec) -> LoadedModel:
        """The module, its input `image` float32[N, channels, height, width] as timm's own record of the model has it.

        Another size or number of channels in `spec.inputs` builds the model for that size; another number of classes
        in the checkpoint builds it with a head of that size.

        Raises:
            UsageError: no such model or checkpoint, or more than one input is named.
            RefusedError: the checkpoint is malformed, does not fit, or carries code.
            WorkError: PACKAGE_MISSING.
        """
        if reason := self.unavailable():
            raise WorkError("timm", reason, "pip install 'deploykit[timm]'", "PACKAGE_MISSING")
        import torch

        from deploykit.sources._example import dims_of, draw
        from deploykit.sources._probing import make_informative
        from deploykit.sources._weights import load_weights

        wanted = _record(spec.target)
        inputs = (_input(spec, wanted),)
        stated = parse_dims(spec.inputs)
        dims = dims_of(inputs, stated)
        torch.manual_seed(spec.seed)
        module, built = _build(spec, wanted, inputs[0])
        if spec.checkpoint is not None:
            load_weights(module, spec.checkpoint)
            weights, preprocessing = "checkpoint", _preprocessing(wanted)
        else:
            (image,) = draw(inputs, spec.seed, dims).values()
            shown = TensorSpec("image", "float32", ("N", *image.shape[1:]))
            weights = ", ".join((f"random (seed {spec.seed})", *make_informative(module, shown, spec.seed)))
            preprocessing = "none"
        notes = {"weights": weights, "preprocessing": preprocessing, "task": "classification", **built}
        return LoadedModel(module, Signature(inputs, dims=dims), draw(inputs, spec.seed, dims), notes, drawn=True)

    def expects(self, spec: SourceSpec) -> str:
        """What timm's published weights of this model expect of raw images, for `--preprocess timm`.

        Raises:
            UsageError: no such model, or its weights expect steps that have no name here.
        """
        from deploykit.sources._preprocess import of_timm

        return of_timm(spec.target, _record(spec.target))


def _record(name: str) -> dict[str, Any]:
    """What timm records of the model: input size, mean, deviation, the name of its head."""
    import timm
    from timm.models import get_pretrained_cfg

    subject = f"timm:{name}"
    if ":" in name or "/" in name:
        hint = "name a model of timm's list, and give its weights with --checkpoint FILE"
        raise UsageError(subject, "names a place to fetch from, and nothing is downloaded", hint, "UNKNOWN_MODEL")
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        close = difflib.get_close_matches(name.partition(".")[0].lower(), known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models()"
        raise UsageError(subject, "timm has no such model", hint, "UNKNOWN_MODEL")
    try:
        found = get_pretrained_cfg(name)
    except RuntimeError as error:  # a weights tag (resnet50.a1_in1k) that this model does not have
        stem = name.partition(".")[0]
        hint = f"one of {', '.join(timm.list_models(f'{stem}.*', pretrained=True)[:5]) or stem}"
        raise UsageError(subject, str(error), hint, "UNKNOWN_MODEL") from error
    record: Any = found
    return dict(record.to_dict()) if record is not None else {}


def _input(spec: SourceSpec, wanted: dict[str, Any]) -> TensorSpec:
    """What `--input` says, under the name it gives; else the recorded size."""
    if not spec.inputs:
        channels, height, width = wanted.get("input_size", (3, 224, 224))
        return TensorSpec("image", "float32", ("N", channels, height, width))
    given = [parse_input(text) for text in spec.inputs]
    if len(given) > 1:
        message = f"takes 1 input, --input names {len(given)}"
        raise UsageError(f"timm:{spec.target}", message, "give one --input, or none", "INPUT_NAMES")
    if len(given[0].shape) != 4 or not isinstance(given[0].shape[1], int):
        message = f"{given[0]} is no batch of images"
        raise UsageError("--input", message, "for example image:float32[N,3,224,224]", "BAD_INPUT")
    return given[0]


def _build(spec: SourceSpec, wanted: dict[str, Any], image: TensorSpec) -> tuple[nn.Module, dict[str, str]]:
    """The module in eval mode, built for the channels, size and classes asked for; and notes where these are others."""
    import timm

    options: dict[str, Any] = {}
    recorded = tuple(wanted.get("input_size", image.shape[1:]))
    if image.shape[1] != recorded[0]:
        options["in_chans"] = image.shape[1]
    sizes = image.shape[2:]
    if sizes != recorded[1:] and all(isinstance(size, int) for size in sizes):
        options["img_size"] = sizes
    classes = _classes(spec.checkpoint, wanted.get("classifier")) if spec.checkpoint is not None else None
    if classes is not None and classes != wanted.get("num_classes"):
        options["num_classes"] = classes
    made = _made(spec.target, options)
    if made is None and "img_size" in options:  # convolutions take any size and know no such option
        del options["img_size"]
        made = _made(spec.target, options)
    if made is None:
        made = timm.create_model(spec.target, pretrained=False)
        options = {}
    return made.eval(), {f"built with {name}": str(value) for name, value in options.items()}


def _made(name: str, options: dict[str, Any]) -> nn.Module | None:
    """The model with these options; None where it does not know one of them."""
    import timm

    try:
        module: nn.Module = timm.create_model(name, pretrained=False, **options)
    except TypeError:
        if not options:
            raise
        return None
    return module


def _classes(checkpoint: str, heads: Any) -> int | None:
    """How many classes the checkpoint's head has; None where timm does not say which layer that is."""
    from deploykit.sources._weights import read_weights

    head = heads[0] if isinstance(heads, list | tuple) and heads else heads
    if not isinstance(head, str):
        return None
    weight = read_weights(checkpoint).get(f"{head}.weight")
    return None if weight is None else len(weight)


def _preprocessing(wanted: dict[str, Any]) -> str:
    """What timm's published weights of this model expect in front of it, on one line."""
    names = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    said = ", ".join(f"{name}={wanted[name]}" for name in names if name in wanted)
    return f"not in the module; timm's published weights expect {said}"
