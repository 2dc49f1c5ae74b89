"""A random network answers nearly the same for every input; made informative, it has something to be judged by."""

from __future__ import annotations

import torch
from fixtures.informative import informative
from torch import nn


class Deep(nn.Module):
    """Twelve convolutions with batch-norms whose statistics fit nothing, and a head."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(12)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(4, 6)

    def forward(self, x):
        return self.head(self.body(x).mean(dim=(2, 3)))


def spread(module: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        answer = module(x)
    return float((answer - answer.mean(0)).std())


def test_outputs_of_a_random_network_spread_by_one():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, x = Deep().eval(), torch.randn(32, 4, 12, 12)
    before = spread(module, x)
    assert before < 0.01  # nothing of the input reaches the output
    assert informative(module, (x,)) is module
    assert abs(spread(module, x) - 1.0) < 0.01
    assert not any(part.training for part in module.modules())
    assert all(part.momentum == 0.1 for part in module.modules() if isinstance(part, nn.BatchNorm2d))


def test_a_constant_head_is_left_as_it_is():
    module = nn.Sequential(nn.Linear(4, 3))
    with torch.no_grad():
        module[0].weight.zero_()
    informative(module, (torch.randn(8, 4),))
    assert torch.equal(module[0].weight, torch.zeros(3, 4))
