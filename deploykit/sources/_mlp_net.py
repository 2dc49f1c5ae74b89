"""The seed model. It imports torch at the top: only children, and steps that train, import this file."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

PIXELS = 28 * 28
HIDDEN = 128
CLASSES = 10

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
"""Mean and deviation of the MNIST training pixels in [0, 1]: what stands until a training set gives its own."""


class MLP(nn.Module):
    """784-128-10, ReLU, log-softmax, with the normalization inside.

    Takes `image`, float32[N, 1, 28, 28] in [0, 1], and returns float32[N, 10] log-probabilities. Mean and deviation are
    buffers: they go into every checkpoint and every exported form, so nobody who serves the model can forget them.

    Args:
        mean: mean of the training pixels.
        std: standard deviation of the training pixels.
    """

    architecture: ClassVar[str] = "mlp 784-128-10 relu log_softmax"

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float = MNIST_MEAN, std: float = MNIST_STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        self.hidden = nn.Linear(PIXELS, HIDDEN)
        self.output = nn.Linear(HIDDEN, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Log-probabilities float32[N, 10] of `image`, float32[N, 1, 28, 28]."""
        pixels = torch.flatten((image - self.mean) / self.std, 1)
        return torch.log_softmax(self.output(torch.relu(self.hidden(pixels))), dim=-1)
