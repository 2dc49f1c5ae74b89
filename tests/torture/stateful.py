"""References that nothing can be proven about: the export ends before an exporter sees them. And look-alikes."""

from __future__ import annotations

import random

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torture.known import Known, Made, of, unmade


class Counter(nn.Module):
    """A Python counter scales the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.net(x) * self.calls


class Patient(Counter):
    """The counter shows only after many calls: every check of two calls would be too early."""

    def forward(self, x):
        self.calls += 1
        return self.net(x) * (2.0 if self.calls > 1000 else 1.0)


class Inner(nn.Module):
    """The counter is one level down."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.ModuleDict({"deep": Counter()})

    def forward(self, x):
        return torch.relu(self.stage["deep"](x))


class History(nn.Module):
    """A Python list remembers what was seen."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 3)
        self.seen: list[float] = []

    def forward(self, x):
        self.seen.append(0.5)
        return self.net(x) + sum(self.seen)


class Attribute(nn.Module):
    """A tensor that is no buffer is replaced on every call."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 3)
        self.running = torch.zeros(3)

    def forward(self, x):
        y = self.net(x)
        self.running = 0.9 * self.running + 0.1 * y.mean(0)
        return y - self.running


class Buffered(nn.Module):
    """A running mean in a buffer is updated in forward."""

    def __init__(self, persistent: bool = True) -> None:
        super().__init__()
        self.net = nn.Linear(6, 3)
        self.register_buffer("running", torch.zeros(3), persistent=persistent)

    def forward(self, x):
        y = self.net(x)
        self.running.mul_(0.9).add_(y.mean(0), alpha=0.1)
        return y - self.running


class Decaying(nn.Module):
    """Forward changes a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 3)

    def forward(self, x):
        with torch.no_grad():
            self.net.weight.mul_(0.999)
        return self.net(x)


class Cached(nn.Module):
    """A table is made on the first call and kept: after that, nothing changes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 3)
        self.table = None

    def forward(self, x):
        if self.table is None:
            self.table = torch.linspace(-1, 1, 6)
        return self.net(x * self.table)


class Dropped(nn.Module):
    """Dropout that no mode turns off."""

    def forward(self, x):
        return F.dropout(x, 0.3)


class Norm(nn.Module):
    """A batch-norm whose mode the test decides."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.1))

    def forward(self, x):
        return self.net(x)


def made(module: type[nn.Module], *arguments: object):
    return lambda: Made(module(*arguments).eval(), torch.randn(2, 6))


def in_train_mode() -> Made:
    return Made(Norm(), torch.randn(2, 6))


def one_part_in_train_mode(part: int):
    def build() -> Made:
        module = Norm().eval()
        module.net[part].train()
        return Made(module, torch.randn(2, 6))

    return build


def _poisoned() -> Made:
    module = nn.Sequential(nn.Linear(6, 3)).eval()
    with torch.no_grad():
        module[0].weight[0, 0] = float("nan")
    return Made(Following(module), torch.randn(2, 6))


class Following(nn.Module):
    """Names the input of a sequence."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, x):
        return self.net(x)


def _writes_to_input(x):
    x += 1.0
    return x * 2.0


def _relu_in_place(x):
    return torch.relu_(x).sum(-1)


def _part_in_place(x):
    x[:, 0] = 0.0
    return x.cumsum(-1)


def _refuses_large(x):
    if x.abs().max() > 2.5:
        raise ValueError("inputs are expected between -2.5 and 2.5")
    return x * 2.0


def _asserts_finite(x):
    assert x.isfinite().all()
    return x * 2.0


STATE, RANDOM = "STATEFUL_REFERENCE", "REFERENCE_NONDETERMINISTIC"

KNOWN = (
    Known("T20-python-counter", made(Counter), refused=STATE, says="calls"),
    Known("T20-counter-that-shows-late", made(Patient), refused=STATE, says="calls"),
    Known("T20-counter-one-level-down", made(Inner), refused=STATE, says=r"stage\.deep.*calls|calls.*stage\.deep"),
    Known("T20-list-of-history", made(History), refused=STATE, says="seen"),
    Known("T20-tensor-attribute", made(Attribute), refused=STATE, says="running"),
    Known("T21-buffer-updated", made(Buffered), refused=STATE, says="running"),
    Known("T21-hidden-buffer-updated", made(Buffered, False), refused=STATE, says="running"),
    Known("T21-weight-updated", made(Decaying), refused=STATE, says=r"net\.weight"),
    Known("H-cache-of-the-first-call", made(Cached)),
    Known("T22-train-mode", in_train_mode, refused="TRAIN_MODE"),
    Known("T23-batch-norm-in-train-mode", one_part_in_train_mode(1), refused="TRAIN_MODE", says=r"net\.1.*BatchNorm1d"),
    Known("T23-dropout-in-train-mode", one_part_in_train_mode(2), refused="TRAIN_MODE", says=r"net\.2.*Dropout"),
    Known("T24-dropout-left-on", made(Dropped), refused=RANDOM),
    Known("T24-added-noise", of(lambda x: x + 1e-3 * torch.randn_like(x), 6), refused=RANDOM),
    Known("T24-gumbel", of(lambda x: F.gumbel_softmax(x, hard=True), 6), refused=RANDOM),
    Known("T24-bernoulli", of(torch.bernoulli, inputs=torch.full((2, 6), 0.5)), refused=RANDOM),
    Known("T24-python-random", of(lambda x: x * random.random(), 6), refused=RANDOM),
    Known("M-input-plus-one", of(_writes_to_input, 6), refused="INPUT_MUTATED", says="input x"),
    Known("M-relu-in-place", of(_relu_in_place, 6), refused="INPUT_MUTATED", says="input x"),
    Known("M-column-in-place", of(_part_in_place, 6), refused="INPUT_MUTATED", says="input x"),
    Known("M-log-of-negative", of(torch.log, 6), refused="NAN_REFERENCE"),
    Known("M-weight-is-nan", _poisoned, refused="NAN_REFERENCE"),
    Known("M-batch-in-reshape", of(lambda x: x.reshape(2, 6).sum(-1), 6), refused="DIM_REFUSED", says="N=3"),
    Known(
        "M-refuses-large-inputs", of(_refuses_large, inputs=torch.zeros(2, 6)), refused="REFERENCE_ERROR", says="2.5"
    ),
    # refusing NaN is eager's right and no fault of the reference; that torch.export declines it is another matter
    Known("M-asserts-finite", of(_asserts_finite, 6), {"onnx": unmade("DATA_DEPENDENT", says=r"stateful\.py")}),
    Known("M-outputs-by-batch", of(list, 6), refused="BAD_OUTPUT"),
    Known("M-no-tensor-comes-out", of(lambda x: (x, "text"), 6), refused="BAD_OUTPUT"),
)
