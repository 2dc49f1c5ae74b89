from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.capture.calling import arrays, call
from deploykit.errors import UsageError


class Answers(nn.Module):
    """Gives what `make` makes of the inputs."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, *inputs):
        return self.make(*inputs)


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def names(make, *inputs):
    feeds = {f"in{i}": a for i, a in enumerate(inputs or (X,))}
    return [name for name, _ in call(Answers(make), feeds)]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda x: x, ["output"]),
        (lambda x: (x, x + 1), ["output_0", "output_1"]),
        (lambda x: [x], ["output_0"]),
        (lambda x: (x, None, x), ["output_0", "output_2"]),
        (lambda x: (x, (x, [x, None, x])), ["output_0", "output_1_0", "output_1_1_0", "output_1_1_2"]),
        (lambda x: {"scores": x, "boxes": x}, ["scores", "boxes"]),
        (lambda x: {"a": {"b": x}, "c": [x, None]}, ["a_b", "c_0"]),
        (lambda x: Pair(x, x), ["left", "right"]),
        (lambda x: {0: x}, ["output_0"]),
        (lambda x: {"a/b": x, "a.b": x, "a b": x}, ["a_b", "a_b_out", "a_b_out_"]),
        (lambda x: {"<script>\x1b[31m|`": x}, ["_script___31m__"]),
        (lambda x: {"": x}, ["output"]),
    ],
)
def test_nested_outputs_get_stable_names_and_none_gets_none(make, expected):
    assert names(make) == expected
    assert names(make) == expected


def test_an_output_named_like_an_input_gets_a_name_of_its_own():
    found = call(Answers(lambda a, b: {"in0": a, "in1": b, "in1_out": b}), {"in0": X, "in1": X})
    assert [name for name, _ in found] == ["in0_out", "in1_out", "in1_out_out"]
    assert len({name for name, _ in found}) == 3


def test_inputs_are_positional_in_their_order_and_fresh_for_every_call():
    def spoil(a, b):
        a += 100
        return a - b

    given = {"second": X.copy(), "first": 2 * X}
    ((_, tensor),) = call(Answers(spoil), given)
    assert np.array_equal(tensor.numpy(), 100 - X)
    assert np.array_equal(given["second"], X)


def test_only_floating_point_inputs_change_dtype():
    def seen(x, index):
        assert (x.dtype, index.dtype) == (torch.float64, torch.int64)
        return x[index]

    call(Answers(seen), {"x": X, "index": np.array([1])}, torch.float64)


@pytest.mark.parametrize(
    ("make", "what"),
    [(lambda x: (x, 3), "int"), (lambda x: "text", "str"), (lambda x: None, "nothing"), (lambda x: [], "nothing")],
)
def test_what_is_no_tensor_is_refused(make, what):
    with pytest.raises(UsageError, match=what) as caught:
        names(make)
    assert caught.value.code == "BAD_OUTPUT"


def test_nothing_is_recorded_for_a_gradient():
    ((_, tensor),) = call(nn.Linear(3, 2), {"x": X})
    assert not tensor.requires_grad


def test_arrays_are_contiguous_copies_and_bfloat16_becomes_float32():
    source = torch.arange(6.0).reshape(2, 3)
    found = arrays([("t", source.T), ("b", source.bfloat16()), ("scalar", source.sum()), ("flag", source > 2)])
    assert found["t"].flags.c_contiguous
    assert found["b"].dtype == np.float32
    assert found["scalar"].shape == ()
    assert found["flag"].dtype == np.bool_
    source.zero_()
    assert found["t"].sum() == 15
