"""Hand-written modules, continued: state, randomness and side effects, most of which no exported graph can keep.

What should come out of each stands in `zoo_list.py`.
"""

# ruff: noqa: D102 - what a module does stands above its forward

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from zoo_modules import Small, Stepped


class Counting(Small):
    """A buffer counts calls, and answers depend on it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) / self.calls


class Remembering(Stepped):
    """The hidden state kept in an attribute between calls."""

    hidden: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        before = x.new_zeros(x.shape[0], 16) if self.hidden is None else self.hidden
        self.hidden = self.cell(x[:, 0], before[: x.shape[0]])
        return self.head(self.hidden)


class OnlyInTraining(Small):
    """A running mean that eval mode leaves alone."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((16,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.mean(0), 0.1)
        return super().forward(x - self.mean)


class LazyTable(nn.Module):
    """Position codes built at the first call and kept while they suffice."""

    table: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None or len(self.table) < x.shape[1]:
            place = torch.arange(x.shape[1])[:, None] / 10.0 ** torch.arange(4)
            self.table = torch.cat((place.sin(), place.cos()), -1)
        return self.inner(x + self.table[: x.shape[1]])


class Hooked(nn.Module):
    """Features taken out with a forward hook."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Small()
        self.kept: dict[str, Tensor] = {}
        self.body.first.register_forward_hook(lambda _m, _i, out: self.kept.__setitem__("first", out))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.body(x), self.kept["first"]


class HiddenLayers(nn.Module):
    """Layers in a plain list: eval() does not reach their dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 5)
        self.layers = [nn.Linear(16, 16), nn.Dropout(0.5)]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Sampling(Small):
    """A variational code drawn at inference, too."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + torch.randn_like(y)


class AlwaysDropping(Small):
    """`functional.dropout` without `training=`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.dropout(x, 0.2))


class InPlace(Small):
    """The input normalized in place."""

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        return super().forward(x)


class Numpy(Small):
    """numpy in the middle of forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.from_numpy(np.sign(x.numpy()) * np.sqrt(np.abs(x.numpy()))))
