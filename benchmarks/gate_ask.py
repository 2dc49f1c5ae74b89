"""What `gates.py` runs in a process of its own to ask a tool about files: `python gate_ask.py < QUESTIONS`.

A question is one JSON line: the `tool`, the `name` of the artifact, its `subject`, and the `arguments` of the function
below. Imports torch, numpy and the tool that is asked: it runs in the other tools' environment too.
"""

from __future__ import annotations

import ast
import json
import logging
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gate_models import SUBJECTS, VOCABULARY, Input, Subject


def loaded(subject: Subject, weights: str) -> torch.nn.Module:
    """The module with the weights that the artifacts were exported with."""
    module = subject.build()
    module.load_state_dict(torch.load(weights, weights_only=True))
    return module.eval()


def answers(subject: Subject, module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Eager's outputs by name, as numpy arrays."""
    with torch.no_grad():
        outputs = module(*inputs.values())
    found = outputs if isinstance(outputs, tuple) else (outputs,)
    return {name: tensor.numpy() for name, tensor in zip(subject.outputs, found, strict=True)}


def allclose(subject: Subject, file: str, weights: str) -> None:
    """`np.testing.assert_allclose(torch, onnxruntime, rtol=1e-3, atol=1e-5)` on one random input.

    So in PyTorch's tutorial "Exporting a Model from PyTorch to ONNX and Running it using ONNX Runtime".
    """
    import numpy as np
    import onnxruntime

    inputs = subject.example()
    expected = answers(subject, loaded(subject, weights), inputs)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    given = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    for want, got in zip(expected.values(), given, strict=True):
        np.testing.assert_allclose(want, got, rtol=1e-3, atol=1e-5)


class _Kept(logging.Handler):
    """Keeps the messages of a logger."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def torch_export_verify(subject: Subject, file: str, weights: str, options: str) -> list[str]:
    """Export again with `verify=True`; the lines in which it warns of differences."""
    kept = _Kept()
    logging.getLogger("torch.onnx").addHandler(kept)
    module, arguments = loaded(subject, weights), tuple(subject.example().values())
    torch.onnx.export(module, arguments, file + ".again", verify=True, **ast.literal_eval(options))
    logging.getLogger("torch.onnx").removeHandler(kept)
    return [line for line in kept.said if "difference" in line or "checker" in line]


def torch_verify(subject: Subject, file: str, weights: str) -> list[str]:
    """`torch.onnx.verification.verify_onnx_program` on a file that was changed after its export.

    It gives numbers and no verdict: they are held to the limits that `verify=True` has, 5e-3 absolute and 1e-1
    relative (torch/onnx/_internal/exporter/_core.py).
    """
    import onnx_ir
    from torch.onnx.verification import verify_onnx_program

    shapes = tuple({0: torch.export.Dim("N", max=65_535)} for _ in subject.inputs)
    arguments = tuple(subject.example().values())
    program = torch.export.export(loaded(subject, weights), arguments, dynamic_shapes=shapes)
    found = verify_onnx_program(torch.onnx.ONNXProgram(onnx_ir.load(file), program))
    return [
        f"Output '{info.name}': absolute {info.max_abs_diff:.3g}, relative {info.max_rel_diff:.3g}"
        for info in found
        if info.max_abs_diff >= 5e-3 or info.max_rel_diff >= 1e-1
    ]


def optimum(subject: Subject, file: str, weights: str) -> None:
    """`validate_model_outputs` as optimum-onnx's guide "Adding support for an unsupported architecture" has it."""
    from optimum.exporters.onnx import validate_model_outputs
    from optimum.exporters.onnx.base import OnnxConfig
    from optimum.utils import DummyInputGenerator, NormalizedConfig
    from transformers import PretrainedConfig

    specs: dict[str, Input] = {spec.name: spec for spec in subject.inputs}

    class Generator(DummyInputGenerator):
        """Optimum's own random tensors in the shapes of this model, its default batch."""

        SUPPORTED_INPUT_NAMES = tuple(specs)

        def __init__(self, task: str, normalized_config: Any, batch_size: int = 2, **more: Any) -> None:
            del task, normalized_config, more
            self.batch_size = batch_size

        def generate(
            self, input_name: str, framework: str = "pt", int_dtype: str = "int64", float_dtype: str = "fp32"
        ) -> Any:
            """One input."""
            spec = specs[input_name]
            shape = [self.batch_size, *spec.shape]
            if spec.kind == "ids":
                return self.random_int_tensor(shape, VOCABULARY, framework=framework, dtype=int_dtype)
            if spec.kind == "mask":
                return self.random_mask_tensor(shape, framework=framework, dtype=int_dtype)
            return self.random_float_tensor(shape, framework=framework, dtype=float_dtype)

    class Config(OnnxConfig):
        """Names and dynamic axes of this model."""

        NORMALIZED_CONFIG_CLASS = NormalizedConfig
        DUMMY_INPUT_GENERATOR_CLASSES = (Generator,)

        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {name: {0: "N"} for name in specs}

        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {name: {0: "N"} for name in subject.outputs}

    torch.manual_seed(0)
    random.seed(0)  # of the padding
    config = Config(PretrainedConfig())
    module = loaded(subject, weights)
    validate_model_outputs(
        config, module, Path(file), list(subject.outputs), config.ATOL_FOR_VALIDATION, use_subprocess=False
    )


def polygraphy_data(subject: Subject, folder: str, weights: str) -> None:
    """`inputs.json` and `outputs.json`, as in Polygraphy's example cli/run/06_comparing_with_custom_output_data."""
    from polygraphy.comparator import RunResults
    from polygraphy.json import save_json

    inputs = subject.example()
    save_json([{name: tensor.numpy() for name, tensor in inputs.items()}], str(Path(folder) / "inputs.json"))
    results = RunResults()
    results.add([answers(subject, loaded(subject, weights), inputs)], runner_name="eager")
    results.save(str(Path(folder) / "outputs.json"))


ASK: dict[str, Callable[..., list[str] | None]] = {
    "allclose": allclose,
    "torch-export-verify": torch_export_verify,
    "torch-verify": torch_verify,
    "optimum": optimum,
    "polygraphy-data": polygraphy_data,
}


def main() -> None:
    """Answer the questions on stdin, one JSON line each: what the tool raised, or the warnings that it only logged."""
    for line in sys.stdin:
        job = json.loads(line)
        raised, warned = "", []
        try:
            warned = ASK[job["tool"]](SUBJECTS[job["subject"]], *job["arguments"]) or []
        except Exception as error:  # noqa: BLE001 - whatever the tool raises is its answer
            raised = f"{type(error).__name__}: {error}"
        print("\n" + json.dumps({"name": job["name"], "raised": raised, "warned": warned}), flush=True)


if __name__ == "__main__":
    main()
