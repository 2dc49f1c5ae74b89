"""What counts as bad, on numbers alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deploykit.localization import search
from deploykit.localization.search import Deviation

ONES = np.ones(1000, np.float32)


def test_a_rounding_is_one_unit_and_noise_widens_it():
    off = ONES + np.float32(2.0**-23)
    assert search.deviation(ONES, off) == pytest.approx(2.0)
    assert search.deviation(ONES, off, noise=2.0**-20) == pytest.approx(0.125)
    assert search.deviation(ONES, ONES) == 0.0


def test_the_coarser_dtype_sets_the_unit():
    assert search.deviation(ONES, (ONES * (1 + 2.0**-10)).astype(np.float16)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "other",
    [ONES[:5], ONES.reshape(10, 100), np.where(np.arange(1000) == 7, np.nan, ONES), ONES.astype(np.int64)],
)
def test_another_form_or_pattern_is_beyond_all_noise(other):
    assert search.deviation(ONES, other, noise=1e9) == math.inf


def test_zeros_forgive_nothing_but_their_noise():
    zeros = np.zeros(10, np.float32)
    assert search.deviation(zeros, zeros + np.float32(1e-9)) == math.inf
    assert search.deviation(zeros, zeros + np.float32(1e-9), noise=1e-9) == pytest.approx(1.0)


def test_whole_numbers_are_compared_exactly():
    assert search.deviation(np.arange(5), np.arange(5)) == 0.0
    assert search.deviation(np.arange(5), np.arange(5) + (np.arange(5) == 2)) == math.inf


def test_the_same_non_finite_places_leave_the_others_to_be_compared():
    one = np.array([np.nan, np.inf, 1.0, 2.0], np.float32)
    assert search.deviation(one, one.copy()) == 0.0
    assert search.deviation(one, one + np.float32([0, 0, 1, 0])) > 1e6


def test_centred_decibels_ignore_the_constant_part():
    signal = np.array([[100.0, 1.0], [100.0, -1.0]], np.float32)
    off = signal + np.float32([[0.1, 0], [0.1, 0]])
    assert search.sqnr_db(signal, off) == pytest.approx(20.0, abs=0.01)
    assert search.sqnr_db(signal, signal) == math.inf
    assert search.sqnr_db(signal, np.full((2, 2), np.nan, np.float32)) == -math.inf


def test_the_first_grave_suspect_leads_and_sloppy_ones_come_last():
    found = [
        Deviation("sloppy", 20.0, 20.0),
        Deviation("sound", 3.0, 40.0),
        Deviation("fault", 1e6, 1e6),
        Deviation("later", 1e7, 1e7),
        Deviation("passed on", 1.0, 1e7),
    ]
    assert [entry.value for entry in search.suspects(found)] == ["fault", "later", "sloppy"]
    assert search.suspects(found[1:2]) == []
