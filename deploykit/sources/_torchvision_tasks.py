"""torchvision's models that are no image classifiers: one image for detection, and heads that tell inputs apart.

This file imports torch at the top: only children import it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from deploykit.signature import TensorSpec
from deploykit.sources._example import draw
from deploykit.sources._probing import calibrate, make_informative
from deploykit.twin import twin

ROWS, BATCHES = 2, 2
"""Seeded noise shown to the larger networks: a head's deviation is taken over every pixel or box of it."""

SPREAD = 2.0
"""Deviation of a detector's class scores: some of them then pass its threshold, and most do not."""

RARE = -3.0
"""Bias of scores that go through a sigmoid one by one: 0.05 is where torchvision's detectors begin to count."""


def one_image(module: nn.Module) -> nn.Module:
    """A detector that takes one image [3, height, width] and gives its boxes, labels and scores.

    torchvision's own takes a list of images and gives a list of dicts, a form that no exported graph has.
    """

    def around(forward: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Any:
        return forward([inputs[0]])[0]

    return twin(module, around)


def informative(module: nn.Module, task: str, spec: TensorSpec, seed: int) -> tuple[str, ...]:
    """Calibrate batch norms and rescale the heads of `module`, in place; tells in words what was done.

    Args:
        module: in eval mode, with one input.
        task: torchvision's folder, `classification` for those at its root.
        spec: the input; symbolic dims are drawn as the example's.
        seed: of the noise.
    """
    if task == "classification":
        return make_informative(module, spec, seed)
    if task == "optical_flow":
        return ()
    batches = [_noise(spec, seed + index) for index in range(BATCHES)]
    done = []
    with torch.no_grad():
        # one image at the last scale of a detector is one value per channel: its own forward takes several
        several = [list(batches)] if task == "detection" else batches
        if calibrate(
            module, several, (lambda images: type(module).forward(module, images)) if task == "detection" else None
        ):
            done.append("batch-norm calibrated")
        for head, deviation, bias in list(_heads(module, task)):
            _rescale(module, head, batches, deviation, bias)
    return (*done, "head rescaled")


def _noise(spec: TensorSpec, seed: int) -> Tensor:
    (array,) = draw([spec], seed).values()
    return torch.from_numpy(array)[:ROWS] if len(spec.shape) > 3 else torch.from_numpy(array)


def _heads(module: nn.Module, task: str) -> Iterator[tuple[Any, float, float | None]]:
    """Layers that score, in the order of the network, with the deviation and bias that they should have."""
    parts = [(name, part) for name, part in module.named_modules() if isinstance(part, _SCORING)]
    if task == "video":
        yield parts[-1][1], 1.0, None
    for name, part in parts:
        if task == "segmentation":
            inside = name.startswith(("classifier.", "aux_classifier."))
            if inside and part.out_channels == _classes(parts):
                yield part, 1.0, None
        elif task == "detection":
            if name == "rpn.head.cls_logits":
                yield part, 1.0, None
            elif name == "roi_heads.box_predictor.cls_score":
                yield part, SPREAD, 0.0
            elif name.startswith("head.classification_head.") and name.endswith(_LAST):
                yield part, SPREAD, 0.0 if _softmax(module) else RARE


_SCORING = (nn.Linear, nn.Conv2d, nn.Conv3d)

_LAST = ("cls_logits", ".0.1", ".1.1", ".2.1", ".3.1", ".4.1", ".5.1", *(f"module_list.{i}" for i in range(6)))
"""Names of a one-stage detector's scoring layers: one for all scales, or one per scale behind a depthwise layer."""


def _softmax(module: nn.Module) -> bool:
    """Whether a one-stage detector's classes compete, as SSD's do."""
    return type(module).__name__ == "SSD"


def _classes(parts: list[tuple[str, Any]]) -> int:
    """How many classes a segmentation network has: what its last layer gives."""
    return int(parts[-1][1].out_channels)


def _rescale(module: nn.Module, head: Any, batches: list[Tensor], deviation: float, bias: float | None) -> None:
    """Give what `head` answers the deviation, and no mean or the bias wanted."""
    seen: list[Tensor] = []
    handle = head.register_forward_hook(lambda _part, _inputs, output: seen.append(output))
    try:
        for batch in batches:
            module(batch)
    finally:
        handle.remove()
    axis = -1 if isinstance(head, nn.Linear) else 1
    rows = torch.cat([one.movedim(axis, -1).reshape(-1, one.shape[axis]) for one in seen])
    mean = rows.mean(dim=0)
    found = float((rows - mean).square().mean().sqrt())
    if not found > 0:
        return
    head.weight.mul_(deviation / found)
    if head.bias is not None:
        head.bias.sub_(mean).mul_(deviation / found).add_(bias or 0.0)
