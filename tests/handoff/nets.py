"""A net with everything that a signature may have, handed over by nobody: for tests of what targets write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnx import TensorProto, helper, save

from deploykit.bundle import VariantRecord
from deploykit.handoff.interface import Given, Version
from deploykit.session import CPU, SessionSettings
from deploykit.signature import Dim, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("tokens", "int64", ("N", "T")), TensorSpec("scale", "float32", ()), TensorSpec("mask", "bool", ("T",))),
    (TensorSpec("scores", "float32", ("N", "T")), TensorSpec("largest", "int64", ("N",))),
    (Dim("N", 1, 16), Dim("T", 2, 8)),
)
"""Three inputs, a scalar among them, two outputs, a symbolic inner dim that two inputs share."""


def given(
    *settings: SessionSettings,
    signature: Signature = SIGNATURE,
    model: str = "net",
    provider: str = CPU,
    folder: Path = Path("bundle/variants/onnx"),
    files: Sequence[str] = ("net.onnx", "net.onnx.data"),
) -> Given:
    """One version for each of `settings`, numbered from 1, each with files of its own."""
    record = VariantRecord(
        name="onnx",
        status="ready",
        made_by="onnx",
        precision="fp32",
        runtime="onnxruntime",
        file=f"variants/onnx/{files[0]}",
    )
    versions = tuple(
        Version(number, record, {name: folder / str(number) / name for name in files}, one)
        for number, one in enumerate(settings or (SessionSettings(),), 1)
    )
    return Given(model, signature, versions, provider=provider)


def build(path: Path) -> None:
    """Write the net: scores = tokens · scale where mask, else 0; largest = the largest token of each row."""
    value = helper.make_tensor_value_info
    inputs = [
        value("tokens", TensorProto.INT64, ["N", "T"]),
        value("scale", TensorProto.FLOAT, []),
        value("mask", TensorProto.BOOL, ["T"]),
    ]
    outputs = [value("scores", TensorProto.FLOAT, ["N", "T"]), value("largest", TensorProto.INT64, ["N"])]
    nodes = [
        helper.make_node("Cast", ["tokens"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["numbers", "scale"], ["scaled"]),
        helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scaled", "kept"], ["scores"]),
        helper.make_node("ReduceMax", ["tokens", "axis"], ["largest"], keepdims=0),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "net", inputs, outputs, [axis])
    save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)]), path)
