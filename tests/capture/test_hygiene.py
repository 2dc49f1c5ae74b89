import numpy as np
import torch
from torch import nn

from deploykit.capture.hygiene import findings
from deploykit.model import LoadedModel
from deploykit.signature import Signature, TensorSpec


@torch.library.custom_op("deploykit_odd::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


class Net(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 4, bias=False)
        self.answer = answer

    def forward(self, x, y):
        return self.answer(self, x, y)


def odd(answer, **changes):
    net = Net(answer)
    for name, value in changes.items():
        getattr(net, name).weight = value(net)
    specs = tuple(TensorSpec(name, "float32", ("N", 3)) for name in "xy")
    return findings(LoadedModel(net.eval(), Signature(specs), {n: np.ones((2, 3), np.float32) for n in "xy"}))


def test_an_ordinary_model_gives_no_line():
    assert odd(lambda net, x, y: net.head(x) + net.head(y.transpose(0, 1).T)) == {}


def test_an_input_that_nothing_is_computed_from():
    assert list(odd(lambda net, x, y: net.head(x))) == ["unused y"]
    assert list(odd(lambda net, x, y: net.head(x)[: y.shape[0]])) == ["unused y"]


def test_an_operator_of_its_own():
    found = odd(lambda net, x, y: torch.ops.deploykit_odd.twice(x) + y)
    assert list(found) == ["custom deploykit_odd::twice"]


def test_tied_weights():
    found = odd(lambda net, x, y: net.head(x + y), head=lambda net: net.embed.weight)
    assert found == {"tied embed.weight": "one tensor with head.weight: stored once where the format can"}
