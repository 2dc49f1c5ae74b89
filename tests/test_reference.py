import errno

import numpy as np
import pytest

from deploykit import reference
from deploykit.errors import RefusedError, StorageError, UsageError
from deploykit.reference import Case, Noise, load_arrays, part, save_arrays, save_case
from deploykit.signature import DTYPES


def stored(tmp_path, **arrays):
    save_arrays(arrays, tmp_path / "a.safetensors")
    return load_arrays(tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "complex128"])  # safetensors has no complex128
def test_every_dtype_and_bit_survives(tmp_path, dtype):
    given = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(dtype)
    back = stored(tmp_path, x=given)["x"]
    assert back.dtype == given.dtype
    assert np.array_equal(back, given)


def test_what_safetensors_cannot_hold_is_an_error_of_ours(tmp_path):
    with pytest.raises(StorageError, match="complex128"):
        stored(tmp_path, x=np.zeros(2, np.complex128))


@pytest.mark.parametrize(
    "given",
    [
        np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324, 1.7e308]),
        np.array(3.0, np.float32),
        np.zeros((0, 3), np.float32),
        np.arange(12.0).reshape(3, 4).T,
        np.arange(12.0)[::-2],
        np.broadcast_to(np.arange(3.0), (2, 3)),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
    ],
    ids=["special", "scalar", "empty", "transposed", "strided", "expanded", "fortran"],
)
def test_values_and_shapes_survive_whatever_the_layout(tmp_path, given):
    back = stored(tmp_path, x=given)["x"]
    assert back.shape == given.shape
    assert back.tobytes() == given.tobytes()


def test_a_case_is_stored_in_parts_that_keep_their_names_apart(tmp_path):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    case = Case(
        "real", "real", "full", 2, 0, {"x": x, "x/y": x + 1}, {"x": x * 2}, {"x": x.astype(np.float64) * 2},
        {"x": Noise(1e-7, 1e-3)}, np.array([1, 0]),
    )  # fmt: skip
    save_case(case, tmp_path / "real.safetensors")
    arrays = load_arrays(tmp_path / "real.safetensors")
    inputs, expected, exact = (part(arrays, name) for name in ("inputs", "expected", "expected64"))
    assert set(inputs) == {"x", "x/y"}
    assert np.array_equal(inputs["x/y"], x + 1)
    assert expected["x"].dtype == np.float32
    assert exact["x"].dtype == np.float64
    assert set(expected) == set(exact) == {"x"}  # `expected` is a prefix of `expected64`
    assert np.array_equal(arrays["labels"], [1, 0])


def test_a_weak_case_has_no_float64_part_and_no_labels(tmp_path):
    x = np.ones((2, 3), np.float32)
    save_case(Case("a", "in range", "full", 2, 0, {"x": x}, {"y": x}, {}, {}), tmp_path / "a.safetensors")
    arrays = load_arrays(tmp_path / "a.safetensors")
    assert set(arrays) == {"inputs/x", "expected/y"}
    assert part(arrays, "expected64") == {}


def test_equal_cases_have_equal_bytes_whatever_the_order(tmp_path):
    x = np.arange(4.0)
    save_arrays({"a": x, "b": x + 1}, tmp_path / "1")
    save_arrays({"b": x + 1, "a": x}, tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("content", [b"", b"text", b"\xff" * 64, b'\x08\x00\x00\x00\x00\x00\x00\x00{"a":1}}'])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(RefusedError) as caught:
        load_arrays(tmp_path / "a.safetensors")
    assert caught.value.subject == "a.safetensors"
    assert str(tmp_path) not in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path):
    save_arrays({"x": np.ones(1000)}, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    for size in (4, 40, len(whole) - 1):
        (tmp_path / "a.safetensors").write_bytes(whole[:size])
        with pytest.raises(RefusedError):
            load_arrays(tmp_path / "a.safetensors")


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(UsageError) as caught:
        load_arrays(tmp_path / "a.safetensors")
    assert caught.value.code == "NOT_FOUND"


def test_a_full_disk_is_a_storage_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reference, "save_file", full)
    with pytest.raises(StorageError) as caught:
        save_arrays({"x": np.ones(3)}, tmp_path / "a.safetensors")
    assert (caught.value.code, caught.value.exit_code) == ("DISK_FULL", 6)


def test_a_folder_that_is_not_there_is_told_in_our_words(tmp_path):
    with pytest.raises((StorageError, UsageError)):
        save_arrays({"x": np.ones(3)}, tmp_path / "no" / "a.safetensors")
