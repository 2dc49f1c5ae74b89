"""A network of one's own, as it lies beside its training script."""

from itertools import pairwise

import torch
from torch import Tensor, nn

FEATURES, STATES = 12, 6


class Machine(nn.Module):
    """Which of six states is the machine in? From the last twelve readings of its sensors."""

    def __init__(self, width: int = 48, depth: int = 3) -> None:
        super().__init__()
        widths = [FEATURES] + [width] * depth
        self.norm = nn.BatchNorm1d(FEATURES)
        self.hidden = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(widths)])
        self.out = nn.Linear(width, STATES)

    def forward(self, readings: Tensor) -> Tensor:
        """Scores float32[N,6] of readings float32[N,12]."""
        x = self.norm(readings)
        for layer in self.hidden:
            x = nn.functional.dropout(torch.relu(layer(x)), 0.1, self.training)
        scores: Tensor = self.out(x)
        return scores


def build() -> nn.Module:
    """The network with the sizes that it was trained with; its weights come from the checkpoint."""
    return Machine(width=48, depth=3)
