"""What the tests of stacks that serve a handoff's `onnx_model.py` share: two versions, one wrong copy, and gRPC."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from deploykit import handed, registry
from deploykit.handoff._layout import lay
from tests.handoff import nets
from tests.servers.blocks import blocks, typed
from tests.servers.environments import ROOT, environment
from tests.servers.running import Server, clean_environment, free_port, running

EXAMPLES = ROOT / "examples" / "serving"
FIRST = "threads=2,graph_level=basic"
SECOND = "threads=1,graph_level=extended,spinning=off,arena=off"
"""Settings of the two versions."""

GRPC = """
import json, sys
import numpy
from deploykit import oip_messages
from deploykit.endpoint import connect
from deploykit.errors import WorkError
url, case = sys.argv[1:3]
with numpy.load(case) as arrays:
    x = arrays["inputs/x"]

def asked(feeds, version=""):
    endpoint = connect(url, "tiny", version=version)
    try:
        return {name: array.tolist() for name, array in endpoint.infer(feeds).items()}
    except WorkError as error:
        return f"{error.code} {error.message}"
    finally:
        endpoint.close()

def net():
    endpoint = connect(url, "net")
    tokens, mask = numpy.int64([[1, -2, 2**62], [6, 5, 4]]), numpy.array([True, False, True])
    answer = endpoint.infer({"tokens": tokens, "scale": numpy.float32(0.5), "mask": mask})
    return {name: [array.dtype.name, array.tolist()] for name, array in answer.items()}

def numbers(shape):
    message = oip_messages.message("ModelInferRequest")(model_name="tiny")
    sent = message.inputs.add(name="x", datatype="FP32", shape=shape)
    sent.contents.fp32_contents.extend(x.ravel().tolist())
    answer = connect(url, "tiny").raw(message.SerializeToString(), {})
    if answer.status != 200:
        return answer.status
    told = oip_messages.message("ModelInferResponse").FromString(answer.body)
    return [len(told.raw_output_contents), list(told.outputs[0].shape), list(told.outputs[0].contents.fp32_contents)]

