import numpy as np
import pytest

from deploykit import inputs
from deploykit.errors import RefusedError, UsageError
from deploykit.campaign.plan import calibration, campaign
from deploykit.inputs import Samples
from deploykit.signature import Dim, Signature, TensorSpec

EXAMPLE = {"x": np.ones((2, 5), np.float32)}


def real(rows: int, labels: bool = True) -> Samples:
    values = np.random.default_rng(0).random((rows, 5), dtype=np.float32)
    return Samples({"x": values}, np.arange(rows) % 3 if labels else None, {"x": values[:9] + 1})


def test_the_campaign_is_deterministic_by_seed_and_has_every_class(signature):
    first = list(campaign(signature, EXAMPLE, None, 1))
    again = list(campaign(signature, EXAMPLE, None, 1))
    other = list(campaign(signature, EXAMPLE, None, 2))
    assert [case.id for case in first] == [case.id for case in again] == [case.id for case in other]
    assert all(np.array_equal(a.inputs["x"], b.inputs["x"], equal_nan=True) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a.inputs["x"], b.inputs["x"]) for a, b in zip(first, other, strict=True))
    assert {case.input_class for case in first} == {"in range", "shapes", "constant", "non-finite"}
    assert len({case.id for case in first}) == len(first)


def test_every_case_fits_the_signature_and_the_promised_batches_are_there(signature):
    found = list(campaign(signature, EXAMPLE, None, 1))
    for case in found:
        assert signature.sizes_of(case.inputs) == {"N": case.rows}
        assert case.inputs["x"].flags.c_contiguous
    assert {case.rows for case in found if case.input_class == "shapes"} == set(inputs.BATCHES)


def test_real_samples_keep_their_labels_row_by_row(signature, monkeypatch):
    monkeypatch.setattr(inputs, "MAX_ELEMENTS", 50)  # ten rows a case
    given = real(27)
    parts = [case for case in campaign(signature, EXAMPLE, given, 1) if case.input_class == "real"]
    assert [case.rows for case in parts] == [10, 10, 7]
    assert np.array_equal(np.concatenate([case.inputs["x"] for case in parts]), given.real["x"])
    assert np.array_equal(np.concatenate([case.labels for case in parts]), given.labels)


def test_uniform_stays_in_the_range_of_each_feature(signature):
    given = real(50)
    uniform = next(case for case in campaign(signature, EXAMPLE, given, 1) if case.id == "uniform")
    low, high = given.real["x"].min(axis=0), given.real["x"].max(axis=0)
    assert (uniform.inputs["x"] >= low).all()
    assert (uniform.inputs["x"] <= high).all()


def test_non_finite_cases_spoil_one_element_or_one_row_and_only_those(signature):
    found = {case.id: case.inputs["x"] for case in campaign(signature, EXAMPLE, None, 1) if case.gate == "pattern"}
    assert np.isnan(found["nan-element"]).sum() == 1
    assert np.isnan(found["nan-row"]).all(axis=1).sum() == 1
    assert np.isposinf(found["inf-element"]).sum() == 1
    assert np.isfinite(found["inf-row"]).all(axis=1).sum() == len(found["inf-row"]) - 1


def test_a_fixed_batch_is_never_changed():
    fixed = Signature((TensorSpec("x", "float32", (4, 5)),))
    found = list(campaign(fixed, {"x": np.ones((4, 5), np.float32)}, real(10), 1))
    assert {case.inputs["x"].shape for case in found} == {(4, 5)}
    assert all(case.rows is None for case in found)
    assert [case.id for case in found if case.input_class == "real"] == ["real-0", "real-1"]


def test_integers_stay_in_the_range_of_the_example_and_get_no_nan():
    tokens = Signature((TensorSpec("ids", "int64", ("N", "L")),), dims=(Dim("N"), Dim("L")))
    example = {"ids": np.array([[0, 9, 3], [1, 2, 5]])}
    found = list(campaign(tokens, example, None, 1))
    assert all((case.inputs["ids"] >= 0).all() and (case.inputs["ids"] <= 9).all() for case in found)
    assert not [case for case in found if case.input_class == "non-finite"]
    assert "L-4" in {case.id for case in found}


def test_calibration_is_disjoint_from_what_is_judged(signature):
    drawn = calibration(signature, EXAMPLE, None, 1)
    judged = np.concatenate(
        [c.inputs["x"] for c in campaign(signature, EXAMPLE, None, 1) if c.input_class == "in range"]
    )
    rows = {row.tobytes() for batch in drawn for row in batch["x"]}
    assert len(rows) == 64
    assert not rows & {row.tobytes() for row in judged}
    given = calibration(signature, EXAMPLE, real(30), 1)
    assert sum(len(batch["x"]) for batch in given) == 9
    assert given[0]["x"].min() >= 1


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


def test_samples_that_do_not_fit_are_refused(signature, tmp_path):
    np.savez(tmp_path / "s.npz", x=np.zeros((3, 5), np.float32), labels=np.zeros(2, int))
    with pytest.raises(UsageError, match="lengths"):
        Samples.load(tmp_path / "s.npz")
    np.savez(tmp_path / "one.npz", x=np.zeros((1, 5), np.float32))
    with pytest.raises(UsageError, match="two"):
        Samples.load(tmp_path / "one.npz")
    with pytest.raises(UsageError, match="fewer"):
        list(campaign(signature, EXAMPLE, real(3), 1))
    wrong = Samples({"x": np.zeros((9, 4), np.float32)}, None, {"x": np.zeros((9, 4), np.float32)})
    with pytest.raises(UsageError, match="shape"):
        list(campaign(signature, EXAMPLE, wrong, 1))


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


def test_another_length_is_tried_with_real_samples_too():
    tokens = Signature((TensorSpec("ids", "int64", ("N", "L")),), dims=(Dim("N"), Dim("L")))
    given = Samples({"ids": np.arange(80).reshape(16, 5)}, None, {"ids": np.arange(10).reshape(2, 5)})
    found = {case.id: case for case in campaign(tokens, {"ids": np.zeros((2, 5), np.int64)}, given, 1)}
    assert np.array_equal(found["L-4"].inputs["ids"], given.real["ids"][:8, :4])
