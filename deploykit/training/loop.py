"""The training loop: one process, or the same arithmetic spread over many."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from deploykit.errors import UsageError, WorkError
from deploykit.threads import one_thread
from deploykit.training.data import Splits

LEARNING_RATE = {"sgd": 0.01, "adam": 0.001, "rmsprop": 0.0005}
"""Default step of each optimizer: the tutorial's for SGD, Kingma & Ba's for Adam; RMSprop has no bias correction and is
steadier with half of that."""

EPOCHS = 40


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        epochs: passes over the training set.
        batch_size: samples per step over all processes together.
        optimizer: `sgd`, `adam` or `rmsprop`.
        lr: step size; None takes the optimizer's default.
        momentum: of SGD; the others have their own.
        seed: decides the order of the samples.
    """

    epochs: int = EPOCHS
    batch_size: int = 64
    optimizer: str = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in LEARNING_RATE:
            known = ", ".join(LEARNING_RATE)
            raise UsageError(f"--optimizer {self.optimizer}", "unknown optimizer", f"one of {known}", "BAD_TRAINING")
        if self.epochs < 1 or self.batch_size < 1:
            raise UsageError(
                "training", "epochs and batch size are at least 1", "give positive numbers", "BAD_TRAINING"
            )
        if not (math.isfinite(self.step) and self.step > 0 and 0 <= self.momentum < 1):
            message = f"lr {self.step} and momentum {self.momentum}"
            raise UsageError("training", message, "lr is above 0, momentum from 0 to under 1", "BAD_TRAINING")

    @property
    def step(self) -> float:
        """The learning rate in use."""
        return LEARNING_RATE[self.optimizer] if self.lr is None else self.lr


def fit(
    module: nn.Module,
    splits: Splits,
    config: TrainConfig,
    on_epoch: Callable[[int, float], None] | None = None,
) -> tuple[float, ...]:
    """Train `module` in place on the training split, and leave it in eval mode.

    Where `torch.distributed` is initialized, every process calls this with the same arguments. Each takes its share of
    every global batch, and the gradients add up to those of one process on the whole batch.

    Args:
        module: takes images float32[n, 1, 28, 28], returns log-probabilities float32[n, classes]; on the device to use.
        splits: the data.
        config: how to train.
        on_epoch: called on rank 0 with the epoch (from 1) and its mean loss.

    Returns:
        the mean loss of each epoch.

    Raises:
        WorkError: TRAINING_DIVERGED, the loss or a weight is not finite.
    """
    device = next(module.parameters()).device
    rank, world = _place()
    model = DistributedDataParallel(module) if world > 1 else module
    optimizer = _optimizer(module, config)
    losses = []
    batches = _batches(splits, config)
    module.train()
    for epoch in range(1, config.epochs + 1):
        # layers this small gain nothing from two threads, which on a busy machine wait for each other longer than they
        # work: 6 s against 30 s, measured
        with one_thread():
            total = torch.zeros((), dtype=torch.float64, device=device)
            for images, labels in batches:
                share = images[rank::world].to(device), labels[rank::world].to(device)
                total += _step(model, optimizer, *share, len(labels))
        if world > 1:
            distributed.all_reduce(total)
        losses.append(float(total) / len(splits.train_labels))
        _check_finite(module, losses[-1], epoch)  # the same on every rank: none waits for one that gave up
        if on_epoch is not None and rank == 0:
            on_epoch(epoch, losses[-1])
    module.eval()
    return tuple(losses)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, whole: int) -> Tensor:
    """One step on this process's share of a batch of `whole` samples; returns the summed loss of the share.

    The module answers with log-probabilities, so the loss is NLL. The classic tutorial puts `CrossEntropyLoss` here,
    which takes log-softmax once more: the number is the same only because log-softmax is idempotent, log_softmax(x) = x
    for an x that already is one.
    """
    _, world = _place()
    loss = nn.functional.nll_loss(model(images), labels, reduction="sum")
    optimizer.zero_grad()
    # DDP averages the gradients over processes: times `world` makes that their sum, over `whole` the batch's mean,
    # also where the last batch does not divide evenly and where a share is empty
    (loss * (world / whole)).backward()  # type: ignore[no-untyped-call]  # torch leaves it without annotations
    optimizer.step()
    return loss.detach().double()


def _batches(splits: Splits, config: TrainConfig) -> DataLoader[tuple[Tensor, ...]]:
    """Global batches in an order that `config.seed` alone decides: the same on every process."""
    dataset = TensorDataset(splits.train_images, splits.train_labels)
    order = RandomSampler(dataset, generator=torch.Generator().manual_seed(config.seed))
    # a batch of indices is one indexing of the tensors; collating sample by sample costs more than the training
    sampler = BatchSampler(order, config.batch_size, drop_last=False)
    return DataLoader(dataset, sampler=sampler, batch_size=None)


def _optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = module.parameters()
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.step, momentum=config.momentum)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.RMSprop
    return kind(parameters, lr=config.step)


def _place() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _check_finite(module: nn.Module, loss: float, epoch: int) -> None:
    if not math.isfinite(loss) or not all(bool(p.isfinite().all()) for p in module.parameters()):
        message = (
            f"the loss is {loss} in epoch {epoch}"
            if not math.isfinite(loss)
            else f"a weight overflowed in epoch {epoch}"
        )
        raise WorkError("training", message, "lower --lr", "TRAINING_DIVERGED")
