import numpy as np
import pytest
import torch
from torch import nn

from deploykit.capture import copies
from deploykit.capture.noise import SINGLE_ROWS
from deploykit.capture.record import Recorder
from deploykit.errors import WorkError
from deploykit.inputs import CaseInputs
from deploykit.reference import IndexOutput, Largest, accurate
from tests.fixtures.forwards import Forward, loaded, normal, seeded

PLAIN = Forward(lambda m, x: m.layer(x))


def asked(rows=64, input_class="in range", gate="full", x=None, batch=True, **more):
    x = normal(rows, 5, seed=1) if x is None else x
    return CaseInputs("gaussian", input_class, gate, {"x": x}, len(x) if batch else None, 7, np.arange(len(x)), **more)


def test_a_clean_module_is_answered_in_float32_and_float64_with_its_own_noise():
    recorder = Recorder(loaded(PLAIN))
    case = recorder.answer(asked())
    assert recorder.float64 == "dispatch"
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
def test_a_module_that_casts_to_float32_inside_is_still_answered_in_float64(function):
    module = Forward(function)
    recorder = Recorder(loaded(module))
    case = recorder.answer(asked())
    assert recorder.float64 == "dispatch"
    weight, bias = (p.detach().double().numpy() for p in module.layer.parameters())
    exact = case.inputs["x"].astype(np.float64) @ weight.T + bias
    assert np.allclose(next(iter(case.expected64.values())), exact, rtol=0, atol=1e-14)
    assert all(1e-9 < noise.fp32 < 1e-6 for noise in case.noise.values())


def refuses_float64(module, x):
    if torch.ones(1).double().dtype == x.dtype or torch.get_default_dtype() == torch.float64:
        raise RuntimeError("not here")
    return module.layer(x)


def test_a_module_that_cannot_run_in_float64_makes_a_weak_reference():
    recorder = Recorder(loaded(Forward(refuses_float64)))
    case = recorder.answer(asked())
    assert recorder.float64 is None
    assert case.expected64 == case.noise == {}
    assert np.isfinite(case.expected["output"]).all()
    assert recorder.largest.value == pytest.approx(np.abs(case.expected["output"]).max())


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


# channels_last


class Image(nn.Module):
    def __init__(self, function=lambda m, x: m.conv(x)):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.function = function

    def forward(self, x):
        return self.function(self, x).mean((2, 3))


def formats_seen(module, rows=3):
    """Whether forward got its fp32 input channels_last, over all calls for one case, and the noise of the answer."""
    seen = set()

    def look(part, inputs):
        if part is not module.conv and inputs[0].dtype == torch.float32 and len(inputs[0]) == rows:
            seen.add(inputs[0].is_contiguous(memory_format=torch.channels_last))

    handle = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        case = Recorder(loaded(module, x=normal(2, 3, 9, 9))).answer(asked(x=normal(rows, 3, 9, 9, seed=2)))
    finally:
        handle.remove()
    return seen, case.noise["output"].fp32


def test_images_are_evaluated_in_channels_last_too():
    module = seeded(Image)
    seen, noise = formats_seen(module)
    assert seen == {True, False}
    assert 0 < noise < 1e-6
    assert module.conv.weight.is_contiguous()


def test_a_module_that_reads_memory_as_it_lies_gets_no_noise_from_another_format():
    """Its answer in channels_last is another one: as noise it would hide every error."""
    seen, noise = formats_seen(seeded(lambda: Image(lambda m, x: m.conv(x.as_strided(x.shape, (243, 81, 9, 1))))))
    assert seen == {False}
    assert 0 < noise < 1e-6


def test_a_module_that_refuses_channels_last_is_recorded_without():
    seen, noise = formats_seen(seeded(lambda: Image(lambda m, x: m.conv(x.view(-1).view(x.shape)))))
    assert seen == {False}
    assert 0 < noise < 1e-6


# what else is known of a case


def weights(module):
    return module.layer.weight.detach().double().numpy().T


def test_the_largest_intermediate_of_judged_cases_is_kept_with_its_place():
    module = Forward(lambda m, x: m.layer(x * 1e3) + (m.layer(x) * 1e5).relu() * 0)
    recorder = Recorder(loaded(module))
    assert recorder.largest is None
    recorder.answer(asked(input_class="extreme", x=normal(4, 5) * 1e6))
    assert recorder.largest is None
    cases = [recorder.answer(asked(rows)) for rows in (8, 64)]
    bias = module.layer.bias.detach().double().numpy()
    value = max(np.abs(case.inputs["x"] @ weights(module) + bias).max() for case in cases) * 1e5
    assert recorder.largest == Largest(pytest.approx(value, rel=1e-12), "the model (aten.mul)", 2)


def test_scores_behind_an_index_output_are_recorded_with_their_noise():
    module = Forward(lambda m, x: {"y": m.layer(x), "top": m.layer(x.float()).topk(2).indices, "n": (x > 0).sum(1)})
    recorder = Recorder(loaded(module))
    assert recorder.index_outputs == {"top": IndexOutput(1, True)}
    case = recorder.answer(asked())
    assert set(case.scores) == set(case.score_noise) == {"top"}
    assert np.array_equal(case.scores["top"], case.expected64["y"])
    given = np.sqrt(np.mean((case.expected["y"] - case.expected64["y"]) ** 2))
    assert case.score_noise["top"] == pytest.approx(given)


