"""MLServer: a model repository with a small runtime class over onnxruntime."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from deploykit.handoff import _onnx_config
from deploykit.handoff.interface import Commands, Given, Speaks, Tree, Version

_HERE = Path(__file__).parent

SETTINGS = {"debug": False, "host": "127.0.0.1", "metrics_endpoint": None, "parallel_workers": 0}
"""Of the server. Ports are left to the environment, which loses to this file. No workers: sessions run in threads of
the server's process, where all requests share one pool and one copy of the weights."""

_NOTES = (
    "It listens on 127.0.0.1 only (`host` in `settings.json`), asks for no password, and "
    "`/v2/repository/models/NAME/unload` takes a model away: put a proxy that lets only `/v2/models/` through before "
    "it when others are to reach it.",
    "HTTP takes JSON tensors only, gRPC takes both forms; `PORT` and `GRPC_PORT` change the ports. "
    "`/v2/models/NAME/versions/N/infer` asks one version. NaN and infinity travel over gRPC only: MLServer writes both "
    "as `null` in JSON.",
    "`metrics_endpoint` is off in `settings.json` so that the server takes two ports and no more; `/metrics` there "
    "turns Prometheus metrics on, on port 8082. MLServer is for Python below 3.13.",
    "Two wrong requests fail in MLServer before the model sees them, and get a 500 instead of a 400: binary tensors "
    "over HTTP, and over gRPC raw bytes that do not fit the shape beside them.",
)


@dataclass(frozen=True)
class Target:
    """`mlserver start .` in the folder."""

    runtimes: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    speaks: ClassVar[Speaks] = "oip"
    stack: ClassVar[str] = "mlserver"
    summary: ClassVar[str] = "MLServer: a model repository with a runtime class over onnxruntime"
    proof: ClassVar[str] = (
        "For this target MLServer itself, on the CPU of one machine, answered the seed model's reference within its "
        "limits over JSON and gRPC, and refused wrong names, types and shapes; not tried: parallel workers, GPUs, "
        "Kubernetes."
    )

    def check(self, given: Given) -> None:
        """Refuse GPU settings and dtypes that are not in the protocol.

        Raises:
            RefusedError: TARGET_CANNOT_SERVE.
        """
        _onnx_config.check(given, self.stack)

    def files(self, given: Given) -> Tree:
        """The server's settings, the runtime class, and every version in `models/MODEL/NUMBER`."""
        tree: Tree = {
            "settings.json": json.dumps(SETTINGS, indent=2) + "\n",
            "onnx_runtime.py": _HERE / "_mlserver_runtime.py",
            "onnx_model.py": _HERE / "_onnx_model.py",
        }
        for version in given.versions:
            folder = f"models/{given.model}/{version.number}"
            tree[f"{folder}/model-settings.json"] = json.dumps(model_settings(given, version), indent=2) + "\n"
            tree |= {f"{folder}/{name}": path for name, path in version.files.items()}
        return tree

    def commands(self, given: Given) -> Commands:
        """pip, then MLServer's own command."""
        ports = "MLSERVER_HTTP_PORT=${PORT:-8080} MLSERVER_GRPC_PORT=${GRPC_PORT:-8081}"
        return Commands(
            install=("pip install --require-hashes -r requirements.txt",),
            start=f"{ports} mlserver start .",
            url="http://127.0.0.1:${PORT:-8080}",
            notes=(*_NOTES, *_onnx_config.notes(given)),
        )


def model_settings(given: Given, version: Version) -> dict[str, Any]:
    """`model-settings.json`: metadata for clients, and in `extra` what the folder's `onnx_model.py` reads."""
    known = _onnx_config.config(given, version)
    return {
        "name": given.model,
        "platform": "onnxruntime_onnx",
        "versions": [str(one.number) for one in given.versions],
        "implementation": "onnx_runtime.OnnxRuntime",
        "inputs": [_described(one) for one in known["inputs"]],
        "outputs": [_described(one) for one in known["outputs"]],
        "parameters": {"uri": f"./{version.artifact}", "version": str(version.number), "extra": known},
    }


def _described(tensor: dict[str, Any]) -> dict[str, Any]:
    """Metadata says -1 for a symbolic dim."""
    return {**tensor, "shape": [dim if isinstance(dim, int) else -1 for dim in tensor["shape"]]}
