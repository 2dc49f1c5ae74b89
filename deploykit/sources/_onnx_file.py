"""An ONNX file that a stranger made: read as data, checked, and refused in one line where it cannot be a source."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from deploykit import onnx_file, onnx_versions
from deploykit.errors import RefusedError, WorkError, from_os_error
from deploykit.formats import recognize
from deploykit.onnx_graph import Array, Graph, attribute, decoded, elements, given, type_name

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

LARGEST = (1 << 31) - 1
"""Bytes at which protobuf ends: what is larger was never an ONNX file."""

DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
"""Operator sets that the published onnxruntime has kernels for."""

RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
"""Standard operators that draw random numbers in inference, too."""

_LAID_OUT = {
    "string", "int4", "uint4", "int2", "uint2", "float4e2m1", "float8e8m0", "float6e2m3", "float6e3m2",
    "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz",
}  # fmt: skip
"""Element types that have no tensor of torch's or no values without a scale: they are read from the file alone."""


@dataclass(frozen=True)
class OnnxFile:
    """A checked file.

    Attributes:
        path: where it lies.
        model: without its external data.
        beside: names of the files that hold external data, relative to its folder.
    """

    path: Path
    model: ModelProto
    beside: tuple[str, ...]

    @cached_property
    def graph(self) -> Graph:
        """The top graph, to be asked."""
        return Graph(self.model, self.path.parent)

    @property
    def opset(self) -> int:
        """The version of the standard operator set."""
        return onnx_versions.opset(self.model)

    @property
    def producer(self) -> str:
        """What wrote the file, as it says itself."""
        told = f"{self.model.producer_name} {self.model.producer_version}".strip()
        return "".join(c if c.isprintable() else "?" for c in told)[:80] or "an unnamed tool"

    @cached_property
    def weights(self) -> dict[str, Array]:
        """Initializers of the top graph by name, without those of `_LAID_OUT` types."""
        kept = (tensor for tensor in self.graph.initializers.values() if type_name(tensor.data_type) not in _LAID_OUT)
        return {tensor.name: decoded(tensor, self.path.parent) for tensor in kept}

    @property
    def unnamed(self) -> str:
        """Which initializers `weights` leaves out, in words; empty for none."""
        left = [t for t in self.graph.initializers.values() if type_name(t.data_type) in _LAID_OUT]
        kinds = ", ".join(sorted({type_name(tensor.data_type) for tensor in left}))
        return f"{len(left)} of {kinds}" if left else ""

    @property
    def read(self) -> set[str]:
        """Names that some node reads, or the graph gives as they are."""
        return {name for node in nodes(self.model) for name in node.input} | set(self.graph.outputs)

    @cached_property
    def digest(self) -> str:
        """sha256 of the file; with external data over the names and sha256 of all its files."""
        first = _sha256(self.path)
        if not self.beside:
            return first
        whole = sha256(f"model:{first};".encode())
        for name in self.beside:
            whole.update(f"{name}:{_sha256(self.path.parent / name)};".encode())
        return whole.hexdigest()

    @property
    def precision(self) -> str:
        """What it computes in: `fp32`, `fp16`, `int8-dynamic` or `int8-static`."""
        operators = {node.op_type for node in nodes(self.model)}
        if operators & {"DynamicQuantizeLinear", "DynamicQuantizeMatMul"}:
            return "int8-dynamic"
        if any(name.startswith(("QLinear", "DequantizeLinear")) or name in _INTEGER for name in operators):
            return "int8-static"
        kinds = [(type_name(t.data_type), elements(t)) for t in self.graph.tensors.values()]
        half, full = (sum(size for kind, size in kinds if kind == wanted) for wanted in ("float16", "float"))
        return "fp16" if half > full else "fp32"


_INTEGER = {"MatMulInteger", "ConvInteger", "QGemm", "QAttention"}


