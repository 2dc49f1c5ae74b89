import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deploykit.distances import rmse
from deploykit.parity import compare

SHAPES = [(), (1,), (1, 1), (2, 1), (1, 2), (2, 2), (0,), (0, 2)]


@pytest.mark.parametrize("expected", SHAPES)
@pytest.mark.parametrize("actual", SHAPES)
def test_nothing_broadcasts(expected, actual):
    found = compare.form("y", np.zeros(expected, np.float32), np.zeros(actual, np.float32))
    if expected == actual:
        assert found is None
    else:
        assert (found.output, found.code) == ("y", "SHAPE_MISMATCH")
        assert str(list(expected)) in found.reason
        assert str(list(actual)) in found.reason


@pytest.mark.parametrize("actual", [np.float64, np.float16, np.int32, np.bool_])
def test_another_dtype_is_a_mismatch_even_with_equal_values(actual):
    found = compare.form("y", np.ones(3, np.float32), np.ones(3, actual))
    assert found.code == "DTYPE_MISMATCH"
    assert "float32" in found.reason
    assert np.dtype(actual).name in found.reason


def test_dtype_is_judged_before_shape():
    assert compare.form("y", np.ones((2, 1), np.float32), np.ones(2, np.float64)).code == "DTYPE_MISMATCH"


@pytest.mark.parametrize(
    ("actual", "code", "metric", "value", "named"),
    [
        (("a", "b"), None, None, None, None),
        (("a",), "OUTPUT_MISSING", "missing", 1, "b"),
        ((), "OUTPUT_MISSING", "missing", 2, "a, b"),
        (("a", "b", "c"), "OUTPUT_MISSING", "extra", 1, "c"),
        (("a", "c"), "OUTPUT_MISSING", "missing", 1, "b"),
        (("b", "a"), "OUTPUT_ORDER", "moved", 2, "b, a"),
    ],
)
def test_outputs_are_the_same_names_in_the_same_order(actual, code, metric, value, named):
    found = compare.structure(("a", "b"), actual)
    if code is None:
        assert found is None
    else:
        assert (found.code, found.metric, found.value) == (code, metric, value)
        assert named in found.reason


VALUES = np.array([1.0, np.nan, np.inf, -np.inf], np.float32)


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("other", VALUES)
def test_each_kind_of_non_finite_value_is_a_kind_of_its_own(index, other):
    actual = VALUES.copy()
    actual[index] = other
    same = np.array_equal(VALUES, actual, equal_nan=True)
    found = compare.pattern("y", VALUES, actual)
    if same:
        assert found is None
    else:
        assert (found.code, found.value) == ("NAN_PATTERN", 1)
        assert f"at [{index}]" in found.reason
        assert found.reason.startswith("1 of 4")


def test_the_pattern_of_complex_numbers_counts_and_integers_have_none():
    expected = np.array([1 + 1j, complex(np.nan, 0)], np.complex64)
    assert compare.pattern("y", expected, expected) is None
    assert compare.pattern("y", expected, np.array([complex(0, np.inf), 1], np.complex64)).value == 2
    assert compare.pattern("y", np.array([1]), np.array([2])) is None


def test_rows_that_eager_keeps_clean_and_the_variant_spoils_are_counted():
    expected = np.array([[1.0, 2.0], [np.nan, 1.0], [3.0, 4.0]], np.float32)
    actual = np.array([[1.0, np.inf], [np.nan, np.nan], [3.0, 4.0]], np.float32)
    assert compare.spoiled_rows(expected, actual) == 1
    assert compare.spoiled_rows(actual, expected) == 0
    assert compare.spoiled_rows(expected[:, 0], actual[:, 1]) == 1
    assert compare.spoiled_rows(np.float32(1), np.float32(np.nan)) == 0
    assert compare.spoiled_rows(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)) == 0
    assert compare.spoiled_rows(np.zeros((2, 3), int), np.ones((2, 3), int)) == 0


def test_unsigned_differences_do_not_wrap():
    expected, actual = np.array([0, 255, 7], np.uint8), np.array([255, 0, 7], np.uint8)
    found = compare.exact("y", expected, actual)
    assert (found.code, found.value) == ("VALUE_MISMATCH", 2)
    assert "at [0] eager gives 0, the variant 255" in found.reason
    assert compare.worst(expected, actual) == ((0,), 255.0)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (np.array([2**62, 2**62 + 1]), np.array([2**62, 2**62])),  # equal once they are float64
        (np.array([True, False]), np.array([True, True])),
        (np.array([2**64 - 1], np.uint64), np.array([2**64 - 2], np.uint64)),
    ],
)
def test_integers_and_bools_are_exact_and_only_they(expected, actual):
    assert compare.exact("y", expected, actual).value == 1
    assert compare.exact("y", expected, expected.copy()) is None
    assert compare.exact("y", expected.astype(np.float32), 1 + expected.astype(np.float32)) is None


def test_minus_zero_is_zero():
    plus, minus = np.zeros(3, np.float32), -np.zeros(3, np.float32)
    assert np.signbit(minus).all()
    assert (
        compare.form("y", plus, minus) is compare.pattern("y", plus, minus) is compare.exact("y", plus, minus) is None
    )


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_, np.complex64])
def test_empty_equal_shapes_pass(dtype):
    empty = np.zeros((0, 3), dtype)
    assert (
        compare.form("y", empty, empty)
        is compare.pattern("y", empty, empty)
        is compare.exact("y", empty, empty)
        is None
    )


def test_complex_errors_are_distances_in_the_plane():
    expected, actual = np.array([0j, 1 + 1j], np.complex64), np.array([3 + 4j, 1 + 1j], np.complex64)
    assert compare.worst(expected, actual) == ((0,), 5.0)


def test_the_worst_element_is_found_and_nan_is_worse_than_anything():
    expected = np.zeros((2, 3))
    actual = np.array([[0.0, 5.0, -7.0], [1.0, 2.0, 3.0]])
    assert compare.worst(expected, actual) == ((0, 2), 7.0)
    actual[1, 0] = np.nan
    index, size = compare.worst(expected, actual)
    assert index == (1, 0)
    assert np.isnan(size)


def test_infinities_that_both_sides_have_are_no_difference():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = np.array([np.inf, -np.inf, np.nan, 1.0]), np.array([np.inf, -np.inf, np.nan, 1.5])
        assert compare.worst(*both) == ((3,), 0.5)


def test_stored_outputs_get_their_order_back():
    given = {"a": np.zeros(1), "b": np.ones(1)}
    assert list(compare.ordered(given, ["b", "a"])) == ["b", "a"]


floats = hnp.arrays(
    np.float64, hnp.array_shapes(max_dims=2, max_side=5), elements=st.floats(-1e6, 1e6, allow_nan=False)
)


@given(floats, st.floats(-8, 8, allow_nan=False))
def test_no_element_is_worse_than_the_worst(array, factor):
    assert rmse(array, array + factor) <= compare.worst(array, array + factor)[1] * (1 + 1e-12)
