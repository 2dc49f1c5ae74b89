"""Hand-written modules, continued: operators that engines may not have, and coats that people leave on their modules.

What should come out of each stands in `zoo_list.py`.
"""

# ruff: noqa: D102 - what a module does stands above its forward

from __future__ import annotations

import math
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from zoo_modules import Small

Built = tuple[Any, ...]


class Messages(nn.Module):
    """A layer of a graph network: messages along edges, summed at their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.send, self.take = nn.Linear(8, 16), nn.Linear(24, 4)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        sent = self.send(nodes)[edges[0]]
        got = torch.zeros(nodes.shape[0], 16).index_add(0, edges[1], sent)
        return self.take(torch.cat((nodes, got), 1))


class UNet(nn.Module):
    """Down, up, and across."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1, stride=2)
        self.up, self.last = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        across = functional.relu(self.first(image))
        return self.last(torch.cat((across, self.up(functional.relu(self.second(across)))), 1))


class Warped(nn.Module):
    """A spatial transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.angle = nn.Linear(3, 6)
        nn.init.constant_(self.angle.bias, 0.3)

    def forward(self, image: Tensor) -> Tensor:
        grid = functional.affine_grid(
            self.angle(image.mean((2, 3))).view(-1, 2, 3), list(image.shape), align_corners=False
        )
        return functional.grid_sample(image, grid, align_corners=False)


class Whitened(nn.Module):
    """Linear algebra: a Cholesky factor solved against."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        covariance = x.mT @ x / x.shape[1] + torch.eye(4)
        return self.head(torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), x.mT, upper=False).mT)


class Robust(Small):
    """Median and quantile."""

    def forward(self, x: Tensor) -> Tensor:
        middle = x.median(1, keepdim=True).values
        return super().forward((x - middle) / (x.quantile(0.9, 1, keepdim=True) - middle + 0.1))


class Boxes(nn.Module):
    """Non-maximum suppression: as many boxes as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.box = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        at, size, score = self.box(x).split((2, 2, 1), 1)
        boxes = torch.cat((at, at + size.exp()), 1)
        return boxes[torchvision.ops.nms(boxes, score.squeeze(1), 0.5)]


class Pooled(nn.Module):
    """Regions pooled out of a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)
        self.register_buffer("regions", torch.tensor([[0.0, 1, 1, 20, 20], [1, 4, 8, 30, 31]]))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torchvision.ops.roi_align(self.conv(image), self.regions, 4).mean((2, 3)))


class Deformed(nn.Module):
    """A deformable convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.offset, self.conv = nn.Conv2d(4, 18, 3, padding=1), torchvision.ops.DeformConv2d(4, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, self.offset(x))


@torch.library.custom_op("zoo::swish", mutates_args=())
def swish(x: Tensor) -> Tensor:
    """An operator of one's own."""
    return x * torch.sigmoid(x)


@swish.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class OwnOperator(Small):
    """An operator registered with torch.library."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.ops.zoo.swish(x))


class Force(Small):
    """The gradient of an energy: what physicists' networks answer."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            return -torch.autograd.grad(super().forward(at).sum(), at)[0]


class Checkpointed(Small):
    """Activation checkpointing left on."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


class Normed(nn.Module):
    """Spectral and weight norm as parametrizations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16))
        self.second = nn.utils.parametrizations.weight_norm(nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


class Faint(Small):
    """Standardized with an epsilon of 1e-8."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-8))


class Masked(nn.Module):
    """Attention with a padding mask of minus infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.head = nn.Embedding(40, 16), nn.Linear(16, 48), nn.Linear(16, 5)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.inner(self.words(ids)).chunk(3, -1)
        scores = (q @ k.mT / math.sqrt(16)).masked_fill(mask[:, None] == 0, -math.inf)
        return self.head(scores.softmax(-1) @ v)


def tied() -> Built:
    """A language model whose head is its embedding."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.layer = nn.Embedding(60, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.head = nn.Linear(16, 60, bias=False)
            self.head.weight = self.words.weight

        def forward(self, ids: Tensor) -> Tensor:
            causal = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
            return self.head(self.layer(self.words(ids), src_mask=causal, is_causal=True))

    return Tied(), torch.randint(0, 60, (2, 9))


def compiled() -> Built:
    """What `torch.compile` gives back."""
    return torch.compile(Small().eval()), torch.randn(2, 16)


def parallel() -> Built:
    """A module in its DataParallel coat, as checkpoints often hold it."""
    return nn.DataParallel(Small()), torch.randn(2, 16)


def scripted() -> Built:
    """TorchScript already."""
    return torch.jit.script(Small().eval()), torch.randn(2, 16)


def batch_of_one() -> Built:
    """An example of one row, as most people have it."""
    return Small(), torch.randn(1, 16)


class Lazy(nn.Module):
    """Layers that learn their sizes from the first input."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
