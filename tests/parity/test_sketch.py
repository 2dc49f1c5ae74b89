import numpy as np
import pytest

from deploykit.parity.scale import Scale
from deploykit.parity.sketch import PROJECTIONS, distance, inputs_digest, projected, sketches


@pytest.mark.parametrize("shape", [(1,), (7,), (64, 3), (70_000,), (3, 5, 11_000)])
def test_the_change_of_the_projections_estimates_the_rmse(shape):
    generator = np.random.default_rng(3)
    answer = 1e3 + generator.standard_normal(shape)
    estimates = []
    for scale in (1e-7, 1e-3, 10.0):
        change = scale * generator.standard_normal(shape)
        moved = np.subtract(projected(answer + change), projected(answer))
        estimates.append(np.sqrt(np.mean(moved**2)) / np.sqrt(np.mean(change**2)))
    assert all(0.4 < ratio < 1.8 for ratio in estimates), estimates  # one estimate has a standard error of 18 %


def test_no_change_hides_in_a_direction_that_all_signs_miss():
    """A change of a single element, of the mean, and of every second element: each is seen with its own size."""
    answer = np.zeros(1000)
    for change in (np.eye(1, 1000, 400)[0], np.ones(1000), np.tile([1.0, -1.0], 500)):
        moved = np.sqrt(np.mean(np.square(projected(answer + change))))
        assert 0.4 < moved / np.sqrt(np.mean(change**2)) < 1.8


SIGNED = (1.224744871392, -2.041241452319, 4.490731195102, 2.041241452319)


def test_the_signs_are_the_same_for_ever():
    """Written down, since a baseline is compared with by a later numpy: these numbers may never change."""
    assert projected(np.arange(6.0))[:4] == pytest.approx(SIGNED, abs=1e-12)
    assert np.array_equal(projected(np.arange(200_000.0)), projected(np.arange(200_000.0)))


def test_what_is_not_finite_counts_as_zero():
    assert projected(np.array([1.0, np.nan, 2.0, np.inf])) == projected(np.array([1.0, 0.0, 2.0, 0.0]))
    assert projected(np.empty((0, 3))) == (0.0,) * PROJECTIONS


def test_a_sketch_per_judged_case_and_float_output(cases):
    found = sketches(cases, Scale.of(cases))
    judged = [case for case in cases if case.input_class in {"real", "in range"}]
    assert [(item.case, item.output) for item in found] == [(case.id, "output") for case in judged]
    assert len(found) >= 2
    for item, case in zip(found, judged, strict=True):
        exact = case.expected64["output"]
        assert (item.elements, item.finite, item.strong) == (exact.size, exact.size, True)
        assert item.rms == pytest.approx(np.sqrt(np.mean(exact**2)))
        assert item.noise == Scale.of(cases).noise_of(case, "output") > 0
        assert distance(item, item) == 0.0


def test_other_inputs_have_another_digest(cases):
    inputs = {"a": np.zeros((2, 3), np.float32), "b": np.ones(2, np.int64)}
    digest = inputs_digest(inputs)
    assert digest == inputs_digest(dict(reversed(list(inputs.items()))))
    assert digest == inputs_digest({**inputs, "a": np.asfortranarray(inputs["a"])})
    changes = [
        {"a": np.zeros((3, 2), np.float32)},
        {"a": np.zeros((2, 3), np.int32)},
        {"a": np.full((2, 3), 1e-30, np.float32)},
        {"c": np.zeros(1)},
    ]
    assert len({digest, *(inputs_digest({**inputs, **change}) for change in changes)}) == 5
