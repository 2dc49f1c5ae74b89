"""`config.pbtxt` of Triton: what a signature, its versions and their session settings become.

Fields are those of `model_config.proto`; parameters those that `onnxruntime_backend` and `pytorch_backend` read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from deploykit.handoff.interface import Given
from deploykit.session import CUDA, SessionSettings
from deploykit.signature import Dim, Signature, TensorSpec

PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "torchscript": "pytorch_libtorch"}
"""Runtime to Triton's platform."""

FILES = {"onnxruntime": "model.onnx", "torchscript": "model.pt"}
"""Runtime to the artifact's name in the folder of a version, one for all versions."""

TYPES = {"bool": "TYPE_BOOL", "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64"} | {
    f"{sign}int{bits}": f"TYPE_{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}

LEVELS = {"disable": 2, "basic": -1, "extended": 1}
"""`optimization.graph.level`; `all` is what the backend does where none is given."""

MOST_BATCH = 512
"""Rows in one call unless a larger batch was tuned: more than any request of a reference has (257), and not the tens of
thousands of a range that nobody stated, which dynamic batching would fill under load."""


@dataclass(frozen=True)
class Batching:
    """Whether Triton may put requests together along the first axis.

    Attributes:
        dim: the batch and its range; None where it may not.
        reason: why not.
    """

    dim: Dim | None
    reason: str = ""


def batching(signature: Signature) -> Batching:
    """Whether every input and output has the batch first, there only, and something after it."""
    name = signature.batch_dim
    if name is None:
        return Batching(None, "the inputs share no symbolic first dim")
    for spec in (*signature.inputs, *signature.outputs):
        if not spec.shape or spec.shape[0] != name:
            return Batching(None, f"the first dim of {spec.name} is not {name}")
        if any(name in re.findall(r"\w+", str(dim)) for dim in spec.shape[1:]):
            return Batching(None, f"{name} is an inner dim of {spec.name}, too")
        if len(spec.shape) == 1:
            # Triton has no tensor of the batch alone: it would ask clients for [N, 1]
            return Batching(None, f"{spec.name} has no dim beside {name}")
    return Batching(range_of(signature, name))


def range_of(signature: Signature, name: str) -> Dim:
    """The range of a symbolic dim."""
    return next((dim for dim in signature.dims if dim.name == name), Dim(name))


def max_batch(given: Given) -> int:
    """`max_batch_size`; 0 where Triton may not batch."""
    dim = batching(given.signature).dim
    return 0 if dim is None else min(dim.max, max(MOST_BATCH, given.latest.batch or 0))


def dims(spec: TensorSpec, *, batched: bool) -> list[int]:
    """`dims` of a tensor: without the batch, -1 for a symbolic one."""
    return [dim if isinstance(dim, int) else -1 for dim in spec.shape[1 if batched else 0 :]]


def render(given: Given) -> str:
    """The text of the file."""
    most, runtime = max_batch(given), given.latest.variant.runtime
    parts = [
        f"name: {_quoted(given.model)}",
        f"platform: {_quoted(PLATFORMS[runtime])}",
        f"default_model_filename: {_quoted(FILES[runtime])}",
        "version_policy { all { } }",
        f"max_batch_size: {most}",
        *(_tensor("input", spec, batched=most > 0) for spec in given.signature.inputs),
        *(_tensor("output", spec, batched=most > 0) for spec in given.signature.outputs),
        f"instance_group [ {{ count: 1 kind: {kind(given.provider)} }} ]",
        *(_dynamic(most, given.latest.batch) if most > 1 else ()),
        *_optimization(given.latest.settings, runtime),
        *(_parameter(key, value) for key, value in parameters(given.latest.settings, runtime).items()),
        _warmup(given.signature, batched=most > 0),
    ]
    return "\n".join(parts) + "\n"


def kind(provider: str) -> str:
    """Where instances run. It has to be said: without a word Triton takes a GPU where there is one."""
    return "KIND_GPU" if provider == CUDA else "KIND_CPU"


def parameters(settings: SessionSettings, runtime: str) -> dict[str, str]:
    """What the backend reads from `parameters`; only what differs from its defaults."""
    if runtime == "torchscript":
        return {} if settings.threads is None else {"INTRA_OP_THREAD_COUNT": str(settings.threads)}
    found = {} if settings.threads is None else {"intra_op_thread_count": str(settings.threads)}
    if not settings.arena:
        # a pattern is one block for all of a call: without an arena the system would be asked for it every time
        found |= {"enable_mem_arena": "0", "enable_mem_pattern": "0"}
    return found


def _tensor(field: str, spec: TensorSpec, *, batched: bool) -> str:
    shape = ", ".join(map(str, dims(spec, batched=batched)))
    return f"{field} [ {{\n  name: {_quoted(spec.name)}\n  data_type: {TYPES[spec.dtype]}\n  dims: [ {shape} ]\n}} ]"


def _dynamic(most: int, batch: int | None) -> list[str]:
    preferred = f" preferred_batch_size: [ {batch} ]" if batch is not None and 1 < batch <= most else ""
    return [f"dynamic_batching {{{preferred} }}"]


def _optimization(settings: SessionSettings, runtime: str) -> list[str]:
    if runtime != "onnxruntime":
        return []
    lines = []
    if settings.graph_level in LEVELS:
        lines.append(f"  graph {{ level: {LEVELS[settings.graph_level]} }}")
    if settings.provider == CUDA:
        switch = f'parameters {{ key: "use_tf32" value: "{int(settings.tf32)}" }}'
        inside = f'gpu_execution_accelerator [ {{ name: "cuda" {switch} }} ]'
        lines.append(f"  execution_accelerators {{ {inside} }}")
    return ["\n".join(["optimization {", *lines, "}"])] if lines else []


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"


def _warmup(signature: Signature, *, batched: bool) -> str:
    """One request of zeros at the smallest sizes: the first client does not wait for what an engine does only once."""
    first = signature.batch_dim if batched else None
    rows = max(range_of(signature, first).min, 1) if first is not None else 1
    lines = ["model_warmup [ {", '  name: "zeros"', f"  batch_size: {rows}"]
    for spec in signature.inputs:
        shape = [
            dim if isinstance(dim, int) else max(range_of(signature, dim).min, 1)
            for dim in spec.shape[1 if batched else 0 :]
        ]
        value = f"data_type: {TYPES[spec.dtype]} dims: [ {', '.join(map(str, shape))} ] zero_data: true"
        lines.append(f"  inputs {{ key: {_quoted(spec.name)} value {{ {value} }} }}")
    return "\n".join([*lines, "} ]"])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
