"""A small network over a table with measured and categorical columns; `python model.py` trains it in seconds.

Each row is one of scikit-learn's 1,797 handwritten digits: 64 ink counts, and two categories derived from them.
"""

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

INK, PLACES, CLASSES = 64, 8, 10
MOST = 16
"""The largest ink count."""

TRAINING = 1_000
"""Rows to train with; the other 797 are for judging."""


class Table(nn.Module):
    """An embedding for each categorical column, beside the measurements, which are brought to 0 … 1."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.ModuleList([nn.Embedding(PLACES, 4) for _ in range(2)])
        self.layers = nn.Sequential(
            nn.Linear(INK + 8, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, CLASSES)
        )

    def forward(self, ink: Tensor, place: Tensor) -> Tensor:
        """Scores float32[N,10] from measurements float32[N,64] and categories int64[N,2]."""
        embedded = [table(place[:, column]) for column, table in enumerate(self.places)]
        scores: Tensor = self.layers(torch.cat([ink / MOST, *embedded], dim=1))
        return scores


def build() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """The network, and two rows as an example of what goes in."""
    torch.manual_seed(0)
    return Table(), (torch.rand(2, INK) * MOST, torch.tensor([[3, 4], [0, 7]]))


def table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measurements float32[1797,64], categories int64[1797,2] (row and column with most ink), labels int64[1797]."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))
    ink = digits.data[order].astype(np.float32)
    square = ink.reshape(-1, PLACES, PLACES)
    place = np.stack([square.sum(2).argmax(1), square.sum(1).argmax(1)], axis=1).astype(np.int64)
    return ink, place, digits.target[order].astype(np.int64)


def train() -> None:
    """Write `model.safetensors`, and `samples.npz` with the rows that training never saw."""
    ink, place, labels = table()
    model, _ = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.01)
    rows = [torch.from_numpy(column[:TRAINING]) for column in (ink, place, labels)]
    for _ in range(25):
        for batch in torch.randperm(TRAINING).split(50):
            x, c, y = (column[batch] for column in rows)
            loss = nn.functional.cross_entropy(model(x, c), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    ink, place, labels = ink[TRAINING:], place[TRAINING:], labels[TRAINING:]
    with torch.no_grad():
        right = model(torch.from_numpy(ink), torch.from_numpy(place)).argmax(1).numpy() == labels
    print(f"accuracy on {len(labels)} rows that training never saw: {right.mean():.1%}")
    save_file(model.state_dict(), "model.safetensors")
    np.savez("samples.npz", ink=ink, place=place, labels=labels)


if __name__ == "__main__":
    train()
