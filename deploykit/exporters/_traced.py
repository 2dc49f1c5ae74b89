"""ONNX by torch's older, tracing exporter: for what the newer one cannot, and tracing does not get wrong by its nature.

That is: recurrent layers, whose length torch.export turns into a number, and operators that only the older one knows.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import torch

from deploykit.errors import WorkError
from deploykit.exporters._graph import Flat, example
from deploykit.model import LoadedModel

if TYPE_CHECKING:
    import onnx

MAX_OPSET = 20
"""What the older exporter can write; it is no longer extended."""


def may_be_traced(refusal: WorkError, module: torch.nn.Module) -> bool:
    """Whether to try it after `refusal`.

    Not where forward decides by values, for a trace keeps one side of every branch.
    """
    if refusal.code == "DATA_DEPENDENT":  # torchvision wrote its detectors for tracing
        return any(type(part).__module__.startswith("torchvision.models.detection.") for part in module.modules())
    if refusal.code == "DYNAMIC_DIM_FIXED":
        return any(isinstance(part, torch.nn.RNNBase) for part in module.modules())
    return refusal.code in {"UNSUPPORTED_OP", "EXPORT_ERROR"}


def traced(model: LoadedModel, opset: int, refusal: WorkError) -> onnx.ModelProto:
    """The model with the signature's names and symbolic dims.

    A trace keeps what Python decided on the example: what became of the promised dims, verify finds out.

    Raises:
        WorkError: `refusal`, that of the newer exporter, when this one cannot, too.
    """
    import onnx

    signature = model.signature
    axes = {
        spec.name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for spec in (*signature.inputs, *signature.outputs)
    }
    buffer = io.BytesIO()
    try:
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
    except Exception as error:
        raise refusal from error
    proto = onnx.load_from_string(buffer.getvalue())
    renamed = {tensor.name: tensor.name.removeprefix("module.") for tensor in proto.graph.initializer}
    for tensor in proto.graph.initializer:
        tensor.name = renamed[tensor.name]
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    return proto
