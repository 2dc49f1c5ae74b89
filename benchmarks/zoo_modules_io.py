"""Hand-written modules, continued: inputs and outputs that are no plain tensors, other dtypes.

Functions return `(module, inputs)` or `(module, args, kwargs)` where `--input` could not say what goes in; classes
alone are built without arguments. What should come out of each stands in `zoo_list.py`.
"""

# ruff: noqa: D102 - what a module does stands above its forward

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from zoo_modules import Small

Built = tuple[Any, ...]

# --- nested inputs and outputs ----------------------------------------------------------------------------------------


class Named(Small):
    """A dict in and a dict out."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        scores = super().forward(batch["features"] * batch["weight"])
        return {"scores": scores, "labels": scores.argmax(-1)}


def dicts() -> Built:
    """A batch as data loaders give it."""
    return Named(), {"batch": {"features": torch.randn(2, 16), "weight": torch.rand(2, 1)}}


class Pyramid(nn.Module):
    """A list of feature maps in, a list out."""

    def __init__(self) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(n, 8, 1) for n in (4, 6, 8))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        found = [conv(x) for conv, x in zip(self.lateral, maps, strict=True)]
        for i in (1, 0):
            found[i] = found[i] + functional.interpolate(found[i + 1], scale_factor=2.0, mode="nearest")
        return found


def lists() -> Built:
    """Three levels of a pyramid."""
    return Pyramid(), ([torch.randn(2, 4, 16, 16), torch.randn(2, 6, 8, 8), torch.randn(2, 8, 4, 4)],)


@dataclass
class Sample:
    """What a data class holds."""

    image: Tensor
    age: Tensor


@dataclass
class Found:
    """What comes out as one."""

    scores: Tensor
    risk: Tensor
    note: Tensor | None = None


class Typed(Small):
    """Dataclasses on both sides."""

    def forward(self, sample: Sample) -> Found:
        scores = super().forward(sample.image)
        return Found(scores, scores.amax(-1) * sample.age)


def dataclasses() -> Built:
    """A dataclass as the one argument."""
    return Typed(), (Sample(torch.randn(2, 16), torch.rand(2)),)


class State(NamedTuple):
    """A state as a named tuple."""

    hidden: Tensor
    cell: Tensor


class Streaming(nn.Module):
    """One step of an LSTM cell, its state a named tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(8, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        state = State(*self.cell(x, (state.hidden, state.cell)))
        return self.head(state.hidden), state


def named_tuples() -> Built:
    """A step with the state handed in."""
    return Streaming(), (torch.randn(2, 8), State(torch.randn(2, 12), torch.randn(2, 12)))


class Optional(Small):
    """A mask that may be left out, and a flag."""

    def forward(self, x: Tensor, mask: Tensor | None = None, *, normalize: bool = False) -> tuple[Tensor, None, Tensor]:
        x = x if mask is None else x * mask
        scores = super().forward(functional.normalize(x, dim=-1) if normalize else x)
        return scores, None, scores.logsumexp(-1)


def keywords() -> Built:
    """Keyword arguments, one of them a plain value."""
    return Optional(), (torch.randn(2, 16),), {"mask": torch.ones(2, 16), "normalize": True}


def without_mask() -> Built:
    """None where a tensor could be."""
    return Optional(), (torch.randn(2, 16), None)


class Cached(nn.Module):
    """One decoder step with keys and values of the past, a list of pairs in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layers = nn.Embedding(50, 16), nn.ModuleList(nn.Linear(16, 48) for _ in range(2))
        self.head = nn.Linear(16, 50)

    def forward(self, ids: Tensor, past: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        x, now = self.words(ids), []
        for layer, (keys, values) in zip(self.layers, past, strict=True):
            q, k, v = layer(x).chunk(3, -1)
            k, v = torch.cat((keys, k), 1), torch.cat((values, v), 1)
            x = x + functional.scaled_dot_product_attention(q, k, v)
            now.append((k, v))
        return self.head(x), now


def key_value_cache() -> Built:
    """Seven steps in the past; their number is to stay open."""
    past = [(torch.randn(2, 7, 16), torch.randn(2, 7, 16)) for _ in range(2)]
    return Cached(), (torch.randint(0, 50, (2, 1)), past)


class Chatty(Small):
    """A tensor and a plain number."""

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return super().forward(x), x.shape[1]


class Unused(Small):
    """An argument without effect."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        del lengths
        return super().forward(x)


# --- complex numbers, other dtypes ------------------------------------------------------------------------------------


class Spectrum(nn.Module):
    """Magnitudes of a real FFT."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(33, 5)

    def forward(self, wave: Tensor) -> Tensor:
        return self.head(torch.log1p(torch.fft.rfft(wave).abs()))


class Spectrogram(nn.Module):
    """A short-time transform with a window, mel-like."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(32))
        self.mel = nn.Linear(17, 8)

    def forward(self, wave: Tensor) -> Tensor:
        parts = torch.stft(wave, 32, 16, window=self.window, return_complex=True)
        return self.mel(parts.abs().square().mT)


class Spectral(nn.Module):
    """A layer of a Fourier neural operator: complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 9, dtype=torch.cfloat) / 4)

    def forward(self, x: Tensor) -> Tensor:
        modes = torch.einsum("nik,iok->nok", torch.fft.rfft(x)[..., :9], self.weight)
        return torch.fft.irfft(modes, n=x.shape[-1])


class Rotated(nn.Module):
    """Rotary position codes by complex multiplication, as Llama's first code had them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q = self.inner(x)
        angle = torch.outer(torch.arange(x.shape[1]).float(), 10_000.0 ** (-torch.arange(8) / 8))
        turned = torch.view_as_complex(q.reshape(*q.shape[:2], 8, 2)) * torch.polar(torch.ones_like(angle), angle)
        return torch.view_as_real(turned).flatten(2)


class Phasors(nn.Module):
    """Complex numbers in and out."""

    def forward(self, z: Tensor) -> Tensor:
        return z * z.conj().roll(1, -1)


class Precise(Small):
    """Statistics in double, as finance people do."""

    def forward(self, x: Tensor) -> Tensor:
        wide = x.double()
        return super().forward(((wide - wide.mean(1, True)) / wide.std(1, keepdim=True)).float())


def half_weights() -> Built:
    """A module in float16, converted inside."""

    class Half(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.half()).float()

    return Half().half(), torch.randn(2, 16)


class Autocast(Small):
    """Autocast inside forward."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).float()
