"""A twin shares everything with its module but how it is called."""

import copy

import pytest
import torch
from torch import nn

from deploykit.twin import twin


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        self.last = x
        return self.layer(x)


def doubled(forward, inputs):
    return forward(*inputs) * 2


def test_a_twin_shares_weights_names_and_class_and_leaves_the_original():
    net, x = Net().eval(), torch.randn(4, 3)
    other = twin(net, doubled)
    assert type(other) is Net
    assert other.layer is net.layer
    assert list(other.state_dict()) == list(net.state_dict())
    assert torch.equal(other(x), net.layer(x) * 2)
    assert not hasattr(net, "last")
    assert torch.equal(net(x), net.layer(x))


def test_a_deep_copy_calls_its_own_weights():
    net, x = Net().eval(), torch.randn(4, 3)
    copied = copy.deepcopy(twin(net, doubled)).double()
    with torch.no_grad():
        net.layer.weight.zero_()
    assert copied(x.double()).dtype == torch.float64
    assert copied(x.double()).std() > 0


def test_twins_of_twins_and_of_patched_modules():
    net, x = nn.Linear(3, 2), torch.randn(4, 3)
    assert torch.equal(twin(twin(net, doubled), doubled)(x), net(x) * 4)
    net.forward = lambda x: x + 1
    assert torch.equal(twin(net, doubled)(x), (x + 1) * 2)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
@pytest.mark.parametrize("made", [torch.fx.symbolic_trace, lambda net: torch.jit.trace(net, torch.randn(2, 3))])
def test_modules_of_torchs_own_making_become_a_part(made):
    net, x = nn.Linear(3, 2).eval(), torch.randn(4, 3)
    other = twin(made(net), doubled)
    assert torch.allclose(copy.deepcopy(other)(x), net(x) * 2)
    assert [name.split(".")[0] for name in other.state_dict()] == ["program"] * 2


@pytest.mark.parametrize("strict", [False, True])
def test_torch_export_follows_it(strict):
    net, x = nn.Sequential(nn.Linear(3, 2)).eval(), torch.randn(4, 3)
    program = torch.export.export(twin(net, doubled), (x,), strict=strict)
    assert torch.allclose(program.module()(x), net(x) * 2)
    assert set(program.state_dict) == {"0.weight", "0.bias"}


def test_a_forward_borrowed_from_another_module_stays_that_ones():
    net, inner, x = nn.Linear(3, 2), nn.Linear(3, 4), torch.randn(4, 3)
    net.forward = inner.forward
    assert torch.equal(twin(net, doubled)(x), inner(x) * 2)


def test_a_static_forward_gets_no_self():
    class Static(nn.Module):
        @staticmethod
        def forward(x):
            return x + 1

    x = torch.randn(4, 3)
    assert torch.equal(twin(Static(), doubled)(x), (x + 1) * 2)


def test_hooks_of_the_module_see_what_its_own_forward_sees():
    net, x = nn.Linear(3, 2), torch.randn(4, 3)
    net.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    net.register_forward_hook(lambda module, inputs, output: {"logits": output})
    found = twin(net, lambda forward, inputs: forward(*inputs)["logits"] * 2)(x)
    assert torch.equal(found, nn.functional.linear(x + 1, net.weight, net.bias) * 2)


def test_a_module_compiled_in_place_is_called_as_it_is_written():
    net, x = nn.Linear(3, 2), torch.randn(4, 3)
    net._compiled_call_impl = lambda *inputs: torch.zeros(1)  # what `net.compile()` sets
    assert torch.equal(twin(net, doubled)(x), net.forward(x) * 2)