endpoint = connect(url, "tiny")
facts = endpoint.model_facts()
print(json.dumps({
    "ready": endpoint.ready(5),
    "inputs": [[spec.name, spec.dtype, len(spec.shape)] for spec in facts.inputs],
    "latest": asked({"x": x}), "1": asked({"x": x}, "1"), "2": asked({"x": x}, "2"),
    "numbers": numbers(x.shape),
    "net": net(),
    "wrong": {
        "shape": asked({"x": x[:, :5]}), "rank": asked({"x": x[0]}), "dtype": asked({"x": x.astype("f8")}),
        "name": asked({"y": x}), "more": asked({"x": x, "y": x}), "nothing": asked({}), "version": asked({"x": x}, "9"),
        "too few": numbers([len(x) + 1, 6]),
    },
}))
"""


def walk(stack: str, bundle: Path, place: Path) -> Path:
    """Where a reader of the example stands after its first two blocks, twice: `handoff/STACK` with two versions.

    Returns:
        The folder.
    """
    shutil.copytree(bundle, place / "artifacts/mlp")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    block = blocks(EXAMPLES / stack / "README.md")[1]
    for more in (f"--session {FIRST}", f"--session {SECOND} --version 2"):
        done = typed(f"{block} {more}", place, {**os.environ, "PATH": path})
        assert done.returncode == 0, done.stderr
    return place / "handoff" / stack


def add_net(stack: str, folder: Path) -> None:
    """Add the model `net`, of several inputs and outputs, as the target writes it."""
    handed_over = nets.given(folder=folder.parent / "net", files=("net.onnx",))
    artifact = handed_over.latest.files["net.onnx"]
    artifact.parent.mkdir(parents=True)
    nets.build(artifact)
    tree = registry.load("handoff", stack)().files(handed_over)
    lay({path: content for path, content in tree.items() if path.startswith("models/")}, folder)


def spoil(version: Path) -> None:
    """Add 0.01 to the largest weight of the artifact in this folder."""
    artifact = version / "model.onnx"
    model = onnx.load(artifact)
    weight = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(0.01), weight.name))
    onnx.save(model, artifact)


class There:
    """A server that runs a folder's own start command.

    Args:
        stack: name of the pinned requirements.
        folder: the handoff.
        server: the running one.
        port: of HTTP.
        grpc: of gRPC.
    """

    def __init__(self, stack: str, folder: Path, server: Server, port: int, grpc: int) -> None:
        self.stack, self.folder, self.server, self.port, self.grpc = stack, folder, server, port, grpc
        self.url = f"http://127.0.0.1:{port}"
        self.env = shell(stack, port, grpc)

    def check(self, *more: str) -> subprocess.CompletedProcess[str]:
        """The README's own check, with more words."""
        command = blocks(self.folder / "README.md")[2]
        return typed(" ".join([command, *more]), self.folder, self.env)

    def post(self, body: Any, path: str = "/v2/models/tiny/infer", **headers: str) -> tuple[int, str]:
        """Status and text of the answer to a POST."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def over_grpc(self) -> dict[str, Any]:
        """What deploykit's client sees over gRPC; it runs in the stack's environment, which has grpcio."""
        argv = ["python", "-c", GRPC, f"grpc://127.0.0.1:{self.grpc}", str(self.folder / self.case()[0])]
        env = {**self.env, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def case(self) -> tuple[str, np.ndarray, np.ndarray, float]:
        """File, input, exact answer and limit of one case of the reference."""
        one = next(case for case in handed.load(self.folder).versions[-1].cases if case.id == "batch-3")
        with np.load(self.folder / one.file) as arrays:
            limit = one.limits["output"]
            assert limit is not None
            return one.file, arrays["inputs/x"], arrays["expected/output"], limit


def shell(stack: str, port: int, grpc: int) -> dict[str, str]:
    """A shell's environment in which `python` is the stack's."""
    path = f"{environment(stack)}{os.pathsep}{os.environ['PATH']}"
    return clean_environment(PATH=path, PORT=str(port), GRPC_PORT=str(grpc))


@contextmanager
def started(stack: str, folder: Path, log: Path, *, everywhere: bool) -> Iterator[There]:
    """The folder's own start command, on free ports; `everywhere`: it listens on all interfaces."""
    port, grpc = free_port(), free_port()

    def ready() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/tiny/ready", timeout=1) as answer:
            return bool(answer.status == 200)

    words = ["bash", "-euc", blocks(folder / "README.md")[1]]
    env = shell(stack, port, grpc)
    doors = [port, grpc] if everywhere else []
    with running(words, ready=ready, cwd=folder, log=log, env=env, timeout_s=90, own_network=doors) as server:
        yield There(stack, folder, server, port, grpc)


def rms(expected: np.ndarray, actual: Any) -> float:
    """Root mean square error."""
    return float(np.sqrt(np.mean((np.asarray(actual, np.float64) - expected) ** 2)))


def tensor(**changed: Any) -> dict[str, Any]:
    """One sound input of the tiny model, changed."""
    return {"name": "x", "datatype": "FP32", "shape": [2, 6], "data": [0.5] * 12} | changed


WRONG: dict[str, Any] = {
    "wide": {"inputs": [tensor(shape=[2, 7], data=[0.5] * 14)]},
    "rank": {"inputs": [tensor(shape=[12])]},
    "no rows": {"inputs": [tensor(shape=[0, 6], data=[])]},
    "negative": {"inputs": [tensor(shape=[-2, -6])]},
    "too few": {"inputs": [tensor(data=[0.5] * 11)]},
    "ragged": {"inputs": [tensor(data=[[0.5] * 6, [0.5] * 5])]},
    "nested otherwise": {"inputs": [tensor(data=[[0.5] * 4] * 3)]},
    "name": {"inputs": [tensor(name="y")]},
    "twice": {"inputs": [tensor(), tensor()]},
    "more": {"inputs": [tensor(), tensor(name="y")]},
    "nothing": {"inputs": []},
    "dtype": {"inputs": [tensor(datatype="FP64")]},
    "no dtype": {"inputs": [tensor(datatype="FLOAT")]},
    "texts": {"inputs": [tensor(data=["0.5"] * 12)]},
    "null": {"inputs": [tensor(data=[None] * 12)]},
    "booleans": {"inputs": [tensor(data=[True] * 12)]},
    "too large": {"inputs": [tensor(data=[1e300] * 12)]},
    "no data": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 6]}]},
    "output": {"inputs": [tensor()], "outputs": [{"name": "other"}]},
    "empty": {},
    "no object": [1],
    "no json": b"{",
}
"""Bodies that a client may send by mistake."""
