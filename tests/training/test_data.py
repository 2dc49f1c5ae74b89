"""The splits are what they claim, and MNIST is read from real IDX files."""

import gzip
import hashlib
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.datasets import MNIST

from deploykit.errors import RefusedError, UsageError, WorkError
from deploykit.training import data

PARTS = ("train", "calibration", "test")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def rows(splits, part):
    return {row.numpy().tobytes() for row in getattr(splits, f"{part}_images")}


def idx(array):
    """`array` (uint8) as the bytes of an IDX file: magic, big-endian sizes, values."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder, train, test):
    """The four files of MNIST, `train` and `test` being (uint8[n, 28, 28], uint8[n])."""
    folder.mkdir(parents=True)
    for part, (images, labels) in {"train": train, "t10k": test}.items():
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))


def as_bytes(images, labels):
    return (images[:, 0] * 255).round().to(torch.uint8).numpy(), labels.to(torch.uint8).numpy()


@pytest.fixture
def mnist(tmp_path, digits):
    """A directory with 937 training and 700 test images in MNIST's own format."""
    train = as_bytes(digits.train_images, digits.train_labels)
    test = as_bytes(digits.test_images, digits.test_labels)
    write_mnist(tmp_path / "MNIST" / "raw", train, test)
    return tmp_path, train, test


def test_digits_sizes_types_and_ranges(digits):
    for part, size in zip(PARTS, (937, 160, 700), strict=True):
        images, labels = getattr(digits, f"{part}_images"), getattr(digits, f"{part}_labels")
        assert (images.shape, images.dtype) == ((size, 1, 28, 28), torch.float32)
        assert (labels.shape, labels.dtype) == ((size,), torch.int64)
        assert 0 <= images.min() < images.max() <= 1
    assert digits.mean == pytest.approx(float(digits.train_images.mean()), abs=1e-5)
    assert digits.std == pytest.approx(float(digits.train_images.std()), abs=1e-5)


def test_digits_are_all_there_once_and_stratified(digits):
    seen = [rows(digits, part) for part in PARTS]
    assert sum(map(len, seen)) == len(set.union(*seen)) == len(np.unique(load_digits().images, axis=0)) == 1797
    for part in PARTS:
        labels = getattr(digits, f"{part}_labels")
        shares = torch.bincount(labels, minlength=10) / len(labels)
        whole = np.bincount(load_digits().target) / 1797
        assert np.abs(shares.numpy() - whole).max() < 1.5 / len(labels)


def test_digits_are_the_8x8_images_resized(digits):
    """Averaged back to 8×8, every image is closest to the scikit-learn image with its label."""
    stored = load_digits()
    small = torch.nn.functional.interpolate(digits.test_images[:50], size=(8, 8), mode="area")[:, 0]
    originals = torch.from_numpy(stored.images).float() / 16
    nearest = torch.cdist(small.flatten(1), originals.flatten(1)).argmin(dim=1)
    assert torch.equal(torch.from_numpy(stored.target)[nearest], digits.test_labels[:50])


def test_seed_decides_the_split(digits):
    assert rows(data.digits(0), "test") == rows(digits, "test")
    assert rows(data.digits(1), "test") != rows(digits, "test")


def test_mnist_from_idx_files(mnist):
    folder, train, test = mnist
    splits = data.load("mnist", directory=folder)
    assert torch.equal(splits.test_images, torch.from_numpy(test[0]).unsqueeze(1).float() / 255)
    assert torch.equal(splits.test_labels, torch.from_numpy(test[1]).long())
    assert (len(splits.calibration_labels), len(splits.train_labels)) == (160, 777)
    both = torch.cat([splits.train_images, splits.calibration_images])
    assert {x.numpy().tobytes() for x in both} == {(x.astype(np.float32) / 255).tobytes() for x in train[0]}
    assert torch.bincount(splits.calibration_labels).min() >= 15


def test_mnist_that_is_not_there_names_directory_and_option(tmp_path):
    with pytest.raises(UsageError, match=r"NO_DATA.*raw: MNIST is not there.*--download"):
        data.load("mnist", directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_mnist_with_too_few_samples(tmp_path, digits):
    few = as_bytes(digits.train_images[:160], digits.train_labels[:160])
    write_mnist(tmp_path / "MNIST" / "raw", few, few)
    with pytest.raises(UsageError, match=r"NO_DATA.*160 training"):
        data.mnist(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "labels", "swapped"])
def test_damaged_idx_files_are_refused(mnist, damage):
    folder, train, _ = mnist
    images = folder / "MNIST" / "raw" / "train-images-idx3-ubyte"
    labels = folder / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    if damage == "cut":
        images.write_bytes(images.read_bytes()[:-1])
    elif damage == "swapped":
        images.write_bytes(labels.read_bytes())
    elif damage == "labels":
        labels.write_bytes(idx(train[1][:-1]))
    else:
        images.write_bytes(b"" if damage == "empty" else b"these are not the images you are looking for")
    with pytest.raises(RefusedError, match="MALFORMED"):
        data.mnist(folder)


def test_download_from_a_mirror(mnist, tmp_path_factory, monkeypatch):
    """A real download over HTTP from this machine, with the digests of our files in place of MNIST's."""
    folder, _, test = mnist
    mirror, target = tmp_path_factory.mktemp("mirror"), tmp_path_factory.mktemp("target")
    resources = []
    for file in sorted((folder / "MNIST" / "raw").iterdir()):
        packed = gzip.compress(file.read_bytes())
        (mirror / f"{file.name}.gz").write_bytes(packed)
        resources.append((f"{file.name}.gz", hashlib.md5(packed).hexdigest()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=mirror))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(MNIST, "resources", resources)
    try:
        splits = data.load("mnist", directory=target, download=True)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert torch.equal(splits.test_labels, torch.from_numpy(test[1]).long())


def test_download_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])  # the discard port: nobody listens
    with pytest.raises(WorkError, match=r"DOWNLOAD_FAILED.*--data digits"):
        data.mnist(tmp_path, download=True)


def test_unknown_data_set():
    with pytest.raises(UsageError, match=r"UNKNOWN_DATA.*digits, mnist"):
        data.load("cifar")
