import numpy as np
import pytest
import torch
from torch import nn

from deploykit.capture.record import SINGLE_ROWS, Recorder, with_outputs
from deploykit.errors import WorkError
from deploykit.inputs import CaseInputs
from deploykit.model import LoadedModel
from deploykit.signature import Dim, Signature, TensorSpec

BATCH = (Dim("N"),)


class Forward(nn.Module):
    """A module of one function, with a layer from 5 to 3."""

    def __init__(self, function):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layer = nn.Linear(5, 3)
        self.function = function

    def forward(self, *inputs):
        return self.function(self, *inputs)


PLAIN = Forward(lambda m, x: m.layer(x))


def loaded(module, rows=2, dims=BATCH):
    x = np.random.default_rng(0).standard_normal((rows, 5)).astype(np.float32)
    return LoadedModel(module.eval(), Signature((TensorSpec("x", "float32", ("N", 5)),), dims=dims), {"x": x})


def asked(rows=64, input_class="in range", gate="full", x=None, batch=True):
    x = np.random.default_rng(1).standard_normal((rows, 5)).astype(np.float32) if x is None else x
    return CaseInputs("gaussian", input_class, gate, {"x": x}, len(x) if batch else None, 7, np.arange(len(x)))


def test_a_clean_module_is_answered_in_float32_and_float64_with_its_own_noise():
    recorder = Recorder(loaded(PLAIN))
    case = recorder.answer(asked())
    assert recorder.float64 == "double"
    assert (case.id, case.input_class, case.gate, case.rows, case.seed) == ("gaussian", "in range", "full", 64, 7)
    assert np.array_equal(case.labels, np.arange(64))
    weight, bias = (p.detach().double().numpy() for p in PLAIN.layer.parameters())
    exact = case.inputs["x"].astype(np.float64) @ weight.T + bias
    assert case.expected["output"].dtype == np.float32
    assert np.allclose(case.expected64["output"], exact, rtol=0, atol=1e-14)
    noise = case.noise["output"]
    given = np.sqrt(np.mean((case.expected["output"] - exact) ** 2))
    assert given <= noise.fp32 < 4 * given
    assert 100 * noise.fp32 < noise.half < 1e-2


def test_recording_changes_neither_the_module_nor_the_threads():
    threads, before = torch.get_num_threads(), PLAIN.layer.weight.clone()
    Recorder(loaded(PLAIN)).answer(asked())
    assert torch.get_num_threads() == threads
    assert PLAIN.layer.weight.dtype == torch.float32
    assert torch.equal(PLAIN.layer.weight, before)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.layer(x).float(),  # the answer is float32, however it was made
        lambda m, x: m.layer(x.float()),  # float64 weights refuse it
        lambda m, x: (m.layer(x), x.float().tanh()),
    ],
)
def test_a_module_that_casts_to_float32_inside_makes_a_weak_reference(function):
    recorder = Recorder(loaded(Forward(function)))
    case = recorder.answer(asked())
    assert recorder.float64 is None
    assert case.expected64 == case.noise == {}
    assert all(np.isfinite(array).all() for array in case.expected.values())


def test_integers_and_bools_have_no_float64_answer():
    module = Forward(lambda m, x: {"y": m.layer(x), "top": m.layer(x).argmax(1), "sign": x > 0})
    case = Recorder(loaded(module)).answer(asked())
    assert list(case.expected) == ["y", "top", "sign"]
    assert list(case.expected64) == list(case.noise) == ["y"]


def test_a_pattern_case_needs_no_float64_answer():
    x = np.full((4, 5), np.nan, np.float32)
    case = Recorder(loaded(PLAIN)).answer(asked(input_class="non-finite", gate="pattern", x=x))
    assert case.expected64 == case.noise == {}
    assert np.isnan(case.expected["output"]).all()


@pytest.mark.parametrize("input_class", ["real", "in range"])
def test_nan_weights_are_no_reference(input_class):
    module = Forward(lambda m, x: m.layer(x))
    with torch.no_grad():
        module.layer.weight[0, 0] = torch.nan
    with pytest.raises(WorkError) as caught:
        Recorder(loaded(module)).answer(asked(input_class=input_class))
    assert (caught.value.code, caught.value.exit_code) == ("NAN_REFERENCE", 4)
    assert "gaussian" in str(caught.value)


def test_nan_on_inputs_that_nobody_promised_is_recorded():
    module = Forward(lambda m, x: x / x.std(dim=1, keepdim=True))
    case = Recorder(loaded(module)).answer(asked(input_class="constant", x=np.zeros((8, 5), np.float32)))
    assert np.isnan(case.expected["output"]).all()
    assert case.noise["output"].fp32 is None


def test_a_masked_score_of_minus_infinity_is_an_answer():
    module = Forward(lambda m, x: m.layer(x).masked_fill(torch.tensor([True, False, False]), -torch.inf))
    case = Recorder(loaded(module)).answer(asked())
    assert np.isneginf(case.expected["output"][:, 0]).all()
    assert 0 < case.noise["output"].fp32 < 1e-6


def test_a_sample_that_looks_at_its_neighbours_is_no_noise():
    """`x * max(batch)` alone is another question: taking its answer as noise would blind the gate (it once did)."""
    for function in (
        lambda m, x: m.layer(x) * x.max(),
        lambda m, x: m.layer(x - x.mean(dim=0)),
        lambda m, x: m.layer(x).flip(0),
    ):
        case = Recorder(loaded(Forward(function))).answer(asked())
        assert case.noise["output"].fp32 < 1e-6
        assert case.noise["output"].half < 1e-2


def test_noise_of_a_doubled_batch_compares_the_same_rows():
    module = Forward(lambda m, x: torch.cat([m.layer(x), 100 + m.layer(x)]))
    case = Recorder(loaded(module)).answer(asked(2 * SINGLE_ROWS))
    noise = case.noise["output"]
    assert noise.fp32 < 1e-4
    assert noise.half < 0.1


def test_a_model_without_a_batch_dim_is_recorded_as_it_is():
    case = Recorder(loaded(Forward(lambda m, x: m.layer(x).sum()))).answer(asked(rows=3, batch=False))
    assert case.rows is None
    assert case.expected["output"].shape == case.expected64["output"].shape == ()
    assert case.noise["output"].fp32 is not None


def test_half_is_unknown_where_the_module_cannot_run_in_it():
    def only_wide(module, x):
        if x.dtype == torch.float16:
            raise RuntimeError("no half here")
        return module.layer(x)

    case = Recorder(loaded(Forward(only_wide))).answer(asked())
    assert case.noise["output"].half is None
    assert case.noise["output"].fp32 > 0


# the outputs of a signature


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
