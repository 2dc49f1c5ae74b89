import numpy as np
import pytest

from deploykit.errors import RefusedError, UsageError
from deploykit.inputs import Samples


def real(rows: int) -> Samples:
    values = np.random.default_rng(0).random((rows, 5), dtype=np.float32)
    return Samples({"x": values}, np.arange(rows) % 3, {"x": values[:9] + 1})


def test_samples_survive_a_round_trip(tmp_path):
    given = real(12)
    given.save(tmp_path / "s.npz")
    back = Samples.load(tmp_path / "s.npz")
    assert np.array_equal(back.real["x"], given.real["x"])
    assert np.array_equal(back.labels, given.labels)
    assert np.array_equal(back.calibration["x"], given.calibration["x"])


def test_samples_without_calibration_are_split_and_never_overlap(tmp_path):
    values = np.arange(50, dtype=np.float32).reshape(25, 2)
    np.savez(tmp_path / "s.npz", x=values, labels=np.arange(25))
    back = Samples.load(tmp_path / "s.npz")
    assert len(back.real["x"]) == 20 == len(back.labels)
    assert np.array_equal(np.concatenate([back.real["x"], back.calibration["x"]]), values)


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_in_the_samples_is_refused_and_never_runs(tmp_path):
    canary = tmp_path / "canary"
    np.savez(tmp_path / "s.npz", x=np.array([Canary(canary)], dtype=object))
    with pytest.raises(RefusedError):
        Samples.load(tmp_path / "s.npz")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"", RefusedError), (b"text", RefusedError), (b"PK\x03\x04 broken", RefusedError), (None, UsageError)],
)
def test_files_that_are_no_samples(tmp_path, content, error):
    path = tmp_path / "s.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error):
        Samples.load(path)


def test_samples_of_unequal_lengths_and_a_single_one_are_refused(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.zeros((3, 5), np.float32), labels=np.zeros(2, int))
    with pytest.raises(UsageError, match="lengths"):
        Samples.load(tmp_path / "s.npz")
    np.savez(tmp_path / "one.npz", x=np.zeros((1, 5), np.float32))
    with pytest.raises(UsageError, match="two"):
        Samples.load(tmp_path / "one.npz")


@pytest.mark.parametrize("labels", [np.eye(5), np.zeros((5, 1), int), np.full(5, 1.5), np.array([0, 1, -1, 0, 0])])
def test_labels_that_are_no_class_numbers_are_refused(tmp_path, labels):
    np.savez(tmp_path / "s.npz", x=np.zeros((5, 5), np.float32), labels=labels)
    with pytest.raises(UsageError, match="labels"):
        Samples.load(tmp_path / "s.npz")


def test_samples_with_nan_are_refused(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.array([[1.0], [np.nan]], np.float32))
    with pytest.raises(UsageError, match="NaN"):
        Samples.load(tmp_path / "s.npz")


@pytest.mark.parametrize(("rows", "judged"), [(100, 80), (500, 436), (600, 560), (1000, 936)])
def test_labelled_samples_are_spent_on_judging_first(tmp_path, rows, judged):
    np.savez(tmp_path / "s.npz", x=np.zeros((rows, 1), np.float32), labels=np.zeros(rows, int))
    assert len(Samples.load(tmp_path / "s.npz").labels) == judged
