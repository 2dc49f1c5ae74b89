"""Half precision: weights and arithmetic in float16, inputs and outputs as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from deploykit import onnx_file
from deploykit.signature import Feeds
from deploykit.transforms import _foreign


@dataclass(frozen=True)
class Transform:
    """onnxruntime's float16 converter.

    Attributes:
        keep_io_types: inputs and outputs stay float32: callers need no change.
        op_block_list: operators left in float32 beside the converter's own list, where float16's range is too small.
    """

    core: ClassVar[bool] = True
    base: ClassVar[str] = "onnx"
    precision: ClassVar[str] = "fp16"
    needs_calibration: ClassVar[bool] = False

    keep_io_types: bool = True
    op_block_list: tuple[str, ...] = ("LogSoftmax", "Softmax", "LayerNormalization")

    def unavailable(self) -> str | None:
        """Why this transform cannot work here; None when it can."""
        return _foreign.missing_package()

    def apply(self, source: Path, target: Path, calibration: Sequence[Feeds]) -> dict[str, str | int]:  # noqa: ARG002 - the face of a transform
        """Write the converted model to `target`.

        Raises:
            WorkError: VARIANT_NOT_APPLIED when the model holds no float32 weight to convert.
        """
        model = onnx_file.load(source)
        # the types recorded for float32 contradict the new ones
        del model.graph.value_info[:]
        large = onnx_file.weight_bytes(model) > onnx_file.EXTERNAL_OVER
        with _foreign.workshop(target):
            from onnx import TensorProto
            from onnxruntime.transformers import float16
            from onnxruntime.transformers.onnx_model import OnnxModel

            converted = float16.convert_float_to_float16(
                model,
                keep_io_types=self.keep_io_types,
                disable_shape_infer=large,
                op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *self.op_block_list],
            )
            # casts are appended at the end, and the checker wants producers first
            OnnxModel(converted).topological_sort()
        halves = sum(tensor.data_type == TensorProto.FLOAT16 for tensor in converted.graph.initializer)
        if not halves:
            raise _foreign.not_applied("onnx-fp16", "no weight could be converted to float16")
        del converted.graph.value_info[:]
        onnx_file.save(converted, target)
        return {"converted_tensors": halves}
