"""Distances on numbers alone: float64 throughout, finite elements only, and decibels at their ends."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deploykit.distances import centred_rms, rms, rmse, sqnr_db, unequal

floats = hnp.arrays(
    np.float64, hnp.array_shapes(max_dims=2, max_side=5), elements=st.floats(-1e6, 1e6, allow_nan=False)
)


@given(floats, st.floats(-8, 8, allow_nan=False))
def test_rmse_is_a_distance(array, factor):
    moved = array + factor
    assert rmse(array, array) == 0.0
    assert rmse(array, moved) == rmse(moved, array)
    assert rmse(array, moved) == pytest.approx(abs(factor), abs=1e-8)


def test_unsigned_differences_do_not_wrap():
    expected, actual = np.array([0, 255, 7], np.uint8), np.array([255, 0, 7], np.uint8)
    assert rmse(expected, actual) == pytest.approx(255 * np.sqrt(2 / 3))


def test_minus_zero_is_zero():
    assert rmse(np.zeros(3, np.float32), -np.zeros(3, np.float32)) == 0.0
    assert not unequal(np.zeros(3, np.float32), -np.zeros(3, np.float32)).any()


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_, np.complex64])
def test_nothing_is_no_distance(dtype):
    empty = np.zeros((0, 3), dtype)
    assert rmse(empty, empty) == rms(empty) == rms(empty, everything=True) == centred_rms(empty, 0) == 0.0


def test_complex_errors_are_distances_in_the_plane():
    expected, actual = np.array([0j, 1 + 1j], np.complex64), np.array([3 + 4j, 1 + 1j], np.complex64)
    assert rmse(expected, actual) == pytest.approx(5 / np.sqrt(2))


def test_infinities_that_both_sides_have_are_no_difference():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = np.array([np.inf, -np.inf, np.nan, 1.0]), np.array([np.inf, -np.inf, np.nan, 1.5])
        assert rmse(*both) == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_everything_lets_no_element_hide(bad):
    array = np.array([3.0, bad], np.float32)
    assert rms(array) == 3.0
    assert not np.isfinite(rms(array, everything=True))
    assert rms(array[:1], everything=True) == 3.0


@pytest.mark.parametrize(
    ("expected", "actual", "found"),
    [
        (np.float32([1, np.nan, np.inf]), np.float32([1, np.nan, np.inf]), [False, False, False]),
        (np.float32([1, np.nan, np.inf]), np.float32([2, 1, -np.inf]), [True, True, True]),
        (np.array([1, 2, 3]), np.array([1, 3, 3]), [False, True, False]),
        (np.float32(1), np.float32(2), True),
        (np.float32(np.nan), np.float32(np.nan), False),
    ],
)
def test_nan_is_not_unequal_to_nan(expected, actual, found):
    assert unequal(expected, actual).tolist() == found


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_variant_that_is_not_finite_where_eager_is_has_no_finite_error(bad):
    expected = np.array([1.0, 2.0, np.nan])
    assert not np.isfinite(rmse(expected, np.array([1.0, bad, np.nan])))
    assert rmse(expected, np.array([1.0, 2.0, bad])) == 0.0  # the pattern check is what judges that element


def test_errors_are_taken_in_float64():
    expected, actual = np.full(4, 60000, np.float16), np.full(4, -60000, np.float16)
    assert rmse(expected, actual) == 120_000.0 - 2 * (60000 - float(np.float16(60000)))
    big = np.full(4, 1e30, np.float32)
    assert rms(big) == pytest.approx(1e30)
    assert centred_rms(np.tile(np.array([[60000.0], [59000.0]], np.float16), (4, 1000)), 8) == pytest.approx(
        500, rel=0.05
    )


def test_the_signal_is_what_depends_on_the_input():
    rng = np.random.default_rng(0)
    moving = rng.standard_normal((64, 10))
    drowned = 1000.0 + moving
    assert centred_rms(drowned, 64) == pytest.approx(centred_rms(moving, 64))
    offset = 100.0 * rng.standard_normal(10) + moving  # every class has a level of its own
    assert centred_rms(offset, 64) == pytest.approx(centred_rms(moving, 64))
    assert centred_rms(np.full((8, 3), 5.0), 8) == 0.0


def test_without_a_batch_the_overall_mean_is_taken_off():
    array = np.array([[1.0, 3.0]])
    assert centred_rms(array, 1) == centred_rms(array, None) == centred_rms(array, 7) == 1.0


def test_a_non_finite_element_does_not_take_the_signal_of_the_others():
    array = np.array([[1.0, 10.0], [3.0, -10.0], [1.0, -np.inf], [3.0, np.nan]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert centred_rms(array, 4) == pytest.approx(np.sqrt((4 * 1 + 2 * 100) / 6))
        assert centred_rms(np.array([1.0, 3.0, np.inf]), None) == 1.0
        assert centred_rms(np.full((2, 2), np.nan), 2) == 0.0


@pytest.mark.parametrize(
    ("signal", "error", "db"),
    [
        (1.0, 0.1, 20.0),
        (2.0, 2.0, 0.0),
        (1.0, 10.0, -20.0),
        (0.0, 1.0, -np.inf),
        (1.0, 0.0, np.inf),
        (0.0, 0.0, np.inf),
    ],
)
def test_decibels(signal, error, db):
    assert sqnr_db(signal, error) == pytest.approx(db)


def test_a_nan_error_gives_nan_decibels():
    assert np.isnan(sqnr_db(1.0, np.nan))


@given(floats, st.floats(-1e3, 1e3))
def test_a_constant_never_adds_to_the_centred_signal(array, constant):
    rows = len(array)
    assert centred_rms(array + constant, rows) == pytest.approx(centred_rms(array, rows), abs=1e-6)
    assert centred_rms(array, rows) <= rms(array) * (1 + 1e-12) + 1e-12
