"""Step: train the seed model, and hand out the samples that its training never saw."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from deploykit.inputs import Samples
from deploykit.sources._mlp_net import MLP
from deploykit.training import checkpoint as checkpoints
from deploykit.training import data, distributed, loop
from deploykit.training.evaluate import accuracy


def train(request: dict[str, Any], checkpoint: str, samples: str | None, note: Callable[[str], None]) -> dict[str, Any]:
    """The six steps: define, initialize, loss, optimizer, train, evaluate; then write the checkpoint.

    Under torchrun every process trains its share and only rank 0 evaluates, tells and writes.

    Returns:
        `summary` in words, `losses` per epoch, `test_accuracy`, `seconds`, `rank`, and the settings.
    """
    started = time.perf_counter()
    splits = _splits(request)
    chosen = {name: request[name] for name in ("epochs", "lr") if request[name] is not None}
    config = loop.TrainConfig(optimizer=request["optimizer"], seed=request["seed"], **chosen)
    with distributed.process_group() as (rank, world):
        torch.manual_seed(request["seed"])
        module = MLP(mean=splits.mean, std=splits.std).to(distributed.device())

        def tell(epoch: int, loss: float) -> None:
            if rank == 0:
                note(f"epoch {epoch:2}/{config.epochs}  loss {loss:.4f}")

        losses = loop.fit(module, splits, config, tell)
        if rank != 0:
            return {"rank": rank}
        reached = accuracy(module, splits.test_images, splits.test_labels)
    seconds = time.perf_counter() - started
    settings = f"{config.optimizer} lr {config.step:g}, {config.epochs} epochs"
    summary = f"trained on {splits.origin}: {settings}, test accuracy {reached:.2%}"
    note(f"test accuracy {reached:.2%} on {len(splits.test_labels)} samples")
    record = {
        "data": request["data"],
        "optimizer": config.optimizer,
        "lr": config.step,
        "epochs": config.epochs,
        "seed": config.seed,
        "losses": list(losses),
        "test_accuracy": reached,
        "processes": world,
    }
    checkpoints.save(module.to("cpu"), record, checkpoint)
    if samples is not None:
        _samples(splits).save(Path(samples))
    return {"summary": summary, "rank": rank, "seconds": seconds, **record}


def held_out(request: dict[str, Any], samples: str) -> None:
    """Write the test split (to judge with) and the calibration split as `.npz`."""
    _samples(_splits(request)).save(Path(samples))


def _splits(request: dict[str, Any]) -> data.Splits:
    root, download = Path(request["root"]), request["download"]
    return data.load(request["data"], seed=request["seed"], directory=root, download=download)


def _samples(splits: data.Splits) -> Samples:
    return Samples(
        {"image": splits.test_images.numpy()},
        splits.test_labels.numpy(),
        {"image": splits.calibration_images.numpy()},
        splits.origin,
    )
