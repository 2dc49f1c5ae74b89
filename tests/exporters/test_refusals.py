"""What an exporter cannot do is told in one line: where in the model, why, and what to do instead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.errors import WorkError
from deploykit.exporters.onnx import Exporter as Onnx
from deploykit.exporters.torch_export import Exporter as TorchExport
from deploykit.exporters.torchscript import Exporter as TorchScript
from deploykit.model import LoadedModel
from deploykit.signature import Dim, Signature, TensorSpec


@torch.library.custom_op("deploykit_test::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x):
    return torch.empty_like(x)


@torch.library.custom_op("deploykit_test::hidden", mutates_args=())
def hidden(x: torch.Tensor) -> torch.Tensor:
    return x * 2


class Net(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.answer = answer

    def forward(self, x):
        return self.answer(self.layer(x))


def branching(x):
    if x.sum() > 0:
        return x * 2
    return x


def counting(x):
    return x * int(x.abs().max().item())


def through_numpy(x):
    return torch.from_numpy(x.numpy() * 2)


def model(answer, max_rows=64):
    signature = Signature(
        (TensorSpec("x", "float32", ("N", 3)),), (TensorSpec("output", "float32", ("N", 3)),), (Dim("N", 1, max_rows),)
    )
    return LoadedModel(Net(answer).eval(), signature, {"x": np.ones((2, 3), np.float32)})


@pytest.mark.parametrize("exporter", [Onnx, TorchExport])
@pytest.mark.parametrize(("answer", "line"), [(branching, "if x.sum() > 0:"), (counting, "x.abs().max().item()")])
def test_a_decision_by_values_is_told_with_its_line(tmp_path, exporter, answer, line):
    with pytest.raises(WorkError) as refused:
        exporter().export(model(answer), tmp_path / "model")
    assert refused.value.code == "DATA_DEPENDENT"
    assert line in refused.value.message
    assert (
        refused.value.subject.startswith("exporters/test_refusals.py:") or "test_refusals.py:" in refused.value.subject
    )
    assert "torch.where" in refused.value.hint
    assert not list(tmp_path.iterdir())


def test_an_operator_without_a_form_is_named_with_its_line(tmp_path):
    with pytest.raises(WorkError) as refused:
        Onnx().export(model(torch.ops.deploykit_test.twice), tmp_path / "model")
    assert refused.value.code == "UNSUPPORTED_OP"
    assert "deploykit_test::twice has no ONNX form" in refused.value.message
    assert "test_refusals.py:" in refused.value.subject
    TorchExport().export(model(torch.ops.deploykit_test.twice), tmp_path / "model")


def test_an_operator_without_a_fake_implementation_is_named(tmp_path):
    with pytest.raises(WorkError, match=r"UNSUPPORTED_OP.*no fake implementation.*register_fake.*hidden"):
        TorchExport().export(model(torch.ops.deploykit_test.hidden), tmp_path / "model")


def test_numpy_inside_forward_is_captured_strictly_and_said(tmp_path):
    facts = TorchExport().export(model(through_numpy), tmp_path / "model.pt2")
    assert facts["captured"].startswith("strictly, since otherwise RuntimeError: .numpy() is not supported")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    net = model(through_numpy).module
    net.layer.load_state_dict({k.partition(".")[2]: v for k, v in loaded.state_dict().items()})
    x = torch.randn(5, 3)
    with torch.no_grad():
        assert torch.allclose(loaded(x), net(x))


def test_an_operator_that_only_the_older_exporter_knows_is_traced_and_said(tmp_path, monkeypatch):
    """`UNSUPPORTED_OP` of the newer one is no end where the older one has a form."""
    import deploykit.exporters._graph as graph

    def refused(model):
        raise WorkError("net.py:3", "the operator mine::x has no ONNX form", "", "UNSUPPORTED_OP")

    monkeypatch.setattr(graph, "capture", refused)
    facts = Onnx().export(model(torch.tanh), tmp_path / "model.onnx")
    assert facts["traced"] == "torch.export cannot: the operator mine::x has no ONNX form"


def test_a_fixed_dim_is_not_traced_around(tmp_path):
    with pytest.raises(WorkError, match="DYNAMIC_DIM_FIXED"):
        Onnx().export(model(lambda x: x.view(2, 3)), tmp_path / "model.onnx")


@pytest.mark.parametrize("exporter", [Onnx, TorchExport, TorchScript])
def test_steps_of_a_dim_are_exported(tmp_path, exporter):
    net = nn.Sequential(nn.Conv1d(2, 2, 4, stride=4), nn.Upsample(scale_factor=4)).eval()
    shape = ("N", 2, "T")
    signature = Signature(
        (TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", shape),), (Dim("N"), Dim("T", 4, 64, 4))
    )
    feeds = {"x": np.ones((2, 2, 8), np.float32)}
    exporter().export(LoadedModel(net, signature, feeds), tmp_path / "model")
    assert (tmp_path / "model").stat().st_size
