"""ONNX by torch's older, tracing exporter: for recurrent layers, whose length torch.export turns into a number."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import torch

from deploykit.exporters._graph import Flat, example
from deploykit.model import LoadedModel

if TYPE_CHECKING:
    import onnx

MAX_OPSET = 20
"""What the older exporter can write; it is no longer extended."""


def is_recurrent(module: torch.nn.Module) -> bool:
    """Whether `module` holds an LSTM, a GRU or an RNN."""
    return any(isinstance(part, torch.nn.RNNBase) for part in module.modules())


def traced(model: LoadedModel, opset: int) -> onnx.ModelProto:
    """The model with the signature's names and symbolic dims.

    A trace keeps what Python decided on the example: what became of the promised dims, verify finds out.
    """
    import onnx

    signature = model.signature
    axes = {
        spec.name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for spec in (*signature.inputs, *signature.outputs)
    }
    buffer = io.BytesIO()
    torch.onnx.export(
        Flat(model.module),
        example(model),
        buffer,  # type: ignore[arg-type]  # the older exporter writes to streams, its new signature forgot
        dynamo=False,
        input_names=[spec.name for spec in signature.inputs],
        output_names=[spec.name for spec in signature.outputs],
        dynamic_axes={name: dims for name, dims in axes.items() if dims},
        opset_version=min(opset, MAX_OPSET),
    )
    proto = onnx.load_from_string(buffer.getvalue())
    renamed = {tensor.name: tensor.name.removeprefix("module.") for tensor in proto.graph.initializer}
    for tensor in proto.graph.initializer:
        tensor.name = renamed[tensor.name]
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    return proto
