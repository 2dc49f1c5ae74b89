"""Float64 answers of modules whose code asks for float32."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from deploykit.capture.calling import arrays, call
from deploykit.capture.copies import Copies
from deploykit.capture.float64 import Exact
from deploykit.capture.wide import Widening
from tests.fixtures.forwards import Forward, normal, seeded

X = normal(4, 5)


def exact(module, *inputs):
    feeds = {f"in{i}": x for i, x in enumerate(inputs or (X,))}
    return Exact(Copies(module.eval()), feeds), feeds


def relative(actual, expected):
    expected = np.asarray(expected, dtype=np.result_type(expected, np.float64))
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def linear(module):
    weight, bias = (p.detach().double().numpy() for p in module.layer.parameters())
    return X.astype(np.float64) @ weight.T + bias


def autocast(module, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return module.layer(x)


CASTS = {
    "float": (lambda m, x: m.layer(x.float()), linear),
    "to": (lambda m, x: m.layer(x).to(torch.float32) * 2, lambda m: linear(m) * 2),
    "type": (lambda m, x: m.layer(x).type(torch.FloatTensor), linear),
    "half and back": (lambda m, x: m.layer(x).half().float() * 3, lambda m: linear(m) * 3),
    "own dtype": (lambda m, x: m.layer(x).to(m.layer.weight.dtype), linear),
    "softmax dtype": (
        lambda m, x: functional.softmax(m.layer(x), -1, dtype=torch.float32),
        lambda m: np.exp(linear(m)) / np.exp(linear(m)).sum(-1, keepdims=True),
    ),
    "sum dtype": (lambda m, x: m.layer(x).sum(1, dtype=torch.float32), lambda m: linear(m).sum(1)),
    "zeros": (lambda m, x: torch.zeros(3) + m.layer(x) + torch.zeros_like(x[:, :3], dtype=torch.float32), linear),
    "arange": (
        lambda m, x: m.layer(x) * torch.exp(torch.arange(3, dtype=torch.float32) * -math.log(10_000) / 3),
        lambda m: linear(m) * np.exp(np.arange(3) * -math.log(10_000) / 3),
    ),
    "linspace": (lambda m, x: m.layer(x) * torch.linspace(0, 1, 3), lambda m: linear(m) * np.linspace(0, 1, 3)),
    "numbers": (
        lambda m, x: m.layer(x) + torch.tensor([0.1, 0.2, 0.3], dtype=torch.float32) + x.new_tensor(0.7),
        lambda m: linear(m) + np.array([0.1, 0.2, 0.3]) + 0.7,
    ),
    "integers divided": (lambda m, x: m.layer(x) + torch.arange(3) / 7, lambda m: linear(m) + np.arange(3) / 7),
    "written in place": (lambda m, x: torch.empty(4, 3).copy_(m.layer(x)).mul_(2), lambda m: 2 * linear(m)),
    "autocast": (autocast, linear),
}


@pytest.mark.parametrize("name", CASTS)
def test_what_asks_for_float32_inside_is_computed_in_float64(name):
    function, expected = CASTS[name]
    module = Forward(function)
    found, feeds = exact(module)
    assert found.way == "dispatch"
    answer = found.floats(feeds)["output"]
    assert answer.dtype == np.float64
    assert relative(answer, expected(module)) < 4e-16


def test_double_alone_keeps_the_error_of_float32_where_the_mode_does_not():
    """A sinusoidal table made in forward: float64 weights beside it do not make it any more exact."""

    def positions(module, x):
        rates = torch.exp(torch.arange(5, dtype=torch.float32) * (-math.log(10_000.0) / 5))
        return x * torch.sin(torch.arange(1, 5, dtype=torch.float32)[:, None] * rates)

    module = Forward(positions)
    rates = np.exp(np.arange(5) * (-math.log(10_000.0) / 5))
    truth = X * np.sin(np.arange(1.0, 5)[:, None] * rates)
    plain = arrays(call(Forward(positions).double(), {"x": X}, torch.float64))["output"]
    found, feeds = exact(module)
    assert plain.dtype == np.float64
    assert 1e-9 < relative(plain, truth) < 1e-6
    assert relative(found.floats(feeds)["output"], truth) < 1e-15


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        answer, weights = self.attention(x, x, x)
        return functional.layer_norm(self.norm(answer.float()), (8,)), weights


class Image(nn.Module):
    """Convolution, batch norm, and windows rolled and attended to as Swin does."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.table = nn.Parameter(torch.randn(16, 16))
        self.register_buffer("index", torch.arange(16).flip(0), persistent=False)

    def forward(self, x):
        x = torch.roll(self.norm(self.conv(x)), (1, 1), (2, 3)).unflatten(2, (2, 4)).flatten(3).permute(0, 2, 3, 1)
        mask = torch.zeros(16, 16).masked_fill(torch.eye(16, dtype=torch.bool), -100.0)
        scores = x @ x.transpose(-2, -1) / math.sqrt(8) + self.table[self.index] + mask
        return scores.softmax(-1) @ x