def read(path: Path) -> OnnxFile:
    """The file at `path`, checked as far as data can be.

    Raises:
        UsageError: there is no such file.
        RefusedError: MALFORMED, or ARTIFACT_INCOMPLETE where external data is missing.
        WorkError: UNSUPPORTED_OP, TRAIN_MODE or REFERENCE_NONDETERMINISTIC, naming the operator.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise from_os_error(error, path.name) from error
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        kind = recognize(path)
    else:
        raise RefusedError(path.name, "not a regular file", "give an ONNX file")
    if kind != "onnxruntime":
        raise RefusedError(path.name, f"not an ONNX model but a file of {kind}", "give an ONNX file")
    if status.st_size > LARGEST:
        raise RefusedError(path.name, "over 2 GiB, where protobuf ends", "save its weights as external data")
    try:
        model = onnx_file.load(path, external=False)
        beside = tuple(dict.fromkeys(_places(model, path)))
    except OSError as error:
        raise from_os_error(error, path.name) from error
    file = OnnxFile(path, model, beside)
    _check_operators(file)
    return file


def graphs(model: ModelProto) -> Iterator[Any]:
    """Every graph and function in `model`, subgraphs included."""
    waiting: list[Any] = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop(0)
        yield graph
        for node in graph.node:
            for entry in node.attribute:
                waiting += [entry.g] if entry.HasField("g") else []
                waiting += entry.graphs


def nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node in `model`, those of subgraphs and functions too."""
    for graph in graphs(model):
        yield from graph.node


def _check_operators(file: OnnxFile) -> None:
    own = {(function.domain, function.name) for function in file.model.functions}
    for node in nodes(file.model):
        name = f"{node.domain}.{node.op_type}" if node.domain not in onnx_versions.STANDARD else node.op_type
        where = f"node {node.name or node.output[0] if node.output else node.op_type}"
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in own:
            message = f"{name} is a custom operator: onnxruntime has nothing to run it with"
            hint = "export the model with standard operators, or give what it was exported from"
            raise WorkError(where, message, hint, "UNSUPPORTED_OP")
        if node.op_type in RANDOM and node.domain in onnx_versions.STANDARD:
            message, hint = f"{name} draws random numbers", "export the model without it: nothing can be compared"
            raise WorkError(where, message, hint, "REFERENCE_NONDETERMINISTIC")
        if _training(node, file.graph):
            hint = "export the model in eval mode"
            raise WorkError(where, f"{name} is in training mode", hint, "TRAIN_MODE")


def _training(node: NodeProto, graph: Graph) -> bool:
    if node.domain not in onnx_versions.STANDARD:
        return False
    if node.op_type == "BatchNormalization":
        return bool(attribute(node, "training_mode", 0))
    switch = given(node, 2) if node.op_type == "Dropout" else ""
    return bool(switch and switch in graph.tensors and graph.array(switch).any())


def _places(model: ModelProto, path: Path) -> Iterator[str]:
    """Locations of all external data, each checked."""
    for tensor in _tensors(model):
        if tensor.data_location != tensor.EXTERNAL:
            continue
        told = {entry.key: entry.value for entry in tensor.external_data}
        location = told.get("location", "")
        size = _size(path, location)
        offset, length = told.get("offset") or "0", told.get("length") or "0"
        plain = len(offset) < 20 and len(length) < 20 and offset.isdecimal() and length.isdecimal()
        if not plain or int(offset) + int(length) > size:
            message = f"tensor {tensor.name} lies outside its external data {location}"
            raise RefusedError(path.name, message, "fetch the files again: one is cut off or another one's")
        yield location


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    for graph in graphs(model):
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for entry in node.attribute:
                yield from (entry.t, *entry.tensors)
                for sparse in (entry.sparse_tensor, *entry.sparse_tensors):
                    yield from (sparse.values, sparse.indices)


def _size(path: Path, location: str) -> int:
    """Bytes of the regular file that `location` names below the model's folder.

    Raises:
        RefusedError: it is absolute, leads out of the folder or over a link, or is not there.
    """
    parts = PurePosixPath(location).parts
    hint = "keep the external data in the model's folder, as a file of its own (cp -L for links)"
    if not parts or location.startswith("/") or ".." in parts or "\\" in location or ":" in location:
        raise RefusedError(path.name, f"its external data lies elsewhere: {location or 'no place'}", hint)
    place = path.parent
    for part in parts:
        place = place / part
        try:
            status = place.lstat()
        except (OSError, ValueError) as error:
            message = f"its external data {location} is not there"
            raise RefusedError(path.name, message, "put it beside the model", "ARTIFACT_INCOMPLETE") from error
        if stat.S_ISLNK(status.st_mode):
            raise RefusedError(path.name, f"its external data {location} is a link", hint)
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(path.name, f"its external data {location} is no file", hint)
    return status.st_size


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()
