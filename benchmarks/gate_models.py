"""The small models that `gates.py` exports and breaks; imports torch alone, for the other tools' environment too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS = 4
"""Batch of the example; 1 would be specialised away by torch.export."""

VOCABULARY = 97

ONE, TWO = ("output",), ("output_0", "output_1")
"""The names that deploykit gives the outputs of a module that returns a tensor, and a pair: every tool gets these."""


@dataclass(frozen=True)
class Input:
    """One input: `shape` is one row of it. `pixels` are whole numbers from 0 to 255, stored as float32."""

    name: str
    shape: tuple[int, ...]
    kind: Literal["float", "ids", "mask", "pixels"] = "float"


@dataclass(frozen=True)
class Subject:
    """A model with what goes in and what comes out.

    Attributes:
        what: one line for the table.
        dynamic: torch.export can capture it with a symbolic batch; else only tracing can.
    """

    name: str
    what: str
    module: Callable[[], nn.Module]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    dynamic: bool = True

    def build(self) -> nn.Module:
        """The module in eval mode, the same weights every time."""
        torch.manual_seed(0)
        module = self.module().eval()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = None
                part.train()
        if any(isinstance(part, nn.BatchNorm2d) for part in module.modules()):
            with torch.no_grad():
                for seed in range(4):  # statistics of noise, so that every layer has a say in the answer
                    module(*self.example(seed=seed, rows=16).values())
        return module.eval()

    def example(self, seed: int = 1, rows: int = ROWS) -> dict[str, Tensor]:
        """One random input, as a tutorial has it: normal noise, random ids, no padding."""
        generator = torch.Generator().manual_seed(seed)
        return {spec.name: _draw(spec, rows, generator) for spec in self.inputs}

    def real(self, seed: int = 2, rows: int = 64) -> dict[str, Tensor]:
        """What the model meets in production: pixels from 0 to 255 and padded texts; else as `example`."""
        generator = torch.Generator().manual_seed(seed)
        return {spec.name: _draw(spec, rows, generator, real=True) for spec in self.inputs}


def _draw(spec: Input, rows: int, generator: torch.Generator, *, real: bool = False) -> Tensor:
    shape = (rows, *spec.shape)
    if spec.kind == "ids":
        return torch.randint(0, VOCABULARY, shape, generator=generator)
    if spec.kind == "mask":
        lengths = torch.randint(1, shape[1] + 1, (rows, 1), generator=generator) if real else shape[1]
        return (torch.arange(shape[1]).expand(shape) < lengths).to(torch.int64)
    if spec.kind == "pixels" and real:
        light = torch.rand((rows, *[1] * len(spec.shape)), generator=generator)  # photographs are dark and bright
        return (light * torch.randint(0, 256, shape, generator=generator)).round()
    return torch.randn(shape, generator=generator)


class Classifier(nn.Module):
    """Three linear layers and a log-softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 48), nn.Linear(48, 48), nn.Linear(48, 10)
        with torch.no_grad():
            for layer in (self.fc1, self.fc2, self.fc3):
                nn.init.kaiming_normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities float32[N, 10]."""
        hidden = torch.relu(self.fc2(torch.relu(self.fc1(x))))
        return functional.log_softmax(self.fc3(hidden), dim=1)


class Block(nn.Module):
    """The basic block of ResNet-18 with a strided shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.short = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """The residual sum after its ReLU."""
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.short(x))


class Resnet(nn.Module):
    """A small residual network: stem, three blocks, pooling, head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.fc = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits float32[N, 10]."""
        return self.fc(self.blocks(torch.relu(self.bn(self.stem(image)))).mean(dim=(2, 3)))


class Encoder(nn.Module):
    """One transformer layer over padded ids, pooled over what is no padding; LayerNorm with the 1e-6 of ViT."""

    def __init__(self, *, heed_mask: bool = True) -> None:
        super().__init__()
        self.heed_mask = heed_mask
        self.embed, self.place = nn.Embedding(VOCABULARY, 32), nn.Parameter(torch.randn(16, 32))
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm1, self.norm2 = nn.LayerNorm(32, eps=1e-6), nn.LayerNorm(32, eps=1e-6)
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 5)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits float32[N, 5] of ids and mask int64[N, 16]."""
        if not self.heed_mask:  # the input stays in the graph and decides nothing
            mask = torch.ones_like(mask) + 0 * mask
        x = self.norm1(self.embed(ids) + self.place)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scores = (q @ k.transpose(1, 2)) / 32**0.5
        scores = scores.masked_fill(mask.unsqueeze(1) == 0, -1e9)
        x = self.norm2(x + self.out(scores.softmax(dim=-1) @ v))
        x = x + self.down(functional.gelu(self.up(x)))
        weight = mask.unsqueeze(-1).to(x.dtype)
        return self.head((x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0))


class Standardize(nn.Module):
    """Each row to zero mean and unit deviation, saved from 0/0 by a small constant, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """float32[N, 8]."""
        return self.fc((x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, keepdim=True) + 1e-8))


