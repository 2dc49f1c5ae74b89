"""torchvision's ResNet-18 for two classes; `python model.py` fits it in seconds to cuts from two photographs.

It writes `model.safetensors`, and `samples.npz` with raw uint8 cuts from the part of the photographs not trained on.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import nn
from torchvision.models import resnet18

import deploykit

STEPS = "imagenet,resize=36,crop=32"
"""From raw images to what the network takes: the same text as in deploykit.toml."""

SIDE, SEEN = 48, 400
"""Pixels of a raw cut; columns of a photograph that training sees, of 640."""


def build() -> nn.Module:
    """The network with random weights; its trained ones come from the checkpoint."""
    torch.manual_seed(0)
    network: nn.Module = resnet18(weights=None, num_classes=2)
    return network


def cuts(count: int, left: int, right: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """uint8[count,48,48,3] squares as a JPEG decoder gives them, and int64[count]: from which photograph."""
    rng = np.random.default_rng(seed)
    photographs = load_sample_images().images
    labels = rng.integers(0, len(photographs), count)
    found = []
    for label in labels:
        step = int(rng.integers(2, 5))
        y = int(rng.integers(0, photographs[label].shape[0] - SIDE * step))
        x = int(rng.integers(left, right - SIDE * step))
        found.append(photographs[label][y : y + SIDE * step : step, x : x + SIDE * step : step])
    return np.stack(found), labels


def train() -> None:
    """Fit all layers, then say how well it does on the rest of the photographs."""
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    for step in range(30):
        images, labels = cuts(32, 0, SEEN, seed=step)
        scores = model(torch.from_numpy(deploykit.preprocess(images, STEPS)))
        loss = nn.functional.cross_entropy(scores, torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = cuts(640, SEEN, 640, seed=1000)
    model.eval()
    with torch.no_grad():
        right = model(torch.from_numpy(deploykit.preprocess(images, STEPS))).argmax(1).numpy() == labels
    print(f"accuracy on {len(labels)} cuts from elsewhere: {right.mean():.1%}")
    save_file(model.state_dict(), "model.safetensors")
    np.savez("samples.npz", x=images, labels=labels)  # x: what forward calls it


if __name__ == "__main__":
    train()
