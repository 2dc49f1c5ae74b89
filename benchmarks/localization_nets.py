"""The networks of `localization.py`, as sources: seeded, small, and of the kinds that people export."""

from __future__ import annotations

import torch
from torch import nn

NAMES = ("mlp", "ten", "residual", "former")


class Block(nn.Module):
    """Two convolutions with batch-norms around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images in, images of the same form out."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


class Residual(nn.Module):
    """A stem, two blocks, an upsampling, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), Block(8), Block(8)
        self.up, self.head = nn.Upsample(scale_factor=2, mode="bilinear"), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images in, scores out."""
        return self.head(self.up(self.second(self.first(self.stem(x)))).mean((2, 3)))


class Layer(nn.Module):
    """A transformer layer, normalized first."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens in, tokens out."""
        batch, length, width = x.shape
        split = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = torch.softmax(q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5, -1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Former(nn.Module):
    """Two layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens in, scores out."""
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


def _randomized(module: nn.Module) -> nn.Module:
    """Norms with numbers of their own: scales of one and shifts of zero are shared by exporters."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm | nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
    return module.eval()


def mlp() -> tuple[nn.Module, torch.Tensor]:
    """784-64-32-10."""
    torch.manual_seed(0)
    layers = [nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10), nn.LogSoftmax(1)]
    return nn.Sequential(*layers).eval(), torch.rand(2, 784)


def ten() -> tuple[nn.Module, torch.Tensor]:
    """Ten layers of 16."""
    torch.manual_seed(0)
    layers = [part for i in range(10) for part in (nn.Linear(16, 16), nn.ReLU() if i % 2 else nn.Tanh())]
    return nn.Sequential(*layers).eval(), torch.randn(2, 16)


def residual() -> tuple[nn.Module, torch.Tensor]:
    """8 × 8 images."""
    torch.manual_seed(0)
    return _randomized(Residual()), torch.randn(2, 3, 8, 8)


def former() -> tuple[nn.Module, torch.Tensor]:
    """Six tokens of width 16."""
    torch.manual_seed(0)
    return _randomized(Former()), torch.randn(2, 6, 16)
