"""Random weights that can tell a good export from a bad one.

A freshly built network has batch-norm statistics that fit nothing, and a head whose answers hardly depend on the
input: an export that drops a layer would pass. Statistics measured on seeded noise and a head of unit deviation give
every layer a say in the answer. This file imports torch at the top: only children import it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from deploykit.signature import TensorSpec

_Head: TypeAlias = nn.Linear | nn.Conv2d

BATCHES, ROWS = 2, 8
"""Seeded noise shown to the network: 16 samples steady a channel's statistics and cost a second for resnet18."""


def make_informative(module: nn.Module, spec: TensorSpec, seed: int) -> tuple[str, ...]:
    """Calibrate batch norms and rescale the head of `module`, in place, the same way for the same seed.

    Args:
        module: a classifier in eval mode with one input.
        spec: its input; symbolic dims beyond the first are drawn with 224, image size.
        seed: of the noise.

    Returns:
        what was done, in words; empty where forward does not answer with one tensor.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (ROWS, *(dim if isinstance(dim, int) else 224 for dim in spec.shape[1:]))
    batches = [torch.randn(shape, generator=generator) for _ in range(BATCHES)]
    done = []
    with torch.no_grad():
        if calibrate(module, batches):
            done.append("batch-norm calibrated")
        if _rescale_head(module, batches, generator):
            done.append("head rescaled")
    return tuple(done)


def calibrate(module: nn.Module, batches: list[Any], call: Callable[[Any], Any] | None = None) -> bool:
    """Cumulative statistics in every batch norm; dropout and the like stay in eval mode.

    Args:
        module: in eval mode.
        batches: noise, several rows each.
        call: what takes a batch where that is not `module` itself.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches instead of a decaying one
        norm.train()
    try:
        for batch in batches if norms else ():
            (call or module)(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
    return bool(norms)


def _rescale_head(module: nn.Module, batches: list[Tensor], generator: torch.Generator) -> bool:
    """Zero mean at the head, where it has a bias, and answers of unit deviation over samples (rms over the outputs)."""
    head, outputs, answers = _watch(module, batches)
    if head is None or not all(isinstance(answer, Tensor) for answer in answers):
        return False
    if not bool(head.weight.any()):  # vision transformers start with a head of zeros: every answer is the same
        head.weight.normal_(generator=generator)
        _, outputs, answers = _watch(module, batches)
    if head.bias is not None:
        head.bias.sub_(_channel_means(head, torch.cat(outputs)))
    if outputs[-1] is not answers[-1]:  # something follows (squeezenet: ReLU and average) that the shift went through
        _, _, answers = _watch(module, batches)
    deviation = float(torch.cat(answers).std(dim=0).square().mean().sqrt())
    if not math.isfinite(deviation) or deviation == 0:
        return False
    head.weight.div_(deviation)
    if head.bias is not None:
        head.bias.div_(deviation)
    return True


def _watch(module: nn.Module, batches: list[Tensor]) -> tuple[_Head | None, list[Tensor], list[Any]]:
    """The linear or convolution layer that runs last, what it gave, and what the module answered, batch by batch."""
    ran: list[tuple[_Head, Tensor]] = []
    heads: list[tuple[_Head, Tensor]] = []

    def remember(part: nn.Module, _: Any, output: Tensor) -> None:
        if isinstance(part, nn.Linear | nn.Conv2d):
            ran[:] = [(part, output)]  # by order of running: by name, an auxiliary head may come last

    parts = [part for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    handles = [part.register_forward_hook(remember) for part in parts]
    answers = []
    try:
        for batch in batches:
            answers.append(module(batch))
            heads += ran
    finally:
        for handle in handles:
            handle.remove()
    return (heads[-1][0] if heads else None), [output for _, output in heads], answers


def _channel_means(head: _Head, output: Tensor) -> Tensor:
    channels = output.movedim(1, -1) if isinstance(head, nn.Conv2d) else output
    return channels.reshape(-1, channels.shape[-1]).mean(dim=0)
