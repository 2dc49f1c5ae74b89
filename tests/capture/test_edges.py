"""Eager is asked a hair beside its inputs, and only where it jumps there the answers are kept."""

import numpy as np
import pytest
import torch

from deploykit.capture import edges
from deploykit.capture.calling import arrays, call
from deploykit.capture.record import Recorder
from deploykit.inputs import CaseInputs
from tests.fixtures.forwards import Forward, loaded, normal

STEPS = np.array([[0.3, 1.0, 2.0, -1.0, 4.0], [0.25, 0.5, 0.75, 1.5, 8.0]], np.float32)
"""Multiples of 1 in all but the first element of the first row; none but 8 in the second."""


def beside(function, x=STEPS):
    module = Forward(function).eval()
    feeds = {"x": x} if not isinstance(x, dict) else x
    return edges.beside(module, feeds, arrays(call(module, feeds)))


def test_floor_at_exact_multiples_has_both_sides():
    found = beside(lambda m, x: x.floor())["output"]
    assert found.shape == (2, 2, 5)
    assert found.dtype == np.float32
    below, above = found
    # toward zero on one side, away from it on the other: a negative multiple falls on the side away from zero
    assert below.tolist() == [[0, 0, 1, -1, 3], [0, 0, 0, 1, 7]]
    assert above.tolist() == [[0, 1, 2, -2, 4], [0, 0, 0, 1, 8]]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x // 0.5,
        lambda m, x: x.ceil(),
        lambda m, x: (x + 0.5).round(),
        lambda m, x: x.trunc() * 7,
        lambda m, x: 100 * x + x.floor(),  # 0.4 % of what the output is
        lambda m, x: torch.fmod(x, 1.0),
        lambda m, x: torch.where(x >= 1.0, x + 5, x),
        lambda m, x: torch.bucketize(x, torch.tensor([0.5, 1.0])).float(),
    ],
)
def test_steps_of_every_kind_are_found(function):
    found = beside(function)
    assert list(found) == ["output"]
    assert not np.array_equal(found["output"][0], found["output"][1])


@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (lambda m, x: x >= 1.0, np.bool_),
        (lambda m, x: (x > 0.5).long().sum(1), np.int64),
        (lambda m, x: x.floor().to(torch.int32), np.int32),
        (lambda m, x: x.floor().abs().to(torch.uint8), np.uint8),
    ],
)
def test_a_comparison_and_what_is_counted_from_it_jump_too(function, dtype):
    (found,) = beside(function).values()
    assert found.dtype == dtype
    assert not np.array_equal(found[0], found[1])


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.layer(x),
        lambda m, x: (x * 500).tanh(),  # steep, and no step
        lambda m, x: x.softmax(-1),
        lambda m, x: (20 * x).exp(),
        lambda m, x: (100 * x).sin(),
        lambda m, x: x.abs(),  # a bend is no jump
        lambda m, x: x.relu(),
        lambda m, x: x * (x > 0.6),  # a comparison with nothing on its edge
        lambda m, x: (x + 0.1).floor(),
        lambda m, x: x[:0],
        lambda m, x: torch.zeros_like(x),
        lambda m, x: torch.complex(x, x.floor()),
    ],
)
def test_smooth_modules_have_no_edges(function):
    assert beside(function) == {}


def test_only_the_outputs_that_jump_are_kept():
    found = beside(lambda m, x: {"smooth": m.layer(x), "stepped": x.floor(), "flag": x >= 1.0})
    assert list(found) == ["stepped", "flag"]


def test_without_floats_there_is_nothing_beside():
    assert beside(lambda m, x: x // 2, np.arange(6).reshape(2, 3)) == {}
    assert beside(lambda m, x: x, np.array([True, False])) == {}


def test_integers_beside_floats_stay_where_they_are():
    feeds = {"x": STEPS, "ids": np.arange(5)}
    found = beside(lambda m, x, ids: {"a": x.floor(), "b": ids * 2, "c": torch.floor_divide(ids, 2)}, feeds)
    assert list(found) == ["a"]


def test_zero_has_no_relative_neighbour():
    assert beside(lambda m, x: torch.sign(x), np.zeros((2, 3), np.float32)) == {}


def test_what_refuses_a_hair_beside_has_no_known_edge():
    def picky(module, x):
        if (x != x.round()).any():
            raise ValueError("whole numbers only")
        return x.floor()

    assert beside(picky, np.ones((2, 3), np.float32)) == {}


def test_another_form_beside_is_no_side_to_compare_with():
    assert beside(lambda m, x: x[x >= 1.0], STEPS) == {}


def test_infinite_outputs_do_not_hide_a_step():
    def divided(module, x):
        return torch.stack([x.floor(), 1 / torch.zeros_like(x), torch.full_like(x, torch.nan)])

    with np.errstate(all="raise"):
        (found,) = beside(divided).values()
    assert found[0, 0, 0, 1] != found[1, 0, 0, 1]


def test_the_recorder_keeps_edges_where_values_are_judged_and_nowhere_else():
    recorder = Recorder(loaded(Forward(lambda m, x: x.floor())))

    def near(gate, x):
        return recorder.answer(CaseInputs("a", "straddle", gate, {"x": x}, len(x), 0)).near

    assert list(near("full", STEPS)) == ["output"]
    assert near("full", normal(8, 5)) == {}
    assert near("pattern", STEPS) == {}


def test_a_count_jumps_by_one_however_large_it_is_and_a_large_float_does_not():
    large = np.array([[-21452.85, 200000.0, 150000.03]], np.float32)
    assert "output" in beside(lambda m, x: x // 0.1, large)
    huge = np.array([[2.0**24 * 3, 2.0**25, 2.0**23 + 5]], np.float32)
    assert beside(lambda m, x: x * 1.0, huge) == {}
