"""Nodes that preprocessing put into an ONNX graph, named so that reduced precision can leave them in float."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploykit.onnx_graph import PREPROCESS

if TYPE_CHECKING:
    import onnx

    from deploykit.model import LoadedModel


def name_preprocessing(proto: onnx.ModelProto, model: LoadedModel) -> None:
    """Begin the names of all nodes between the raw images and the first weight with `PREPROCESS`.

    Their matrices are places of pixels and no weights: in 8 bits they would cost precision and save nothing.
    """
    steps = model.preprocessing
    if steps is None or steps.mode != "fused":
        return
    weights = tuple(model.module.state_dict())
    constants = {tensor.name for tensor in proto.graph.initializer if not tensor.name.startswith(weights)}
    reached = {steps.input}
    for node in proto.graph.node:
        named = {name for name in node.input if name}
        if named & reached and named <= reached | constants:
            reached.update(node.output)
            node.name = f"{PREPROCESS}{node.name or node.output[0]}"
        elif not named or named <= constants:  # makes a constant
            constants.update(node.output)
