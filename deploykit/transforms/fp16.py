"""Half precision: weights and arithmetic in float16, inputs and outputs as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from deploykit import onnx_file
from deploykit.onnx_graph import attribute
from deploykit.signature import Feeds
from deploykit.transforms import _foreign

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Transform:
    """onnxruntime's float16 converter.

    Attributes:
        keep_io_types: inputs and outputs stay float32: callers need no change.
        op_block_list: operators left in float32 beside the converter's own list, where float16's range is too small.
        keep_float: names of nodes left in float32.
    """

    core: ClassVar[bool] = True
    base: ClassVar[str] = "onnx"
    precision: ClassVar[str] = "fp16"
    needs_calibration: ClassVar[bool] = False

    keep_io_types: bool = True
    op_block_list: tuple[str, ...] = ("LogSoftmax", "Softmax", "LayerNormalization")
    keep_float: tuple[str, ...] = ()

    def unavailable(self) -> str | None:
        """Why this transform cannot work here; None when it can."""
        return _foreign.missing_package()

    def apply(self, source: Path, target: Path, calibration: Sequence[Feeds]) -> dict[str, str | int]:  # noqa: ARG002 - the face of a transform
        """Write the converted model to `target`.

        Raises:
            WorkError: VARIANT_NOT_APPLIED when the model holds no float32 weight to convert; UNKNOWN_NODE when a node
                to keep in float32 is not there.
        """
        model = onnx_file.load(source)
        _foreign.check_full_precision("onnx-fp16", model)
        _foreign.check_kept("onnx-fp16", tuple(self.keep_float), model)
        # the types recorded for float32 contradict the new ones
        del model.graph.value_info[:]
        large = onnx_file.weight_bytes(model) > onnx_file.EXTERNAL_OVER
        own = {node.name for node in model.graph.node}
        with _foreign.workshop(target) as folder:
            from onnx import TensorProto
            from onnxruntime.transformers import float16
            from onnxruntime.transformers.onnx_model import OnnxModel

            converted = float16.convert_float_to_float16(
                _inferable(model, large, folder),
                keep_io_types=self.keep_io_types,
                op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *self.op_block_list],
                node_block_list=[*self.keep_float, *_foreign.preprocessing(model), *_crashing(model)],
            )
            _skip_round_trips(converted.graph, own)
            # casts are appended at the end, and the checker wants producers first
            OnnxModel(converted).topological_sort()
        halves = sum(tensor.data_type == TensorProto.FLOAT16 for tensor in converted.graph.initializer)
        if not halves:
            raise _foreign.not_applied("onnx-fp16", "no weight could be converted to float16")
        del converted.graph.value_info[:]
        onnx_file.save(converted, target)
        return {"converted_tensors": halves}


def _crashing(model: onnx.ModelProto) -> list[str]:
    """Transposes that onnxruntime cannot load in float16: they move leading axes right before a matrix product.

    The session dies of a null pointer in `NchwcTransformer` on x86 (microsoft/onnxruntime issue 28392; 1.32 still
    does), for every `nn.TransformerEncoder` with `batch_first`. Moving values in float32 costs no precision.
    """
    products = {name for node in model.graph.node if node.op_type == "MatMul" for name in node.input}
    found = []
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.output[0] in products:
            order = list(attribute(node, "perm", []))
            swapped = [*range(len(order) - 2), len(order) - 1, len(order) - 2]
            if order != swapped:
                found.append(node.name)
    return found


def _inferable(model: onnx.ModelProto, large: bool, folder: Path) -> onnx.ModelProto | str:
    """What the converter can infer types on, a path where protobuf ends; without types it puts casts wrongly."""
    if not large:
        return model
    onnx_file.save(model, folder / "whole.onnx")
    return str(folder / "whole.onnx")


def _skip_round_trips(graph: onnx.GraphProto, own: set[str]) -> None:
    """Bypass float32 -> float16 -> float32 where the converter put both casts, beside operators left in float32.

    It rounds their inputs and outputs for nothing: log-probabilities around -2.3 lost 25 to 30 dB, and what exceeds
    65504 becomes inf.

    Args:
        graph: changed in place.
        own: names of the nodes that were there before; casts of the model's own round on purpose.
    """
    from onnx import TensorProto

    def casts(to: int) -> list[onnx.NodeProto]:
        added = (node for node in graph.node if node.op_type == "Cast" and node.name not in own)
        return [node for node in added if node.attribute[0].i == to]

    halved = {node.output[0]: node for node in casts(TensorProto.FLOAT16)}
    for node in casts(TensorProto.FLOAT):
        if node.input[0] in halved:
            node.input[0] = halved[node.input[0]].input[0]
            node.op_type = "Identity"
            del node.attribute[:]
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for name, node in halved.items():
        if name not in used:
            graph.node.remove(node)