MODULES = {
    "lstm": (lambda: nn.LSTM(5, 7, 2, bidirectional=True, batch_first=True), normal(2, 6, 5)),
    "gru": (lambda: nn.GRU(5, 7), normal(2, 6, 5)),
    "attention": (Attention, normal(2, 6, 8)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), normal(2, 6, 8)),
    "image": (Image, normal(2, 3, 32, 16)),
    "embedding": (lambda: nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4)), np.arange(8).reshape(2, 4)),
    "fft": (lambda: Forward(lambda m, x: torch.fft.rfft(m.layer(x.float())).to(torch.complex64).abs()), X),
    "complex": (lambda: Forward(lambda m, x: torch.view_as_real(torch.complex(x, x / 3) * 1j)), X),
}


@pytest.mark.parametrize("name", MODULES)
def test_usual_modules_agree_with_eager_and_repeat_to_the_last_bits(name):
    make, x = MODULES[name]
    module = seeded(make)
    found, feeds = exact(module, x)
    assert found.way == "dispatch"
    answer, eager = found.call(feeds), call(module, feeds)
    assert [n for n, _ in answer] == [n for n, _ in eager]
    for (_, wide), (_, narrow) in zip(answer, eager, strict=True):
        assert wide.dtype == torch.float64
        assert 1e-10 < relative(wide.numpy(), narrow.numpy()) < 1e-5
    doubled = call(module.double(), feeds, torch.float64) if name not in {"attention", "fft"} else []
    for (_, wide), (_, plain) in zip(answer, doubled):  # noqa: B905 - where double() alone is clean
        assert relative(wide.numpy(), plain.numpy()) < 1e-14


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_models_of_torchvision_agree_with_their_double(name):
    from torchvision import models

    module = seeded(lambda: models.get_model(name, num_classes=10))
    found, feeds = exact(module, normal(1, 3, 64, 64))
    assert found.way == "dispatch"
    plain = arrays(call(module.double(), feeds, torch.float64))["output"]
    assert relative(found.floats(feeds)["output"], plain) < 1e-13


def test_complex_outputs_are_complex128_and_have_no_stored_answer():
    found, feeds = exact(Forward(lambda m, x: (torch.fft.fft(x), x.to(torch.complex64).real, x * 2)))
    assert [tensor.dtype for _, tensor in found.call(feeds)] == [torch.complex128, torch.float64, torch.float64]
    assert list(found.floats(feeds)) == ["output_1", "output_2"]


def test_code_that_asks_for_the_dtype_is_told_the_one_it_was_written_for():
    def careful(module, x):
        assert x.dtype == torch.float32 == module.layer.weight.dtype
        return module.layer(x) * torch.finfo(x.dtype).eps

    found, feeds = exact(Forward(careful))
    assert found.way == "dispatch"
    assert np.abs(found.floats(feeds)["output"]).max() > 1e-9


def test_bits_are_those_of_float32():
    def bits(module, x):
        return {"bits": x.view(torch.int32), "back": (x.view(torch.int32) + 1).view(torch.float32)}

    found, feeds = exact(Forward(bits))
    answer = arrays(found.call(feeds))
    assert np.array_equal(answer["bits"], X.view(np.int32))
    assert np.array_equal(answer["back"], np.nextafter(X, np.where(X > 0, np.inf, -np.inf), dtype=np.float32))


