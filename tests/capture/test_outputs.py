"""What comes out: shapes that follow the symbolic dims."""

import numpy as np
import pytest
import torch

from deploykit.capture.outputs import with_outputs
from deploykit.errors import WorkError
from deploykit.model import LoadedModel
from deploykit.signature import Dim, Signature, TensorSpec
from tests.fixtures.forwards import Forward, normal

BATCH = (Dim("N"),)
PLAIN = Forward(lambda m, x: m.layer(x))


def loaded(module, rows=2, dims=BATCH):
    signature = Signature((TensorSpec("x", "float32", ("N", 5)),), dims=dims)
    return LoadedModel(module.eval(), signature, {"x": normal(rows, 5)})


def outputs(function, rows=2, dims=BATCH):
    return {s.name: s for s in with_outputs(loaded(Forward(function), rows, dims)).outputs}


def test_symbolic_axes_are_those_that_follow_the_batch():
    found = outputs(lambda m, x: {"y": m.layer(x), "t": m.layer(x).T, "n": x.sum(), "z": x.sum(0), "top": x.argmax(1)})
    assert {name: spec.shape for name, spec in found.items()} == {
        "y": ("N", 3), "t": (3, "N"), "n": (), "z": (5,), "top": ("N",),
    }  # fmt: skip
    assert found["top"].dtype == "int64"


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_a_fixed_axis_that_happens_to_have_the_size_of_the_batch_stays_fixed(rows):
    found = outputs(lambda m, x: {"y": m.layer(x), "s": x}, rows)
    assert found["y"].shape == ("N", 3)
    assert found["s"].shape == ("N", 5)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.cat([x, x]),
        lambda m, x: torch.cat([x, x[:1]]),
        lambda m, x: torch.cat([x, x[1:]]),
        lambda m, x: x[1:],
        lambda m, x: torch.cat([x[1:], x[2:]]),  # 1 row of 2, and 3 of 3, as if it were the batch
    ],
)
def test_an_axis_derived_from_the_batch_gets_a_name_of_its_own(function):
    (name, *rest) = outputs(function)["output"].shape
    assert isinstance(name, str)
    assert name != "N"
    assert all(isinstance(size, int) for size in rest)


def test_two_derived_axes_of_different_sizes_have_different_names():
    found = outputs(lambda m, x: (torch.cat([x, x]), torch.cat([x, x, x])))
    assert found["output_0"].shape[0] != found["output_1"].shape[0]


def test_two_dims_are_told_apart():
    ids = np.array([[0, 1, 2], [3, 4, 5]])
    signature = Signature((TensorSpec("ids", "int64", ("N", "L")),), dims=(Dim("N"), Dim("L")))
    model = LoadedModel(
        Forward(lambda m, ids: (ids.float(), ids.T.float(), ids.flatten(), ids.sum(1))), signature, {"ids": ids}
    )
    shapes = [s.shape for s in with_outputs(model).outputs]
    assert shapes[:2] == [("N", "L"), ("L", "N")]
    assert isinstance(shapes[2][0], str)
    assert shapes[2][0] not in {"N", "L"}
    assert shapes[3] == ("N",)


def test_a_dim_that_eager_refuses_is_reported_before_anything_is_exported():
    with pytest.raises(WorkError) as caught:
        outputs(lambda m, x: m.layer(x).reshape(2, 3))
    assert (caught.value.code, caught.value.exit_code) == ("DIM_REFUSED", 4)
    assert "N=3" in str(caught.value)
    assert "fixed size instead of N" in caught.value.hint


def test_a_dim_at_its_upper_end_is_tried_downwards_and_one_without_room_not_at_all():
    assert outputs(lambda m, x: m.layer(x), 4, (Dim("N", 1, 4),))["output"].shape == ("N", 3)
    assert outputs(lambda m, x: m.layer(x), 4, (Dim("N", 4, 4),))["output"].shape == (4, 3)


def test_inputs_and_ranges_are_kept():
    model = loaded(PLAIN, dims=(Dim("N", 1, 9),))
    found = with_outputs(model)
    assert (found.inputs, found.dims) == (model.signature.inputs, model.signature.dims)


@pytest.mark.parametrize("function", [lambda m, x: x[x > 0], lambda m, x: (x > 0.5).nonzero()])
def test_an_axis_that_hangs_on_values_is_no_number(function):
    signature = Signature((TensorSpec("x", "float32", (2, 5)),), dims=())
    model = LoadedModel(Forward(function).eval(), signature, {"x": np.abs(normal(2, 5))})
    (spec,) = with_outputs(model).outputs
    assert spec.shape[0] == "output_0"
    assert all(isinstance(size, int) for size in spec.shape[1:])


def test_other_values_that_eager_refuses_tell_nothing():
    embedding = torch.nn.Embedding(9, 3)
    signature = Signature((TensorSpec("x", "float32", (2, 5)),), dims=())
    model = LoadedModel(
        Forward(lambda m, x: m.table(x.long()), table=embedding).eval(), signature, {"x": np.ones((2, 5), np.float32)}
    )
    (spec,) = with_outputs(model).outputs
    assert spec.shape == (2, 5, 3)
