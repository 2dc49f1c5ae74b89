"""`onnx:FILE`: an ONNX file that somebody exported. It is its own reference: onnxruntime runs it as it stands."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from deploykit.errors import UsageError
from deploykit.model import LoadedModel, SourceSpec
from deploykit.signature import Signature, parse_dims


@dataclass(frozen=True)
class Source:
    """An ONNX file of standard operators with tensors in and out. The file is data: nothing in it is run as code."""

    runs_user_code: ClassVar[bool] = False
    example: ClassVar[str] = "onnx:path/to/model.onnx"

    def unavailable(self) -> str | None:
        """Why this source cannot be used here, in one line; None when it can."""
        missing = [name for name in ("torch", "onnx", "onnxruntime") if not find_spec(name)]
        return f"{missing[0]} is not installed" if missing else None

    def load(self, spec: SourceSpec) -> LoadedModel:
        """The file as a module that onnxruntime computes, inputs as the graph declares them.

        `spec.inputs` may give anonymous dims a name, say how far a dim goes, or fix it.

        Raises:
            UsageError: there is no such file, its inputs or outputs are no tensors, or `--input` contradicts it.
            RefusedError: it is no ONNX model, it is damaged, or its external data is missing or lies elsewhere.
            WorkError: it draws random numbers, is in training mode, or has operators that onnxruntime lacks.
        """
        from deploykit.sources._example import dims_of, draw
        from deploykit.sources._onnx_file import read
        from deploykit.sources._onnx_module import OnnxModule
        from deploykit.sources._onnx_signature import described, output_names

        if not spec.target:
            raise UsageError("onnx:", "names no file", "onnx:path/to/model.onnx", "NOT_FOUND")
        if spec.checkpoint is not None:
            message, hint = "an ONNX file holds its own weights", "leave --checkpoint out"
            raise UsageError("--checkpoint", message, hint, "CHECKPOINT_MISMATCH")
        file = read(Path(spec.target))
        inputs, named = described(file.graph, spec.inputs)
        outputs = output_names(file.graph)
        stated = parse_dims(spec.inputs)
        module = OnnxModule(file, tuple(one.name for one in inputs), outputs)
        notes = {
            "weights": "from the file",
            "preprocessing": "whatever the graph does itself",
            "reference": "the file itself: onnxruntime with graph optimizations off, one thread",
            "file": f"{file.path.name}, opset {file.opset}, IR {file.model.ir_version}, written by {file.producer}",
            "precision": module.precision,
            **({"dims": named} if named else {}),
            **{f"unused {one.name}": "no node reads it" for one in inputs if one.name not in file.read},
            **({"left out of weights.safetensors": file.unnamed} if file.unnamed else {}),
        }
        signature = Signature(inputs, dims=dims_of(inputs, stated))
        return LoadedModel(module.eval(), signature, draw(inputs, spec.seed, stated), notes, drawn=True)
