"""`deploykit train`: the seed model, trained in a child."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploykit.isolation import Worker
from deploykit.progress import Progress

TRAIN_SECONDS = 3600.0
"""Wall time for training: MNIST on two cores takes minutes, a hang would take forever."""


@dataclass(frozen=True)
class TrainRequest:
    """How to train the seed model; `epochs` and `lr` None are the defaults for the data and the optimizer."""

    data: str = "digits"
    root: str = "data"
    download: bool = False
    epochs: int | None = None
    optimizer: str = "sgd"
    lr: float | None = None
    seed: int = 0


def train(request: TrainRequest, checkpoint: Path, samples: Path | None, progress: Progress) -> dict[str, Any]:
    """Train, write `checkpoint` (safetensors) and, where asked for, the held-out samples that verify uses (`.npz`).

    Returns:
        The training record: `losses` per epoch, `test_accuracy`, `seconds`, and the settings.

    Raises:
        DeploykitError: no data, divergence, or the checkpoint cannot be written.
    """
    with Worker() as worker:
        record: dict[str, Any] = worker.call(
            "training:train",
            timeout_s=TRAIN_SECONDS,
            note=progress.note,
            request=asdict(request),
            checkpoint=str(checkpoint),
            samples=str(samples) if samples else None,
        )
    return record


def held_out(request: TrainRequest, samples: Path) -> None:
    """Write the samples that belong to a checkpoint trained before.

    Raises:
        DeploykitError: no data.
    """
    with Worker() as worker:
        worker.call("training:held_out", request=asdict(request), samples=str(samples))
