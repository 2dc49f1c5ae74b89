"""Many processes, one training: `torchrun --nproc-per-node 2 -m deploykit train -o FILE`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

from deploykit.errors import UsageError, WorkError

_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """Join the group that torchrun's environment describes; yield (rank, world size), (0, 1) without torchrun.

    NCCL where every process of this machine has a CUDA device of its own, gloo elsewhere. A group that already exists
    is used and left alone.

    Raises:
        UsageError: the variables are not whole numbers.
        WorkError: DISTRIBUTED, the processes cannot find each other.
    """
    if distributed.is_available() and distributed.is_initialized():
        yield distributed.get_rank(), distributed.get_world_size()
        return
    if not all(name in os.environ for name in _ENVIRONMENT):
        yield 0, 1
        return
    rank, world, local = _numbers()
    backend = "nccl" if _has_devices() else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(local)
    try:
        distributed.init_process_group(backend, rank=rank, world_size=world)
    except (RuntimeError, ValueError) as error:  # DistError is a RuntimeError; a missing MASTER_ADDR a ValueError
        hint = "start it with torchrun --nproc-per-node N -m deploykit train"
        raise WorkError("torchrun", str(error).split("\n", maxsplit=1)[0], hint, "DISTRIBUTED") from error
    try:
        yield rank, world
    finally:
        distributed.destroy_process_group()


def device() -> torch.device:
    """Where this process trains: its own CUDA device under NCCL, else the CPU, which repeats bit for bit."""
    grouped = distributed.is_available() and distributed.is_initialized()
    if grouped and distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _numbers() -> tuple[int, ...]:
    try:
        return tuple(int(os.environ[name]) for name in _ENVIRONMENT)
    except ValueError as error:
        given = ", ".join(f"{name}={os.environ[name]}" for name in _ENVIRONMENT)
        raise UsageError("torchrun", given, "start it with torchrun --nproc-per-node N", "DISTRIBUTED") from error


def _has_devices() -> bool:
    """Whether each process here gets a device: two NCCL processes on one device would hang."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    return torch.cuda.is_available() and distributed.is_nccl_available() and torch.cuda.device_count() >= here
