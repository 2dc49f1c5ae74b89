"""A streaming acoustic model: two convolutions and a GRU; what it has to remember goes in and comes out as tensors."""

import torch
from torch import Tensor, nn

BANDS, WIDTH, SYMBOLS, KERNEL = 40, 64, 29, 5
CONTEXT = KERNEL - 1
"""Frames before a chunk that its first convolution still needs."""


class Acoustic(nn.Module):
    """Half as many steps come out as frames go in."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv1d(BANDS, WIDTH, KERNEL)
        self.shorter = nn.Conv1d(WIDTH, WIDTH, 2, stride=2)
        self.memory = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.symbols = nn.Linear(WIDTH, SYMBOLS)

    def forward(self, frames: Tensor, before: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        """Scores of a chunk, and what the next one needs.

        Args:
            frames: float32[N,T,40], log-mel bands; T is even.
            before: float32[N,4,40], the last frames of the chunk before; zeros at the beginning.
            hidden: float32[N,64], the GRU's state after the chunk before; zeros at the beginning.

        Returns:
            `log_probs` float32[N,T/2,29], and `before` and `hidden` for the next chunk.
        """
        joined = torch.cat([before, frames], dim=1)
        x = torch.relu(self.wide(joined.transpose(1, 2)))
        x = torch.relu(self.shorter(x)).transpose(1, 2)
        x, last = self.memory(x, hidden.unsqueeze(0))
        return {
            "log_probs": torch.log_softmax(self.symbols(x), dim=2),
            "next_before": joined[:, -CONTEXT:],
            "next_hidden": last.squeeze(0),
        }


def silence(rows: int) -> tuple[Tensor, Tensor]:
    """`before` and `hidden` at the beginning of `rows` recordings."""
    return torch.zeros(rows, CONTEXT, BANDS), torch.zeros(rows, WIDTH)


def build() -> tuple[nn.Module, tuple[Tensor, Tensor, Tensor]]:
    """The network with random weights, and a chunk of half a second from the middle of two recordings."""
    torch.manual_seed(0)
    state = torch.randn(2, CONTEXT, BANDS), torch.rand(2, WIDTH) * 2 - 1
    return Acoustic().eval(), (torch.randn(2, 50, BANDS), *state)
