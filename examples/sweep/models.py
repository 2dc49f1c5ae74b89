"""Two small networks for sensor readings: a narrow one, and one that is wider and normalizes its layers."""

import torch
from torch import nn

READINGS, CLASSES = 16, 4


def narrow() -> tuple[nn.Module, torch.Tensor]:
    """One hidden layer of 32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(READINGS, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    return model, torch.rand(2, READINGS)


def wide() -> tuple[nn.Module, torch.Tensor]:
    """One hidden layer of 256, normalized."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(READINGS, 256), nn.LayerNorm(256), nn.GELU(), nn.Linear(256, CLASSES))
    return model, torch.rand(2, READINGS)
