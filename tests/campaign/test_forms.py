"""Sizes of symbolic dims, memory layouts, masks, neighbours and repetition."""

import numpy as np
import pytest

from deploykit.campaign.plan import campaign
from deploykit.inputs import Samples
from deploykit.signature import Dim, Signature, TensorSpec

TOKENS = Signature((TensorSpec("ids", "int64", ("N", "L")),), dims=(Dim("N"), Dim("L")))


def asked(signature, example, samples=None):
    return {case.id: case for case in campaign(signature, example, samples, 1)}


def sized(length, usual=8):
    model = Signature((TensorSpec("x", "float32", ("N", "L")),), dims=(Dim("N"), length))
    found = asked(model, {"x": np.ones((2, usual), np.float32)})
    return {
        case.inputs["x"].shape[1]: case.input_class
        for name, case in found.items()
        if name.startswith("L-")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("length", "usual", "inside", "beyond"),
    [
        (Dim("L"), 8, {1, 2, 9, 32}, set()),
        (Dim("L"), 7, {1, 2, 9, 28}, set()),
        (Dim("L", 4, 20), 8, {4, 5, 9, 20}, {3, 21}),
        (Dim("L", 8, 8), 8, set(), {7, 9}),
        (Dim("L", 7, 8), 8, {7}, {6, 9}),
        (Dim("L", 1, 16), 16, {1, 2}, {17}),
    ],
)
def test_an_inner_dim_is_tried_at_both_ends_an_odd_and_a_large_size_and_one_step_outside(length, usual, inside, beyond):
    found = sized(length, usual)
    assert {size for size, kind in found.items() if kind == "shapes"} == inside
    assert {size for size, kind in found.items() if kind == "outside"} == beyond


@pytest.mark.parametrize(
    ("batch", "inside", "beyond"),
    [
        (Dim("N"), {1, 2, 3, 7, 64, 257}, {0}),
        (Dim("N", 2, 5), {2, 3, 5}, {1, 6}),
        (Dim("N", 1, 1), {1}, {0, 2}),
        (Dim("N", 16, 32), {16, 32}, {15, 33}),
        (Dim("N", 100, 300), {100, 257, 300}, {99, 301}),
    ],
)
def test_the_batch_is_tried_at_every_size_that_is_promised_and_one_step_outside(batch, inside, beyond):
    model = Signature((TensorSpec("x", "float32", ("N", 5)),), dims=(batch,))
    found = asked(model, {"x": np.ones((batch.min, 5), np.float32)}).values()
    assert {case.rows for case in found if case.input_class == "shapes"} == inside
    assert {case.rows for case in found if case.gate == "outside"} == beyond
    rest = {case.rows for case in found if case.gate != "outside"}
    assert min(rest) >= batch.min
    assert max(rest) <= batch.max


def test_a_dim_that_leads_and_lies_inside_is_no_batch():
    """A graph of N nodes: features [N, 3] beside an adjacency matrix [N, N]."""
    specs = (TensorSpec("x", "float32", ("N", 3)), TensorSpec("near", "float32", ("N", "N")))
    model = Signature(specs, dims=(Dim("N", 2, 50),))
    found = asked(model, {"x": np.ones((5, 3), np.float32), "near": np.eye(5, dtype=np.float32)})
    for size in (2, 3, 7, 20, 1, 51):
        assert found[f"N-{size}"].inputs["near"].shape == (size, size)
        assert found[f"N-{size}"].inputs["x"].shape == (size, 3)
    assert not {"alone", "permuted", "batch-1"} & found.keys()


def test_real_samples_are_cut_or_repeated_along_a_dim_so_that_they_stay_valid():
    given = Samples({"ids": np.arange(80).reshape(16, 5)}, None, {"ids": np.arange(10).reshape(2, 5)})
    found = asked(TOKENS, {"ids": np.zeros((2, 5), np.int64)}, given)
    real = given.real["ids"][:8]
    assert np.array_equal(found["L-2"].inputs["ids"], real[:, :2])
    assert np.array_equal(found["L-7"].inputs["ids"], np.concatenate([real, real[:, :2]], axis=1))
    assert np.array_equal(found["L-20"].inputs["ids"], np.tile(real, 4))
    assert np.array_equal(found["batch-64"].inputs["ids"], np.tile(given.real["ids"], (4, 1)))


