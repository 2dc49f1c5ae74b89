"""What the inputs of each class hold."""

import numpy as np
import pytest

from deploykit.campaign.plan import campaign
from deploykit.inputs import Samples
from deploykit.signature import Dim, Signature, TensorSpec

EXAMPLE = {"x": np.ones((2, 5), np.float32)}


def asked(signature, example, samples=None, limits=None):
    return {case.id: case.inputs for case in campaign(signature, example, samples, 1, limits)}


def of(*specs, outputs=()):
    return Signature(tuple(TensorSpec(*spec) for spec in specs), tuple(TensorSpec(*o) for o in outputs), (Dim("N"),))


@pytest.fixture
def real():
    """Features of other places and spreads: 100 ± 1, 0 ± 1, exactly 7."""
    rng = np.random.default_rng(0)
    drawn = np.stack([100 + rng.standard_normal(50), rng.standard_normal(50), np.full(50, 7.0)], axis=1)
    return Samples({"x": drawn.astype(np.float32)}, None, {"x": drawn[:4].astype(np.float32)})


THREE = of(("x", "float32", ("N", 3)))


@pytest.mark.parametrize("name", ["gaussian", "uniform"])
def test_drawn_rows_stay_in_the_range_of_each_feature(real, name):
    drawn = asked(THREE, {"x": np.ones((2, 3), np.float32)}, real)[name]["x"]
    low, high = real.real["x"][:50].min(axis=0), real.real["x"][:50].max(axis=0)
    assert (drawn >= low).all()
    assert (drawn <= high).all()
    spread = drawn.std(axis=0)
    assert (spread[:2] > 0.3).all()  # they are drawn anew, not one row again
    assert (drawn[:, 2] == 7.0).all()
    known = {row.tobytes() for row in real.real["x"]}
    assert not [row for row in drawn if row.tobytes() in known]


def test_a_gaussian_has_each_features_own_mean_and_spread(real):
    drawn = asked(THREE, {"x": np.ones((2, 3), np.float32)}, real)["gaussian"]["x"]
    assert drawn.mean(axis=0) == pytest.approx([100, 0, 7], abs=0.5)
    assert drawn[:, :2].std(axis=0) == pytest.approx([1, 1], rel=0.3)


def test_float16_samples_whose_squares_overflow_are_drawn_around_all_the_same():
    half = of(("x", "float16", ("N", 2)))
    values = np.linspace(-60_000, 60_000, 40).reshape(20, 2).astype(np.float16)
    found = asked(half, {"x": values[:2]}, Samples({"x": values}, None, {"x": values[:2]}))
    for name in ("gaussian", "uniform"):
        drawn = found[name]["x"]
        assert np.isfinite(drawn).all()
        assert drawn.dtype == np.float16
        assert np.abs(drawn.astype(float)).max() > 20_000


def test_straddling_inputs_are_real_rows_times_a_factor(real):
    found = asked(THREE, {"x": np.ones((2, 3), np.float32)}, real)
    base = real.real["x"][:8]
    for name, factor in (("times-1", -1), ("times0.5", 0.5), ("times3", 3), ("times10", 10)):
        assert np.array_equal(found[name]["x"], base * np.float32(factor)), name


def test_the_example_itself_is_multiplied_at_its_own_size(signature):
    example = {"x": np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)}
    found = asked(signature, example)
    for name, factor in (("example-times-1", -1), ("example-times10", 10)):
        assert np.array_equal(found[name]["x"], example["x"] * np.float32(factor))


def test_extreme_inputs(real):
    found = asked(THREE, {"x": np.ones((2, 3), np.float32)}, real)
    base = real.real["x"][:8]
    assert set(np.unique(found["min-max"]["x"])) == {base.min(), base.max()}
    assert (found["min-max"]["x"] == found["min-max"]["x"][:, :1]).all()
    assert found["times1e4"]["x"] == pytest.approx(base * 1e4)
    assert found["times1e-6"]["x"] == pytest.approx(base * 1e-6)
    small = np.abs(found["subnormal"]["x"])
    assert (small > 0).all()
    assert (small < np.finfo(np.float32).tiny).all()
    assert np.array_equal(np.sign(found["subnormal"]["x"]), np.sign(base))


def test_constants(real):
    found = asked(THREE, {"x": np.ones((2, 3), np.float32)}, real)
    assert not found["zeros"]["x"].any()
    assert (found["ones"]["x"] == 1).all()
    ramp = found["constants"]["x"]
    assert (ramp == ramp[:, :1]).all()
    assert len(np.unique(ramp[:, 0])) == len(ramp) > 2
    assert (ramp.min(), ramp.max()) == (real.real["x"][:8].min(), real.real["x"][:8].max())
    hot = found["one-hot"]["x"]
    assert (hot.sum(axis=1) == 1).all()
    assert set(hot.argmax(axis=1)) == {0, 1, 2}  # every feature has its turn


