"""ONNX by torch's dynamo exporter: what most other engines start from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from deploykit import onnx_file
from deploykit.errors import WorkError
from deploykit.model import LoadedModel
from deploykit.signature import Signature, TensorSpec

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Exporter:
    """`torch.onnx.export(dynamo=True)`.

    Attributes:
        opset: the operator set asked for; what came out is in the facts.
        optimize: fold constants and drop dead nodes with onnxscript's optimizer.
        external_data_threshold: bytes of weights above which they lie in `model.onnx.data`.
    """

    core: ClassVar[bool] = True
    file_name: ClassVar[str] = "model.onnx"
    runtime: ClassVar[str] = "onnxruntime"
    precision: ClassVar[str] = "fp32"
    runs_code: ClassVar[bool] = False

    opset: int = 20
    optimize: bool = True
    external_data_threshold: int = onnx_file.EXTERNAL_OVER

    def unavailable(self) -> str | None:
        """Why this exporter cannot work here; None when it can."""
        missing = [name for name in ("torch", "onnx", "onnxscript") if not find_spec(name)]
        return f"the package {missing[0]} is not installed" if missing else None

    def export(self, model: LoadedModel, target: Path) -> dict[str, str | int]:
        """Write the model, inputs and outputs named by the signature, to `target`; tells `opset` and `ir_version`.

        Raises:
            WorkError: DYNAMIC_DIM_FIXED, DATA_DEPENDENT, UNSUPPORTED_OP or EXPORT_ERROR, naming the model's line.
        """
        from deploykit.exporters._fused import name_preprocessing
        from deploykit.exporters._graph import untouched
        from deploykit.exporters._traced import may_be_traced, traced

        signature = model.signature
        _refuse_complex(signature)
        with untouched(model.module):
            try:
                proto, facts = self._converted(model)
            except WorkError as error:
                if not may_be_traced(error, model.module):
                    raise
                proto, facts = traced(model, self.opset, error), {"traced": f"torch.export cannot: {error.message}"}
        _name_dims(proto, signature.inputs)
        name_preprocessing(proto, model)
        _check(proto.graph.input, signature.inputs, "input")
        _check(proto.graph.output, signature.outputs, "output")
        onnx_file.save(proto, target, self.external_data_threshold)
        return {"opset": onnx_file.opset(proto), "ir_version": int(proto.ir_version), **facts}

    def _converted(self, model: LoadedModel) -> tuple[onnx.ModelProto, dict[str, str | int]]:
        """The captured program as ONNX, and what the manifest should say of it."""
        import torch

        from deploykit.exporters._distinct import make_distinct
        from deploykit.exporters._graph import capture, example
        from deploykit.exporters._lines import tell_converted
        from deploykit.exporters._refusals import explained

        signature = model.signature
        captured = capture(model)
        with explained(captured.lines):
            exported = torch.onnx.export(
                captured.program,
                (),
                dynamo=True,
                input_names=[spec.name for spec in signature.inputs],
                output_names=[spec.name for spec in signature.outputs],
                opset_version=self.opset,
                optimize=self.optimize,
                verbose=False,
            )
        assert exported is not None
        make_distinct(exported.model)
        tell_converted(captured.program, exported.exported_program, exported.model_proto, example(model))
        return exported.model_proto, {**captured.facts}


def _refuse_complex(signature: Signature) -> None:
    """Complex numbers inside a model have an ONNX form, as pairs of reals; as inputs and outputs they have none."""
    for what, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            if spec.dtype.startswith("complex"):
                way = "view_as_complex" if what == "input" else "view_as_real"
                hint = f"let forward {'take' if what == 'input' else 'give'} pairs of reals: torch.{way}"
                message = f"{what} {spec.name} is {spec.dtype}, which no engine takes from ONNX"
                raise WorkError("model", message, hint, "UNSUPPORTED_OP")


def _name_dims(proto: onnx.ModelProto, specs: tuple[TensorSpec, ...]) -> None:
    """Give torch's symbols (`s17`) the names of the signature, alone and inside expressions."""
    names: dict[str, str] = {}
    for value, spec in zip(proto.graph.input, specs, strict=False):
        for dim, wanted in zip(value.type.tensor_type.shape.dim, spec.shape, strict=False):
            if dim.dim_param.isidentifier() and isinstance(wanted, str):
                names.setdefault(dim.dim_param, wanted)
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"[A-Za-z_]\w*", lambda m: names.get(m[0], m[0]), dim.dim_param)


def _check(values: Any, specs: tuple[TensorSpec, ...], what: str) -> None:
    """Every value is there under its name, and as dynamic as the signature says."""
    from deploykit.exporters._graph import dim_fixed

    named = {value.name: value for value in values}
    if list(named) != [spec.name for spec in specs]:
        message = f"the {what}s came out as {', '.join(named) or 'none'}, not {', '.join(s.name for s in specs)}"
        raise WorkError("onnx", message, f"check that forward uses every {what}", "EXPORT_ERROR")
    for spec in specs:
        dims = named[spec.name].type.tensor_type.shape.dim
        for wanted, dim in zip(spec.shape, dims, strict=False):
            if isinstance(wanted, str) and dim.HasField("dim_value"):
                raise dim_fixed(wanted, f"exporting fixed it to {dim.dim_value} in {what} {spec.name}")
            if isinstance(wanted, int) and what == "input" and not dim.HasField("dim_value"):
                raise WorkError(
                    "onnx", f"dim {wanted} of {what} {spec.name} is not fixed", "report this", "EXPORT_ERROR"
                )