def test_every_input_that_shares_a_dim_changes_with_it():
    specs = (TensorSpec("a", "float32", ("N", "L")), TensorSpec("b", "float32", ("N", 2, "L")))
    model = Signature(specs, dims=(Dim("N"), Dim("L", 2, 9)))
    found = asked(model, {"a": np.ones((2, 4), np.float32), "b": np.ones((2, 2, 4), np.float32)})
    for case in found.values():
        assert case.inputs["a"].shape[1] == case.inputs["b"].shape[2]
    assert found["L-9"].inputs["b"].shape == (8, 2, 9)


def test_layouts_hold_ordinary_values_and_one_row_many_times():
    images = Signature((TensorSpec("x", "float32", ("N", 3, 4, 4)),), dims=(Dim("N"),))
    found = asked(images, {"x": np.ones((2, 3, 4, 4), np.float32)})
    assert {case.layout for case in found.values()} == {"", "transposed", "strided", "channels_last", "expanded"}
    expanded = found["layout-expanded"].inputs["x"]
    assert len(expanded) == 8
    assert (expanded == expanded[:1]).all()
    assert len(np.unique(found["layout-strided"].inputs["x"], axis=0)) == 8


def test_channels_last_is_for_images_and_one_axis_cannot_be_transposed(signature):
    assert "layout-channels_last" not in asked(signature, {"x": np.ones((2, 5), np.float32)})
    flat = Signature((TensorSpec("x", "float32", ("N",)),), dims=(Dim("N"),))
    found = asked(flat, {"x": np.ones(2, np.float32)})
    assert "layout-transposed" not in found
    assert "layout-strided" in found


def test_masks_hide_nothing_a_third_on_either_side_or_the_last_row():
    specs = (TensorSpec("ids", "int64", ("N", "L")), TensorSpec("mask", "bool", ("N", "L")))
    model = Signature(specs, dims=(Dim("N"), Dim("L", 2, 40)))
    found = asked(model, {"ids": np.array([[3, 9, 5, 1, 2, 2]]), "mask": np.ones((1, 6), bool)})
    masks = {name: found[f"mask-{name}"].inputs["mask"] for name in ("none", "right", "left", "row")}
    assert masks["none"].all()
    assert masks["right"].tolist() == [[True] * 4 + [False] * 2] * 8
    assert masks["left"].tolist() == [[False] * 2 + [True] * 4] * 8
    assert masks["row"][:-1].all()
    assert not masks["row"][-1].any()
    assert {array.dtype for array in masks.values()} == {np.dtype(bool)}


def test_two_masks_are_tried_one_at_a_time():
    names = ("x", "source_mask", "target_mask")
    specs = tuple(TensorSpec(name, "int64", ("N", 6)) for name in names)
    example = {"x": np.array([[3, 9, 5, 1, 2, 2]]), **{name: np.ones((1, 6), np.int64) for name in names[1:]}}
    found = asked(Signature(specs, dims=(Dim("N"),)), example)
    one, other = (found[f"mask-row-{name}"] for name in names[1:])
    assert (one.relation, other.relation) == ("mask:source_mask", "mask:target_mask")
    assert not one.inputs["source_mask"].all()
    assert one.inputs["target_mask"].all()
    assert other.inputs["source_mask"].all()


def test_the_first_sample_is_asked_alone_in_company_and_beside_an_outlier(signature):
    found = asked(signature, {"x": np.ones((2, 5), np.float32)})
    alone, mates, loud = (found[n].inputs["x"] for n in ("alone", "beside-mates", "beside-outlier"))
    assert alone.shape == (1, 5)
    assert np.array_equal(alone[0], mates[0])
    assert np.array_equal(alone[0], loud[0])
    assert np.array_equal(loud[1:], mates[1:] * np.float32(10))
    permuted = found["permuted"].inputs["x"]
    assert not np.array_equal(permuted, mates)
    assert {row.tobytes() for row in permuted} == {row.tobytes() for row in mates}


def test_nobody_is_asked_alone_where_two_are_the_least():
    model = Signature((TensorSpec("x", "float32", ("N", 5)),), dims=(Dim("N", 2, 64),))
    found = asked(model, {"x": np.ones((2, 5), np.float32)})
    assert "permuted" in found
    assert "alone" not in found


def test_the_example_comes_first_and_once_more_at_the_end(signature):
    example = {"x": np.random.default_rng(3).random((3, 5), dtype=np.float32)}
    found = list(campaign(signature, example, None, 1))
    for case in (found[0], found[-1]):
        assert np.array_equal(case.inputs["x"], example["x"])
    assert found[-1].relation == "repeats:example"
