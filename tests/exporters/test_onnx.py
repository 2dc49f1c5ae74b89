"""ONNX: dims as promised, names, opset, external data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from deploykit import registry
from deploykit.capture.outputs import with_outputs
from deploykit.errors import WorkError
from deploykit.exporters.onnx import Exporter
from deploykit.runtimes.onnxruntime import Runtime
from deploykit.session import SessionSettings
from tests.fixtures.forwards import Forward, loaded


@pytest.mark.parametrize("name", ["onnx", "torch-export"])
def test_a_promised_dim_that_became_a_number_is_an_error(name, small_models, tmp_path):
    exporter = registry.load("exporters", name)()
    with pytest.raises(WorkError) as caught:
        exporter.export(small_models.model("baked"), tmp_path / exporter.file_name)
    assert caught.value.code == "DYNAMIC_DIM_FIXED"
    assert "dim N" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("threshold", [1000, 10**9])
def test_external_data_names_and_dims(threshold, small_models, tmp_path):
    target = tmp_path / "model.onnx"
    facts = Exporter(external_data_threshold=threshold).export(small_models.model("mlp"), target)
    proto = onnx.load(target, load_external_data=False)
    assert facts["opset"] == 20
    assert [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == ["N", 784]
    assert [d.dim_param or d.dim_value for d in proto.graph.output[0].type.tensor_type.shape.dim] == ["N", 10]
    assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == ["image", "output"]
    places = {e.value for t in proto.graph.initializer for e in t.external_data if e.key == "location"}
    assert places == ({"model.onnx.data"} if threshold == 1000 else set())
    # written again, the data file must not grow
    Exporter(external_data_threshold=threshold).export(small_models.model("mlp"), target)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sum(sizes.values()) < 420_000, sizes
    feeds = {"image": np.full((3, 784), 0.5, np.float32)}
    answer = Runtime().open(target, (), SessionSettings()).run(feeds)["output"]
    assert np.abs(answer - small_models.expected("mlp", feeds)["output"]).max() < 1e-5


@pytest.mark.parametrize(
    ("function", "dtype", "said"),
    [
        (lambda _, x: (x * 2).abs(), np.complex64, "input x is complex64"),
        (lambda _, x: torch.complex(x, x), np.float32, "output output is complex64"),
    ],
)
def test_complex_numbers_pass_no_border(function, dtype, said, tmp_path):
    model = loaded(Forward(function), x=np.ones((2, 3), dtype))
    model = replace(model, signature=with_outputs(model))
    with pytest.raises(WorkError, match=said) as caught:
        Exporter().export(model, tmp_path / "model.onnx")
    assert caught.value.code == "UNSUPPORTED_OP"
    assert "torch.view_as_" in caught.value.hint
