"""Hand-written modules of the kinds that people bring: control flow, recurrence, integers.

A class is a callable that gives a module, so each is a `python:` source; its inputs and what should come out of it
stand in `zoo_list.py`.
"""

# ruff: noqa: D102 - what a module does stands above its forward

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Small(nn.Module):
    """Two linear layers of sixteen units: what most modules here have in the middle."""

    def __init__(self, features: int = 16, classes: int = 5) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features, 32), nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Scores float32[N, classes] of float32[N, features]."""
        return self.second(functional.gelu(self.first(x)))


# --- control flow -----------------------------------------------------------------------------------------------------


class BranchOnValue(Small):
    """Python asks for the sign of a mean."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * 2 if x.mean() > 0 else y - 1


class ByWhere(Small):
    """The same decided per row inside the graph."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return torch.where(x.mean(1, keepdim=True) > 0, y * 2, y - 1)


class ByCond(Small):
    """The same with the operator made for it."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return torch.cond(x.mean() > 0, lambda v: v * 2, lambda v: v - 1, (y,))


class RefusesNan(Small):
    """A check of the input that production code has."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.isnan(x).any():
            raise ValueError("NaN in the input")
        return super().forward(x)


class UntilConverged(nn.Module):
    """A fixed point iterated until it stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)
        nn.init.normal_(self.inner.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        z, step = torch.zeros_like(x), torch.ones(())
        while step > 1e-4:
            new = torch.tanh(self.inner(z) + x)
            step, z = (new - z).abs().max(), new
        return z


class FixedRounds(UntilConverged):
    """The same for ten rounds."""

    def forward(self, x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        for _ in range(10):
            z = torch.tanh(self.inner(z) + x)
        return z


class PeakScaled(Small):
    """A number read out of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / float(x.abs().max()))


class ByShape(nn.Module):
    """A branch on a size: another stride for large images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.conv(x))
        if x.shape[-1] > 24:
            y = functional.avg_pool2d(y, 2)
        return self.head(y.mean((2, 3)))


class Routed(nn.Module):
    """A mixture of experts that gathers the rows of each, as large ones do."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(16, 3), nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        chosen, out = self.router(x).argmax(-1), torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            where = (chosen == index).nonzero().squeeze(1)
            out = out.index_copy(0, where, expert(x[where]))
        return out


class Weighted(Routed):
    """All experts for every row, weighted."""

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        return (torch.stack([expert(x) for expert in self.experts], -1) * weights[:, None]).sum(-1)


# --- recurrence -------------------------------------------------------------------------------------------------------


class Tagger(nn.Module):
    """An LSTM over words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm = nn.Embedding(97, 16), nn.LSTM(16, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 7)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.words(ids))[0])


class Packed(Tagger):
    """The same with padding packed away, as tutorials do."""

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.words(ids), lengths.cpu(), True, enforce_sorted=False)
        out, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], True, total_length=ids.shape[1])
        return self.head(out)


def packed() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Three sentences; which lengths are right, only an example can say."""
    return Packed(), (torch.randint(0, 97, (3, 12)), torch.tensor([12, 7, 3]))


class Stepped(nn.Module):
    """A cell called once per step in a Python loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(8, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 16)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.head(h)


class HandedOn(Stepped):
    """One step, the state handed in and out: streaming done right."""

    def forward(self, x: Tensor, state: Tensor) -> dict[str, Tensor]:
        state = self.cell(x, state)
        return {"scores": self.head(state), "state": state}


class Acoustic(nn.Module):
    """Convolutions, a GRU, log-probabilities per frame."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru = nn.Conv1d(20, 24, 5, stride=2, padding=2), nn.GRU(24, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, 29)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.gru(functional.relu(self.conv(frames)).mT)[0]).log_softmax(-1)


class Dilated(nn.Module):
    """Causal convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(8, 8, 3, dilation=2**i) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = x + torch.tanh(layer(functional.pad(x, (2 * 2**index, 0))))
        return x


# --- integers ---------------------------------------------------------------------------------------------------------


class Tabular(nn.Module):
    """Categories and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.tables, self.head = nn.ModuleList(nn.Embedding(n, 8) for n in (11, 5, 30)), Small(3 * 8 + 4)

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        found = [table(categories[:, i]) for i, table in enumerate(self.tables)]
        return self.head(torch.cat((*found, numbers), 1))


class Hashed(nn.Module):
    """Ids of 64 bits hashed into a small table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 8)

    def forward(self, ids: Tensor) -> Tensor:
        mixed = (ids ^ (ids >> 15)) * 2_654_435_761
        return self.table((mixed & 0x7FFF_FFFF_FFFF_FFFF) % 64).mean(1)


class Bucketed(nn.Module):
    """Numbers cut into buckets."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", torch.linspace(-2, 2, 9))
        self.table = nn.Embedding(10, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(torch.bucketize(x, self.edges)).sum(1)


class Pixels(nn.Module):
    """Raw uint8 pixels, normalized inside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = (image.permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.22
        return self.head(functional.relu(self.conv(x)).mean((2, 3)))


class Ranked(Small):
    """Labels and the best three with their scores."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = super().forward(x).softmax(-1)
        best = scores.topk(3)
        return scores.argmax(-1), best.values, best.indices


class Spread(nn.Module):
    """Counts per class by scatter, cumulated in int32."""

    def forward(self, ids: Tensor) -> Tensor:
        ones = torch.ones_like(ids, dtype=torch.int32)
        counts = torch.zeros(ids.shape[0], 12, dtype=torch.int32).scatter_add(1, ids, ones)
        return counts.cumsum(1, dtype=torch.int32)


class Rounded(torch.autograd.Function):
    """Round forward, pass gradients straight through."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        return torch.round(x * 8) / 8

    @staticmethod
    def backward(_context: Any, grad: Tensor) -> Tensor:
        return grad


class StraightThrough(Small):
    """A function with a gradient of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(Rounded.apply(x))