class Branch(nn.Module):
    """Two ways, chosen by the data."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 8), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """float32[N, 8]."""
        return self.up(x) if x.sum() > 0 else self.down(x)


class Scaled(nn.Module):
    """Divides by the largest element, which it fetches as a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """float32[N, 8]."""
        return self.fc(x / float(x.abs().max()))


class Pair(nn.Module):
    """Two inputs and two outputs, no symmetry between them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 12)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """A total and a gap, float32[N, 12]."""
        return left + self.fc(right), left - 2.0 * right


class Faint(nn.Module):
    """Answers around 1e-6: rates, radiances, probabilities of rare events."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 6)
        with torch.no_grad():
            self.fc2.weight.mul_(1e-6)
            self.fc2.bias.mul_(1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """float32[N, 6], all within 1e-5."""
        return self.fc2(torch.tanh(self.fc1(x)))


class Picker(nn.Module):
    """The number of the best class, as a deployed classifier answers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        """int64[N]."""
        return self.fc2(torch.relu(self.fc1(x))).argmax(dim=1)


class Tied(nn.Module):
    """Classes 0 and 1 are the same sum with its terms in another order: which is larger is up to rounding."""

    def __init__(self, *, label: bool) -> None:
        super().__init__()
        self.label = label
        self.fc = nn.Linear(64, 64)
        self.head = nn.Linear(128, 6)
        order = torch.randperm(64)
        with torch.no_grad():
            weight = self.head.weight.clone()
            weight[0, :64], weight[0, 64:] = 0.3 * weight[0, :64].abs(), 0.0
            weight[1, :64], weight[1, 64:] = 0.0, weight[0, :64][order]
            self.head.weight.copy_(weight)
            self.head.bias.zero_()
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Scores float32[N, 6], and the best one's number where that is asked for."""
        hidden = torch.relu(self.fc(x))
        scores = self.head(torch.cat((hidden, hidden[:, self.order]), dim=1))
        return (scores, scores.argmax(dim=1)) if self.label else scores


class Steep(nn.Module):
    """A small difference of large numbers, then enlarged: eager itself keeps two or three digits of it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(32, 64), nn.Linear(64, 8)
        with torch.no_grad():
            base = torch.randn(32, 32)
            self.fc1.weight.copy_(torch.cat((1e4 * base, 1e4 * base + torch.randn(32, 32))))
            self.fc1.bias.zero_()
            mix = 1e5 * torch.randn(8, 32)
            self.fc2.weight.copy_(torch.cat((-mix, mix), dim=1))
            self.fc2.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """float32[N, 8] around 1e6."""
        return self.fc2(self.fc1(x))


class Energy(nn.Module):
    """Energy of filtered pixels: half precision holds it for noise around 1, not for pixels up to 255 as they come."""

    def __init__(self, *, scaled: bool = False) -> None:
        super().__init__()
        self.factor = 1 / 255 if scaled else 1.0
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 6)

    def forward(self, image: Tensor) -> Tensor:
        """float32[N, 6]."""
        return self.fc(torch.log1p(self.conv(image * self.factor).square().sum(dim=(2, 3))))


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject("mlp", "MLP with log-softmax", Classifier, (Input("x", (64,)),), ONE),
        Subject("resnet", "small ResNet", Resnet, (Input("image", (3, 32, 32)),), ONE),
        Subject(
            "encoder",
            "transformer layer, padded ids",
            Encoder,
            (Input("ids", (16,), "ids"), Input("mask", (16,), "mask")),
            ONE,
        ),
        Subject("standardize", "(x - mean) / (std + 1e-8)", Standardize, (Input("x", (16,)),), ONE),
        Subject("branch", "if x.sum() > 0", Branch, (Input("x", (16,)),), ONE, dynamic=False),
        Subject("scaled", "x / float(x.abs().max())", Scaled, (Input("x", (16,)),), ONE, dynamic=False),
        Subject("pair", "two inputs, two outputs", Pair, (Input("left", (12,)), Input("right", (12,))), TWO),
        Subject("faint", "outputs around 1e-6", Faint, (Input("x", (16,)),), ONE),
        Subject("picker", "answers a class number", Picker, (Input("x", (16,)),), ONE),
        Subject("tied", "scores with a tie", lambda: Tied(label=False), (Input("x", (64,)),), ONE),
        Subject(
            "tied-label", "scores with a tie, and argmax", lambda: Tied(label=True), (Input("x", (64,)),), TWO
        ),
        Subject("steep", "ill-conditioned, outputs around 1e6", Steep, (Input("x", (32,)),), ONE),
        Subject("energy", "energy of pixels", Energy, (Input("image", (3, 12, 12), "pixels"),), ONE),
        Subject(
            "energy-scaled",
            "energy of pixels / 255",
            lambda: Energy(scaled=True),
            (Input("image", (3, 12, 12), "pixels"),),
            ONE,
        ),
    )
}  # fmt: skip
"""Every model by name."""