def test_masks_hide_nothing_in_constants_and_are_never_pushed_to_the_ends_of_their_type():
    model = of(("x", "float32", ("N", 4)), ("key_mask", "int64", ("N", 4)), ("seen_mask", "bool", ("N", 4)))
    example = {
        "x": np.ones((2, 4), np.float32),
        "key_mask": np.array([[1, 1, 1, 0], [1, 1, 0, 0]]),
        "seen_mask": np.ones((2, 4), bool),
    }
    found = asked(model, example)
    for name in ("zeros", "ones", "constants", "one-hot"):
        assert found[name]["key_mask"].all(), name
        assert found[name]["seen_mask"].all(), name
    assert not [name for name in found if name.startswith("int-")]
    assert {value for inputs in found.values() for value in np.unique(inputs["key_mask"])} <= {0, 1}


def test_an_input_that_is_called_mask_and_holds_other_numbers_is_none():
    model = of(("mask_ids", "int64", ("N", 4)))
    found = asked(model, {"mask_ids": np.array([[0, 1, 2, 5], [1, 1, 0, 0]])})
    assert not found["zeros"]["mask_ids"].any()
    assert not [name for name in found if name.startswith("mask-")]
    assert "int-max" in found


def test_one_element_or_one_row_is_spoiled_and_only_that(signature):
    found = asked(signature, EXAMPLE)
    for name, is_bad in (("nan", np.isnan), ("inf", np.isposinf)):
        element, row = is_bad(found[f"{name}-element"]["x"]), is_bad(found[f"{name}-row"]["x"])
        assert (element.sum(), len(element)) == (1, 4)
        assert (row.all(axis=1).sum(), row.sum()) == (1, 5)


def test_a_batch_that_must_be_larger_is_spoiled_at_its_own_size():
    model = Signature((TensorSpec("x", "float32", ("N", 5)),), dims=(Dim("N", 6, 20),))
    found = asked(model, {"x": np.ones((6, 5), np.float32)})
    assert len(found["nan-row"]["x"]) == 6


def test_integers_are_asked_at_the_ends_that_are_known():
    model = of(
        ("ids", "int32", ("N", 3)), ("free", "int64", ("N",)), ("byte", "uint8", ("N", 2)), ("x", "float32", ("N",))
    )
    example = {
        "ids": np.array([[1, 5, 2], [3, 3, 3]], np.int32),
        "free": np.array([4, 9]),
        "byte": np.array([[7, 200], [9, 9]], np.uint8),
        "x": np.ones(2, np.float32),
    }
    found = asked(model, example, limits={"ids": 99})
    ends = {name: {n: set(np.unique(a).tolist()) for n, a in found[name].items() if n != "x"} for name in found}
    assert ends["int-highest"]["ids"] == {99}
    assert ends["int-negative"]["ids"] == ends["int-negative"]["free"] == {-1}
    assert ends["int-negative"]["byte"] <= set(range(7, 201))  # it has no numbers below zero
    assert ends["int-max"]["ids"] <= set(range(1, 6))  # an index ends at its table
    assert (ends["int-max"]["free"], ends["int-max"]["byte"]) == ({2**63 - 1}, {255})
    assert ends["int-wide"]["free"] == {2**31 + 12_345}
    assert ends["int-wide"]["byte"] <= set(range(7, 201))
    for name in ("gaussian", "uniform", "batch-7", "permuted"):
        assert ends[name]["ids"] <= set(range(1, 6)), name
        assert ends[name]["byte"] <= set(range(7, 201)), name
    assert np.isfinite(found["int-max"]["x"]).all()


def test_the_largest_unsigned_integers_are_drawn_too():
    model = of(("ids", "uint64", ("N", 3)))
    found = asked(model, {"ids": np.array([[2**63, 2**64 - 1, 2**63]] * 2, np.uint64)})
    assert found["gaussian"]["ids"].min() >= 2**63
    assert found["int-wide"]["ids"].min() == 2**31 + 12_345


def test_narrow_integers_have_no_wide_case_and_floats_no_integer_cases(signature):
    narrow = asked(of(("ids", "int32", ("N", 3))), {"ids": np.array([[0, 5, 2], [3, 3, 3]], np.int32)})
    assert "int-max" in narrow
    assert "int-wide" not in narrow
    assert not [name for name in asked(signature, EXAMPLE) if name.startswith("int-")]


def test_integers_alone_get_no_float_cases():
    found = asked(of(("ids", "int64", ("N", 3))), {"ids": np.array([[0, 5, 2], [3, 3, 3]])})
    kinds = ("nan-", "inf-", "times", "min-max", "subnormal", "ones", "constants", "one-hot", "beside-outlier", "ties")
    assert not [name for name in found if name.startswith(kinds)]
    assert not found["zeros"]["ids"].any()


@pytest.mark.parametrize(("dtype", "there"), [("int64", True), ("int32", True), ("float32", False), ("bool", False)])
def test_ties_are_asked_only_where_an_output_may_be_an_index(dtype, there):
    model = of(("x", "float32", ("N", 40)), outputs=[("best", dtype, ("N",))])
    found = asked(model, {"x": np.ones((2, 40), np.float32)})
    assert ("ties" in found) == there
    if there:
        assert set(np.unique(found["ties"]["x"])) == {-1.0, 1.0}
