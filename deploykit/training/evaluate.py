"""How good the trained model is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BATCH = 1024
"""Rows per call: bounds memory on MNIST's 10 000 test images."""


def accuracy(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of `images` (float32[n, 1, 28, 28]) whose highest score is at their label (int64[n]); 0 to 1.

    The module is evaluated in eval mode without gradients, and every part is put back into the mode it was in.
    """
    modes = [(part, part.training) for part in module.modules()]
    device = next(module.parameters()).device
    module.eval()
    try:
        with torch.no_grad():
            pairs = zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True)
            right = sum(int((module(x.to(device)).argmax(dim=-1) == y.to(device)).sum()) for x, y in pairs)
    finally:
        for part, mode in modes:
            part.training = mode
    return right / len(labels)