def test_integers_mean_what_they_meant():
    found, feeds = exact(
        Forward(lambda m, x: {"top": m.layer(x).argmax(1), "cut": (x * 3).long(), "sign": x > 0, "sum": (x > 0).sum()})
    )
    answer, eager = arrays(found.call(feeds)), arrays(call(found._copies.original, feeds))
    for name, array in eager.items():
        assert answer[name].dtype == array.dtype
        assert np.array_equal(answer[name], array)


class Constants(nn.Module):
    """A plain tensor attribute, which `double()` does not know, is read, written to and returned."""

    def __init__(self):
        super().__init__()
        self.scale = torch.linspace(0.5, 1.5, 5)
        self.offset = torch.zeros(5)

    def forward(self, x):
        scratch = self.offset.clone()
        scratch[1:] += x[0, 1:] / 3
        return x * self.scale + scratch, self.scale


def test_constants_outside_the_state_dict_are_widened_and_left_as_they_are():
    module = Constants()
    found, feeds = exact(module)
    assert found.way == "dispatch"
    answer = found.floats(feeds)
    offset = np.concatenate([[0], X[0, 1:].astype(np.float64) / 3])
    assert relative(answer["output_0"], X * module.scale.numpy().astype(np.float64) + offset) < 4e-16
    assert module.scale.dtype == module.offset.dtype == torch.float32
    assert not module.offset.any()


def test_writing_into_a_constant_is_seen_by_what_reads_it_later():
    table = torch.zeros(5)

    def forward(module, x):
        table.copy_(x[0])
        return x + table

    found, feeds = exact(Forward(forward))
    assert relative(found.floats(feeds)["output"], X + X[0].astype(np.float64)) < 4e-16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_modules_of_another_dtype_are_widened_too(dtype):
    module = Forward(lambda m, x: m.layer(x.to(m.layer.weight.dtype))).to(dtype)
    found, feeds = exact(module, X.astype(np.float16) if dtype == torch.float16 else X)
    assert found.way == "dispatch"
    weight, bias = (p.detach().double().numpy() for p in module.layer.parameters())
    assert relative(found.floats(feeds)["output"], feeds["in0"].astype(np.float64) @ weight.T + bias) < 4e-16


# fallbacks


def test_double_is_next_where_the_mode_fails():
    def no_modes(module, x):
        if torch.overrides._is_torch_function_mode_enabled():
            raise RuntimeError("not under a mode")
        return module.layer(x)

    module = Forward(no_modes)
    found, feeds = exact(module)
    assert found.way == "double"
    assert relative(found.floats(feeds)["output"], linear(module)) < 4e-16


def test_an_answer_that_is_another_one_is_none():
    def other(module, x):
        return module.layer(x) * (1.05 if module.layer(x).element_size() == 8 else 1)

    found, feeds = exact(Forward(other))
    assert found.way is None
    assert found.floats(feeds) == {}


def test_a_module_that_cannot_be_copied_has_none():
    module = Forward(lambda m, x: m.layer(x))
    module.stream = (i for i in range(3))
    assert exact(module)[0].way is None


def test_outputs_that_cancel_and_outputs_that_overflow_are_no_disagreement():
    found, feeds = exact(
        Forward(lambda m, x: (m.layer(x) - m.layer(x + 0), (x * 3e38).exp(), m.layer(x) / 3 * 3 - m.layer(x)))
    )
    assert found.way == "dispatch"
    assert set(found.floats(feeds)) == {"output_0", "output_1", "output_2"}


def test_what_one_size_refuses_has_no_answer_and_no_error():
    def small(module, x):
        if len(x) > 4 and torch.get_default_dtype() == torch.float64:
            raise RuntimeError("too many")
        return module.layer(x)

    found, _ = exact(Forward(small))
    assert found.floats({"x": normal(5, 5)}) == {}


def test_nothing_stays_switched_after_a_run_that_fails():
    before = torch.get_default_dtype()
    with Widening(torch.float32)():
        assert torch.get_default_dtype() == torch.float64
    with pytest.raises(IndexError), Widening(torch.float32)():
        torch.ones(2)[2]
    assert torch.get_default_dtype() == before
    assert (torch.ones(2) / 3).dtype == before
