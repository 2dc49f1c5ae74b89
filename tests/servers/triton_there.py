"""What is asked of a Triton proof server, and the models beside the handed-over one: mixed types, other weights."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from deploykit import handed
from deploykit.bundle import VariantRecord
from deploykit.endpoint import connect
from deploykit.handoff import _triton_config
from deploykit.handoff.interface import Given, Version
from deploykit.signature import Dim, Signature, TensorSpec
from tests.servers.blocks import blocks, typed
from tests.servers.environments import environment
from tests.servers.running import Server, clean_environment

MIXED = Signature(
    (
        TensorSpec("ids", "int64", ("L", 2)),
        TensorSpec("mask", "bool", ("L",)),
        TensorSpec("scale", "int8", (3,)),
        TensorSpec("half", "float16", (1,)),
    ),
    (
        TensorSpec("doubled", "int64", ("L", 2)),
        TensorSpec("kept", "bool", ("L",)),
        TensorSpec("same", "int8", (3,)),
        TensorSpec("out.half", "float16", (1,)),
    ),
    (Dim("L", 1, 9),),
)


def mixed(repository: Path) -> None:
    """A model without a batch, of several types, with a symbolic dim, and the configuration that it gets."""
    types = {
        "int64": TensorProto.INT64,
        "bool": TensorProto.BOOL,
        "int8": TensorProto.INT8,
        "float16": TensorProto.FLOAT16,
    }
    sides = [
        [helper.make_tensor_value_info(spec.name, types[spec.dtype], spec.shape) for spec in specs]
        for specs in (MIXED.inputs, MIXED.outputs)
    ]
    nodes = [
        helper.make_node("Add", ["ids", "ids"], ["doubled"]),
        helper.make_node("Not", ["mask"], ["kept"]),
        helper.make_node("Identity", ["scale"], ["same"]),
        helper.make_node("Identity", ["half"], ["out.half"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "mixed", *sides), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    place = repository / "mixed"
    (place / "1").mkdir(parents=True)
    onnx.save(model, place / "1/model.onnx")
    record = VariantRecord(
        name="onnx",
        status="ready",
        made_by="onnx",
        precision="fp32",
        runtime="onnxruntime",
        file="variants/onnx/m.onnx",
    )
    given = Given("mixed", MIXED, (Version(1, record, {"m.onnx": place / "1/model.onnx"}),))
    (place / "config.pbtxt").write_text(_triton_config.render(given))


@dataclass(frozen=True)
class There:
    """The proof server, and the folder that it was derived from."""

    folder: Path
    server: Server
    port: int
    grpc: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def check(self, *more: str) -> subprocess.CompletedProcess[str]:
        """The folder's own check, with more words, in the environment of the stack."""
        path = f"{environment('triton')}{os.pathsep}{os.environ['PATH']}"
        block = blocks(self.folder / "README.md")[1]
        return typed(" ".join([block, *more]), self.folder, clean_environment(PATH=path, PORT=str(self.port)))

    def post(self, body: object, path: str = "tiny/infer") -> tuple[int, str]:
        """Status and text of the answer to a POST of JSON."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/v2/models/{path}", data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def answer(self, feeds: dict[str, np.ndarray], version: str = "", wire: str = "auto") -> dict[str, np.ndarray]:
        """What deploykit's client gets of `tiny`; `grpc` is a wire here."""
        url, way = (f"grpc://127.0.0.1:{self.grpc}", "auto") if wire == "grpc" else (self.url, wire)
        endpoint = connect(url, "tiny", version=version, wire=way)
        try:
            return endpoint.infer(feeds)
        finally:
            endpoint.close()

    def case(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Input, exact answer and limit of one case of the latest version's reference."""
        one = next(case for case in handed.load(self.folder).versions[-1].cases if case.id == "batch-3")
        with np.load(self.folder / one.file) as arrays:
            return arrays["inputs/x"], arrays["expected/output"], one.limits["output"]

    def statistics(self) -> dict[str, int]:
        """Rows and calls so far, of the latest version."""
        with urllib.request.urlopen(f"{self.url}/v2/models/tiny/versions/2/stats") as answer:
            found = json.loads(answer.read())["model_stats"][0]
        return {"rows": found["inference_count"], "calls": found["execution_count"]}


def rms(expected: np.ndarray, actual: np.ndarray) -> float:
    """Root mean square error."""
    return float(np.sqrt(np.mean((actual.astype(np.float64) - expected) ** 2)))


def tensor(**changed: object) -> dict[str, object]:
    """One sound input of the tiny model, changed."""
    return {"name": "x", "datatype": "FP32", "shape": [2, 6], "data": [0.5] * 12} | changed


def spoil(artifact: Path) -> None:
    """Add 0.01 to the largest weight."""
    model = onnx.load(artifact)
    weight = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(0.01), weight.name))
    onnx.save(model, artifact)
