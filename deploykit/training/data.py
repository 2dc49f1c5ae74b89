"""Training data: real handwritten digits that come with scikit-learn, or MNIST from a directory.

The only module that knows where data comes from; everything else takes `Splits`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deploykit.errors import RefusedError, UsageError, WorkError, from_os_error

DATASETS = ("digits", "mnist")

TEST = 700
"""Test samples of digits: a drop of 0.5 points cannot be excluded at 95 % with under 539 (z²/(n+z²) ≤ 0.005)."""

CALIBRATION = 160
"""Calibration samples, 16 per class: enough for per-tensor ranges, and none of them is trained or tested on."""


@dataclass(frozen=True)
class Splits:
    """Three disjoint sets; images float32[n, 1, 28, 28] in [0, 1], labels int64[n].

    Attributes:
        mean: mean of the training pixels.
        std: standard deviation of the training pixels.
        origin: where the data came from, in words, for the manifest.
    """

    train_images: Tensor
    train_labels: Tensor
    calibration_images: Tensor
    calibration_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: float
    std: float
    origin: str


def load(name: str, *, seed: int = 0, directory: Path = Path("data"), download: bool = False) -> Splits:
    """The splits of data set `name`; the same seed gives the same splits.

    Args:
        name: `digits` or `mnist`.
        seed: decides which samples go where.
        directory: holds `MNIST/raw/`; unused for digits.
        download: fetch MNIST into `directory` if it is not there.

    Raises:
        UsageError: the name is unknown, or NO_DATA: the files are not there.
        RefusedError: the files are not what they should be.
        WorkError: DOWNLOAD_FAILED.
    """
    if name not in DATASETS:
        raise UsageError(f"--data {name}", "unknown data set", f"one of {', '.join(DATASETS)}", "UNKNOWN_DATA")
    return digits(seed) if name == "digits" else mnist(directory, seed=seed, download=download)


def digits(seed: int = 0) -> Splits:
    """scikit-learn's 1797 digits, 8×8 resized to 28×28: 937 to train, 160 to calibrate, 700 to test, stratified."""
    from sklearn.datasets import load_digits  # 1.5 s that MNIST does not pay

    stored = load_digits()
    small = torch.from_numpy(stored.images).to(torch.float32).unsqueeze(1) / 16  # 17 grey levels
    images = functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(stored.target).to(torch.int64)
    test, rest = _stratified(labels.numpy(), np.arange(len(labels)), TEST, seed)
    calibration, train = _stratified(labels.numpy(), rest, CALIBRATION, seed)
    origin = "scikit-learn digits (UCI optical recognition of handwritten digits), 8x8 resized to 28x28"
    return _splits(images, labels, (train, calibration), (images[test], labels[test]), origin)


def mnist(directory: Path, *, seed: int = 0, download: bool = False) -> Splits:
    """MNIST from `directory/MNIST/raw/`; calibration is cut from the training set, the test set stays whole.

    Raises:
        UsageError: NO_DATA, the four IDX files are not there, or hold too few samples.
        RefusedError: a file is no IDX file, or images and labels do not belong together.
        WorkError: DOWNLOAD_FAILED.
    """
    images, labels = _read_mnist(directory, train=True, download=download)
    test_images, test_labels = _read_mnist(directory, train=False, download=download)
    if len(labels) <= CALIBRATION or len(test_labels) == 0:
        message = f"{len(labels)} training and {len(test_labels)} test samples"
        raise UsageError(str(directory), message, f"more than {CALIBRATION} and at least one are needed", "NO_DATA")
    calibration, train = _stratified(labels.numpy(), np.arange(len(labels)), CALIBRATION, seed)
    return _splits(images, labels, (train, calibration), (test_images, test_labels), "MNIST (torchvision)")


def _read_mnist(directory: Path, *, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    from torchvision.datasets import MNIST

    if download:
        _download_mnist(directory)
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    raw = directory / "MNIST" / "raw"
    if not all((raw / name).is_file() for name in names):
        hint = "add --download, or put the four unpacked IDX files there"
        raise UsageError(str(raw), "MNIST is not there", hint, "NO_DATA")
    hint = "delete the directory and run again with --download"
    try:
        stored = MNIST(directory, train=train)
    except OSError as error:
        raise from_os_error(error, str(raw)) from error
    except Exception as error:  # torchvision checks with asserts, indexing and views: a damaged file raises any of them
        raise RefusedError(str(raw), f"no readable IDX files ({type(error).__name__})", hint) from error
    images, labels = stored.data, stored.targets
    if images.shape != (len(labels), 28, 28) or not bool(((labels >= 0) & (labels < 10)).all()):
        raise RefusedError(str(raw), f"images {list(images.shape)} do not go with labels {list(labels.shape)}", hint)
    return images.unsqueeze(1).to(torch.float32) / 255, labels.to(torch.int64)


def _download_mnist(directory: Path) -> None:
    from torchvision.datasets import MNIST

    try:
        MNIST(directory, download=True)
    except OSError as error:
        if error.errno is None or type(error).__module__.startswith(("urllib", "http")):
            raise _download_failed(error) from error
        raise from_os_error(error, str(directory)) from error
    except Exception as error:  # torchvision wraps what its mirrors answer in a RuntimeError; http.client has its own
        raise _download_failed(error) from error


def _download_failed(error: Exception) -> WorkError:
    hint = "check the network, or use --data digits, which needs none"
    return WorkError("MNIST", " ".join(str(error).split()), hint, "DOWNLOAD_FAILED")


def _stratified(
    labels: NDArray[np.int64], among: NDArray[np.int64], count: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of `count` of `among`, each class in proportion (largest remainders), and the others; both sorted."""
    shuffled = np.random.default_rng(seed).permutation(among)
    classes, sizes = np.unique(labels[among], return_counts=True)
    share = sizes * count / len(among)
    quota = np.floor(share).astype(np.int64)
    quota[np.argsort(quota - share, kind="stable")[: count - int(quota.sum())]] += 1
    parts = [shuffled[labels[shuffled] == c][:n] for c, n in zip(classes, quota, strict=True)]
    taken = np.sort(np.concatenate(parts))
    return taken, np.setdiff1d(among, taken)


def _splits(
    images: Tensor,
    labels: Tensor,
    cut: tuple[NDArray[np.int64], NDArray[np.int64]],
    test: tuple[Tensor, Tensor],
    origin: str,
) -> Splits:
    train, calibration = (torch.from_numpy(part) for part in cut)
    pixels = images[train].double()
    return Splits(
        train_images=images[train],
        train_labels=labels[train],
        calibration_images=images[calibration],
        calibration_labels=labels[calibration],
        test_images=test[0],
        test_labels=test[1],
        mean=float(pixels.mean()),
        std=float(pixels.std()),
        origin=origin,
    )