def test_scores_of_a_weak_reference_are_eagers_own():
    case = Recorder(loaded(Forward(lambda m, x: refuses_float64(m, x).argmax(1)))).answer(asked())
    assert case.score_noise == {}
    scores = case.inputs["x"] @ weights(PLAIN) + PLAIN.layer.bias.detach().numpy()
    assert np.allclose(case.scores["output"], scores, rtol=0, atol=1e-6)


def test_a_pattern_case_has_scores_too():
    x = normal(4, 5)
    x[1, 2] = np.nan
    recorder = Recorder(loaded(Forward(lambda m, x: m.layer(x).argmax(1))))
    case = recorder.answer(asked(input_class="non-finite", gate="pattern", x=x))
    assert np.isnan(case.scores["output"]).all(axis=1).tolist() == [False, True, False, False]


def only_three_rows(module, x):
    if len(x) > 3:
        raise KeyError("more than three")
    return module.layer(x)


def test_what_eager_refuses_is_an_error_unless_it_may():
    recorder = Recorder(loaded(Forward(only_three_rows)))
    with pytest.raises(WorkError) as caught:
        recorder.answer(asked(4))
    assert (caught.value.code, caught.value.exit_code) == ("REFERENCE_ERROR", 4)
    assert recorder.answer(asked(4, optional=True)) is None
    assert recorder.skipped == {"gaussian": "'more than three'"}


def test_outside_the_declared_range_a_refusal_is_an_answer():
    recorder = Recorder(loaded(Forward(only_three_rows)))
    refused = recorder.answer(asked(4, input_class="shapes", gate="outside"))
    assert refused.expected == refused.expected64 == refused.noise == {}
    taken = recorder.answer(asked(3, input_class="shapes", gate="outside"))
    assert set(taken.expected) == set(taken.expected64) == {"output"}


def test_a_case_judged_where_eager_is_accurate_has_everything():
    question = asked(gate="accurate", input_class="extreme", layout="strided", relation="repeats:real")
    case = Recorder(loaded(PLAIN)).answer(question)
    assert (case.layout, case.relation, case.gate) == ("strided", "repeats:real", "accurate")
    assert case.expected64
    assert case.noise["output"].fp32 > 0


def test_random_numbers_without_effect_are_told():
    assert Recorder(loaded(PLAIN)).random is None
    assert Recorder(loaded(Forward(lambda m, x: m.layer(x) + 0 * torch.rand(3)))).random == "the model (aten.rand)"


def test_of_a_large_model_one_copy_is_alive_at_a_time(monkeypatch):
    model = loaded(seeded(Image), x=normal(2, 3, 9, 9))
    case = asked(x=normal(3, 3, 9, 9, seed=2))
    small = Recorder(model)
    expected = small.answer(case)
    assert set(small._copies._kept) == {torch.float64, torch.float16, torch.channels_last}
    monkeypatch.setattr(copies, "LARGE", 100)
    large = Recorder(model)
    found = large.answer(case)
    assert len(large._copies._kept) == 1
    assert found.noise == expected.noise
    assert np.array_equal(found.expected64["output"], expected.expected64["output"])


def test_control_flow_operators_take_no_modes_and_are_answered_all_the_same():
    def branch(module, x):
        return torch.cond(x.sum() > 1e6, lambda y: module.layer(y) * 2, lambda y: module.layer(y) - 0, (x,))

    module = Forward(branch)
    recorder = Recorder(loaded(module))
    case = recorder.answer(asked())
    assert recorder.float64 == "double"
    exact = case.inputs["x"] @ weights(module) + module.layer.bias.detach().double().numpy()
    assert np.allclose(case.expected64["output"], exact, rtol=0, atol=1e-14)


def chaotic(module, x):
    """Calm for small inputs; for large ones the sine turns a rounding of its argument into another answer."""
    first = module.wide(x)
    return torch.sin(first**5 + first)


def test_where_a_network_is_chaotic_one_evaluation_is_not_its_noise():
    module = Forward(chaotic, wide=seeded(lambda: nn.Linear(1024, 64)))
    x = normal(8, 1024, seed=1)
    recorder = Recorder(loaded(module, x=x))
    calm = recorder.answer(asked(x=x, gate="accurate", input_class="straddle"))
    assert calm.noise["output"].fp32 < 1e-4
    wild = recorder.answer(asked(x=x * 20, gate="accurate", input_class="straddle"))
    expected, exact = wild.expected["output"], wild.expected64["output"]
    right = accurate(expected, exact)
    assert 0.05 < right.mean() < 0.95, "some answers are right, by luck"
    with torch.no_grad():
        alone = np.concatenate([module(torch.from_numpy(row[None])).numpy() for row in wild.inputs["x"]])

    def error(answer):
        return np.sqrt(np.mean((answer[right] - exact[right]) ** 2))

    assert error(alone) > 8 * error(expected), "another evaluation as good as this one is wrong there"
    assert wild.noise["output"].fp32 >= 0.99 * error(alone)
