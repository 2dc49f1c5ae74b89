"""Int8 weights, activations quantized on the fly: no calibration, for models that live in matrix products."""

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
    """onnxruntime's `quantize_dynamic`, weights QInt8.

    Attributes:
        op_types: operators to quantize. Never Conv: dynamically quantized, resnet18 ran 5.4 times slower than fp32.
        per_channel: one scale per output channel.
        keep_float: names of nodes that stay as they are.
    """

    core: ClassVar[bool] = True
    base: ClassVar[str] = "onnx"
    precision: ClassVar[str] = "int8-dynamic"
    needs_calibration: ClassVar[bool] = False

    op_types: tuple[str, ...] = ("MatMul", "Gemm")
    per_channel: bool = True
    keep_float: tuple[str, ...] = ()

    def unavailable(self) -> str | None:
        """Why this transform cannot work here; None when it can."""
        return _foreign.missing_package()

    def apply(self, source: Path, target: Path, calibration: Sequence[Feeds]) -> dict[str, str | int]:  # noqa: ARG002 - the face of a transform
        """Write the quantized model to `target`.

        Raises:
            WorkError: VARIANT_NOT_APPLIED when no operator with constant weights was found; UNKNOWN_NODE when one to
                keep in float is not there.
        """
        with _foreign.workshop(target) as folder:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            model = onnx_file.load(source)
            _foreign.check_full_precision("onnx-int8-dynamic", model)
            _foreign.check_kept("onnx-int8-dynamic", tuple(self.keep_float), model)
            kept = [*self.keep_float, *_foreign.preprocessing(model)]
            large = onnx_file.weight_bytes(model) > onnx_file.EXTERNAL_OVER
            quantize_dynamic(
                source,
                folder / "quantized.onnx",
                op_types_to_quantize=list(self.op_types),
                per_channel=self.per_channel,
                weight_type=QuantType.QInt8,
                # it first makes a MatMul of every Gemm, under another name
                nodes_to_exclude=[name for node in kept for name in (node, f"{node}_MatMul")],
                use_external_data_format=large,
            )
            model = onnx_file.load(folder / "quantized.onnx")
        nodes = onnx_file.count(model, "MatMulInteger", "ConvInteger")
        if not nodes:
            what = ", ".join(self.op_types)
            raise _foreign.not_applied("onnx-int8-dynamic", f"the model has no {what} with constant weights")
        onnx_file.save(model, target)
        return {"quantized_nodes": nodes}
