"""Source lines: every value of the ONNX graph leads to the module and line that computes it, and to its capture."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import onnx
import pytest

from deploykit import registry
from deploykit.lines import Lines, listening
from deploykit.model import LoadedModel
from deploykit.signature import Dim, Signature, TensorSpec

CODE = """\
import torch
from torch import nn


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.mix = nn.BatchNorm1d(6), nn.Linear(6, 6)

    def forward(self, x):
        first, second = torch.chunk(self.mix(x), 2, 1)
        return self.norm(torch.cat([second, first.relu_()], 1))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = Inner(), nn.Linear(6, 3)

    def forward(self, x):
        if x.sum() > 0:
            x = x * float(x.abs().max())
        return self.head(self.inner(x).reshape(x.shape[0], 6) / 3)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package of the user's own, two folders deep in a path that nobody else should learn."""
    root = tmp_path_factory.mktemp("secret-folder")
    folder = root / "shop" / "models"
    folder.mkdir(parents=True)
    for path in (root / "shop" / "__init__.py", folder / "__init__.py"):
        path.touch()
    (folder / "net.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        import shop.models.net as found

        yield found
        for name in ("shop.models.net", "shop.models", "shop"):
            sys.modules.pop(name, None)


def model(module) -> LoadedModel:
    signature = Signature(
        (TensorSpec("x", "float32", ("N", 6)),), (TensorSpec("output", "float32", ("N", 3)),), (Dim("N"),)
    )
    example = {"x": np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)}
    return LoadedModel(module, signature, example)


@pytest.fixture(scope="module")
def told(package, tmp_path_factory) -> tuple[Lines, onnx.ModelProto]:
    import torch

    class Straight(package.Net):
        def forward(self, x):
            return self.head(self.inner(x).reshape(x.shape[0], 6) / 3)

    torch.manual_seed(0)
    target = tmp_path_factory.mktemp("told") / "model.onnx"
    with listening() as heard:
        registry.load("exporters", "onnx")().export(model(Straight().eval()), target)
    captured, converted = heard
    return captured.merged(converted), onnx.load(target)


def test_lines_are_relative_to_the_top_package(told):
    lines, _ = told
    row = 1 + CODE.splitlines().index("        first, second = torch.chunk(self.mix(x), 2, 1)")
    place = f"shop/models/net.py:{row}"
    line = next(line for line in lines.captured.values() if line.operator == "linear")
    assert (line.module, line.source) == ("inner.mix (Linear)", place)
    assert line.code == "first, second = torch.chunk(self.mix(x), 2, 1)"
    assert line.parameters == ("inner.mix.weight", "inner.mix.bias")
    assert not [line for line in lines.captured.values() if line.source[:1] == "/" or "secret" in str(line)]


def test_every_value_of_the_graph_has_a_line(told):
    lines, proto = told
    constants = {tensor.name for tensor in proto.graph.initializer}
    without = {
        name
        for node in proto.graph.node
        for name in node.output
        if not lines.of(name).operator and not set(node.input) <= constants
    }
    assert not [name for name in without if not name.startswith("split")]
    assert lines.of("output").module == "head (Linear)"


def test_a_value_is_the_captured_one_with_the_same_numbers(told):
    lines, proto = told
    by_operator = {lines.captured[name].operator for name in lines.values.values()}
    assert {"linear", "cat", "batch_norm", "div"} <= by_operator
    computed = {name for node in proto.graph.node for name in node.output}
    assert set(lines.values) <= computed
    # its batch-norm answers with three values, the converter's names for which are somebody else's in the capture
    renamed = {value: name for value, name in lines.values.items() if value not in {name, "output"}}
    assert "batch_norm" in renamed.values()


def test_artifacts_carry_none_of_it(told, package):
    _, proto = told
    assert b"secret-folder" not in proto.SerializeToString()
    assert b"net.py" not in proto.SerializeToString()


def test_the_tracer_tells_which_python_values_became_constants(package, tmp_path):
    import torch

    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as leaked:
        facts = registry.load("exporters", "torchscript")().export(model(package.Net().eval()), tmp_path / "model.pt")
    rows = CODE.splitlines()
    branch = 1 + rows.index("        if x.sum() > 0:")
    assert facts == {"baked": f"bool at shop/models/net.py:{branch}, float at shop/models/net.py:{branch + 1}"}
    assert leaked == []


def test_a_model_without_them_has_no_such_fact(small_models, tmp_path):
    assert registry.load("exporters", "torchscript")().export(small_models.model("mlp"), tmp_path / "model.pt") == {}
