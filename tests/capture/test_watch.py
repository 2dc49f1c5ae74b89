"""What a run of the module shows: magnitudes with their places, and who draws random numbers."""

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.capture.calling import call
from deploykit.capture.watch import Watch
from tests.fixtures.forwards import Forward, normal

X = normal(4, 5)


def watched(module, x=X):
    watch = Watch(magnitudes=True)
    module.eval()
    outputs = call(module, {"x": x}, within=lambda tensors: watch.over(module, tensors))
    return watch, outputs


def largest(module, x=X):
    places = watched(module, x)[0].places
    return max(places.items(), key=lambda place: place[1])


class Deep(nn.Module):
    """Large inside, small outside: only a look inside shows it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(5, 5), nn.ReLU())
        self.second = nn.Linear(5, 3)
        with torch.no_grad():
            self.first[0].weight.copy_(torch.eye(5) * 70_000)
            self.second.weight.fill_(1e-6)

    def forward(self, x):
        return self.second(self.first(x) * 2)


def test_the_largest_intermediate_is_named_by_module_and_operator():
    module, x = Deep(), np.abs(X)
    watch, _ = watched(module, x)
    bias = module.first[0].bias.detach().numpy()
    assert set(watch.places) == {
        "first.0 (aten.addmm)",
        "first.1 (aten.relu)",
        "the model (aten.mul)",
        "second (aten.addmm)",
    }
    assert watch.places["first.0 (aten.addmm)"] == pytest.approx(np.abs(x * 70_000 + bias).max())
    assert largest(module, x)[0] == "the model (aten.mul)"


def test_watching_leaves_no_hooks_and_no_path_behind():
    module = Forward(lambda m, x: m.head(x), head=nn.Linear(4, 3))
    watch = Watch()
    with pytest.raises(RuntimeError):
        call(module, {"x": X}, within=lambda tensors: watch.over(module, tensors))
    parts = list(module.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in parts)
    assert watch._path == []


def test_weights_constants_and_unwritten_memory_do_not_count():
    def forward(module, x):
        table = torch.arange(200_000.0)[-5:] * 3 + module.huge.weight.square()[0]
        blank = torch.empty_like(x).fill_(1e9)
        return x * (table * 0).sum() + (blank - blank)[:, :3].sum()

    module = Forward(forward, huge=nn.Linear(5, 1))
    with torch.no_grad():
        module.huge.weight.fill_(1e6)
    place, value = largest(module)
    assert value < 100
    assert place.startswith("the model")


def test_what_is_written_into_a_buffer_of_its_own_is_followed():
    def forward(module, x):
        scratch = torch.zeros(4, 6)
        scratch[:, :5] = x
        return (scratch * 1e5).sum()

    assert largest(Forward(forward))[1] > 1e5


@pytest.mark.parametrize(
    "mask",
    [
        lambda s, hidden: s.masked_fill(hidden, -1e9),
        lambda s, hidden: s.masked_fill(hidden, torch.finfo(s.dtype).min),
        lambda s, hidden: s + hidden.float() * -1e4 + hidden.float() * -1e4,
        lambda s, hidden: torch.where(hidden, torch.tensor(-65504.0), s),
        lambda s, hidden: s + torch.full((5, 5), -1e8).triu(1),
        lambda s, hidden: s.masked_fill(hidden, -torch.inf),
    ],
)
def test_masks_are_no_magnitudes(mask):
    def forward(module, x):
        scores = x.T @ x * 10
        return mask(scores, torch.eye(5, dtype=torch.bool)).softmax(-1) @ x.T

    assert 10 < largest(Forward(forward))[1] < 200


def test_large_negative_values_beside_a_mask_still_count():
    def forward(module, x):
        return (x * 1e7).masked_fill(torch.eye(5, dtype=torch.bool)[:4], -1e4)

    assert largest(Forward(forward))[1] == pytest.approx(1e7 * np.abs(X).max())


def test_values_that_overflow_leave_the_largest_finite_one():
    place, value = largest(Forward(lambda m, x: torch.cat([x * 1e3, x * torch.inf])))
    assert (place, value) == ("the model (aten.mul)", pytest.approx(1e3 * np.abs(X).max()))


def test_complex_values_count_by_their_parts():
    value = largest(Forward(lambda m, x: torch.fft.fft(x * 1e4).abs() * 0))[1]
    spectrum = np.fft.fft(X.astype(np.float64) * 1e4)
    assert value == pytest.approx(max(np.abs(spectrum.real).max(), np.abs(spectrum.imag).max()), rel=1e-5)


def attended(x):
    return nn.functional.scaled_dot_product_attention(x, x, x)


def test_the_first_draw_is_named():
    module = Forward(lambda m, x: m.noisy(attended(m.layer(x))), noisy=nn.RReLU())
    assert watched(module)[0].random is None  # both may draw, neither does in eval mode
    module.noisy = Forward(lambda m, x: nn.functional.dropout(x))
    assert watched(module)[0].random == "noisy (aten.bernoulli_)"


def test_watching_changes_no_answer():
    module = nn.Sequential(nn.Linear(5, 4), nn.Softmax(-1)).eval()
    ((_, seen),) = watched(module)[1]
    ((_, plain),) = call(module, {"x": X})
    assert torch.equal(seen, plain)


def test_what_a_norm_keeps_for_its_gradient_is_no_value():
    module = nn.Sequential(nn.LayerNorm(5, eps=1e-12), nn.GroupNorm(1, 5, eps=1e-12))
    assert largest(module, X * 1e-7)[1] < 5
