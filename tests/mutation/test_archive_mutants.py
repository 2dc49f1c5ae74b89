"""Mutants of TorchScript and `.pt2` archives: torch opens every one, and its answers differ."""

import zipfile

import numpy as np
import pytest

from deploykit.bundle import Bundle
from deploykit.errors import RefusedError, UsageError
from deploykit.mutation import archive, archive_mutants, faults, make
from deploykit.mutation.faults import Site
from deploykit.registry import load
from deploykit.session import SessionSettings

RUNTIMES = ["torchscript", "torch-export"]
X = np.random.default_rng(2).standard_normal((5, 6)).astype(np.float32)


@pytest.fixture(params=RUNTIMES)
def stored(request, tiny_bundle):
    """Runtime and artifact of the tiny model: 6 → 8 → 3 with a ReLU."""
    return request.param, Bundle(tiny_bundle).file_of(request.param)


def answer(runtime, path):
    session = load("runtimes", runtime)().open(path, ("output",), SessionSettings())
    return session.run({"x": X})["output"]


def test_the_tensors_are_found_in_the_order_of_the_layers(stored):
    _, path = stored
    found = archive.tensors(path)
    assert [tensor.shape for tensor in found] == [(8, 6), (8,), (3, 8), (3,)]
    assert all(np.isfinite(archive.read(path, tensor)).all() for tensor in found)


@pytest.mark.filterwarnings("ignore")
def test_every_mutant_opens_and_answers_differently(stored, tmp_path):
    runtime, path = stored
    before, original = answer(runtime, path), path.read_bytes()
    kinds = set()
    for site in make.sites(path, runtime, "fp32", seed=0)[0]:
        made = make.one(path, runtime, tmp_path, site)
        kinds.add(made.fault)
        assert made.path.stat().st_size == len(original)  # every offset, so every alignment, is kept
        with zipfile.ZipFile(made.path) as copy:
            assert copy.testzip() is None
        after = answer(runtime, made.path)
        assert after.shape == before.shape
        assert not np.array_equal(after, before), made
    assert kinds >= {
        faults.SCALED, faults.FLIPPED, faults.ZEROED, faults.SWAPPED, faults.UNBIASED, faults.ROUNDED, faults.HALVES,
        faults.TANH,
    }  # fmt: skip
    assert path.read_bytes() == original


@pytest.mark.filterwarnings("ignore")
def test_swapped_classes_take_their_bias_along(stored, tmp_path):
    runtime, path = stored
    (place,) = archive_mutants.places(path, archive.tensors(path), faults.SWAPPED)
    made = archive_mutants.mutate(path, tmp_path, Site(faults.SWAPPED, place, seed=3))
    first, second = faults.classes(3, 3)
    order = np.arange(3)
    order[[first, second]] = [second, first]
    assert np.allclose(answer(runtime, made.path), answer(runtime, path)[:, order], atol=1e-6)


def test_a_crc_is_renewed_with_and_without_a_data_descriptor(tmp_path):
    for name, flags in (("plain.zip", 0), ("streamed.zip", 8)):
        path = tmp_path / name
        with path.open("wb") as raw:
            target = _Unseekable(raw) if flags else raw
            with zipfile.ZipFile(target, "w") as written:
                written.writestr("a", b"before")
                written.writestr("b", b"second")
        with zipfile.ZipFile(path) as check:
            assert bool(check.getinfo("b").flag_bits & 8) == bool(flags)
        archive.overwrite(path, "b", b"SECOND")
        with zipfile.ZipFile(path) as check:
            assert check.testzip() is None
            assert (check.read("a"), check.read("b")) == (b"before", b"SECOND")


class _Unseekable:
    """A stream that zipfile cannot seek in, so that it writes data descriptors."""

    def __init__(self, raw):
        self.raw = raw

    def write(self, data):
        return self.raw.write(data)

    def flush(self):
        self.raw.flush()


def test_another_size_or_a_compressed_entry_is_no_place(tmp_path):
    path = tmp_path / "some.zip"
    with zipfile.ZipFile(path, "w") as written:
        written.writestr("stored", b"four")
        written.writestr("packed", b"f" * 100, zipfile.ZIP_DEFLATED)
    for entry, data in (("stored", b"fives"), ("packed", b"f" * 100)):
        with pytest.raises(ValueError, match="compressed"):
            archive.overwrite(path, entry, data)


def test_a_pickle_that_names_code_runs_none(tmp_path, monkeypatch):
    """`os.system` in an index is an inert name: nothing that a pickle names is looked up."""
    import os

    called = []
    monkeypatch.setattr(os, "system", called.append)
    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as written:
        written.writestr("archive/constants.pkl", b"cos\nsystem\n(S'echo'\ntR.")
    assert archive.tensors(path) == []
    assert called == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"\x00" * 100])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(RefusedError):
        archive.tensors(path)


def test_a_place_that_is_not_there_is_refused(stored, tmp_path):
    with pytest.raises(UsageError, match="NO_SITE"):
        archive_mutants.mutate(stored[1], tmp_path, Site(faults.SCALED, "nowhere"))


def test_an_epsilon_in_the_program_keeps_its_length():
    assert archive_mutants._edited(b"eps=1e-05)", 5, faults.EPSILON) == b"eps=1e-02)"
    assert archive_mutants._edited(b"1.0000000000000001e-12, x", 18, faults.EPSILON) == b"1.0000000000000001e-09, x"
