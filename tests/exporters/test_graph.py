"""A module is given back as it was, even one whose forward writes to it, and even when exporting fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deploykit.exporters._graph import untouched
from deploykit.exporters.torchscript import Exporter
from deploykit.model import LoadedModel
from deploykit.signature import Dim, Signature, TensorSpec


class Writes(torch.nn.Module):
    """Counts its calls in a buffer and keeps its last input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros(1))
        self.last = None

    def forward(self, x):
        self.calls.add_(1)
        self.last = x
        self.late = x * 2
        return self.layer(x)


def check(module, kept, calls):
    assert module.calls is calls
    assert calls.item() == 0
    assert module.last is None
    assert not hasattr(module, "late")
    assert [id(p) for p in module.parameters()] == kept
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()


def test_a_module_that_writes_to_itself(tmp_path):
    module = Writes().eval()
    kept, calls = [id(p) for p in module.parameters()], module.calls
    inputs, outputs = (TensorSpec("x", "float32", ("N", 3)),), (TensorSpec("output", "float32", ("N", 2)),)
    signature = Signature(inputs, outputs, (Dim("N"),))
    Exporter().export(LoadedModel(module, signature, {"x": np.ones((2, 3), np.float32)}), tmp_path / "m.pt")
    check(module, kept, calls)


def test_an_exporter_that_fails():
    module = Writes().eval()
    kept, calls = [id(p) for p in module.parameters()], module.calls

    def fail() -> None:
        with untouched(module):
            module.calls = torch.full((1,), 5.0)
            calls.add_(1)
            module(torch.ones(2, 3))
            module.layer.weight.requires_grad_(False)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    check(module, kept, calls)
    assert module.layer.weight.requires_grad


def test_buffers_that_share_memory_with_themselves_are_left():
    module = torch.nn.Linear(3, 2)
    module.register_buffer("mask", torch.ones(3).expand(4, 3))
    with untouched(module):
        pass
    assert module.mask.shape == (4, 3)


def test_a_dict_that_refuses_to_be_written_is_left():
    class Frozen(dict):
        def update(self, *_):
            raise TypeError("frozen")

        clear = update

    module = torch.nn.Linear(3, 2)
    module.config = Frozen(width=3)
    with untouched(module):
        module.late = 1
    assert module.config == {"width": 3}
    assert not hasattr(module, "late")
