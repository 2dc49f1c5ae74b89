"""KServe: the SDK's own model server over onnxruntime, and the manifests that have a cluster start it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from deploykit.handoff import _kserve_manifests, _onnx_config
from deploykit.handoff.interface import Commands, Given, Speaks, Tree

_HERE = Path(__file__).parent

CONFIG = "model.json"
"""Beside the artifact of every version: its file, its session's settings, its tensors."""

_NOTES = (
    "**The server listens on all interfaces**, HTTP and gRPC: the SDK has no switch for that. It asks for no password, "
    "and `/v2/repository/models/NAME/unload` takes a model away: on a machine that others reach, keep its ports behind "
    "a firewall or in a network namespace.",
    "HTTP takes JSON and binary tensors, gRPC takes both forms of tensors; `PORT` and `GRPC_PORT` change the ports. "
    "Over HTTP `/v2/models/NAME/versions/N/infer` asks one version, over gRPC `model_version` does; the SDK itself "
    "knows no versions, `server.py` adds them.",
    "On a cluster: build an image with `requirements.txt` installed and `server.py`, `model.py` and `onnx_model.py` in "
    "`/app`, copy `models/` to a storage that KServe reads, then `IMAGE=NAME@sha256:… STORAGE_URI=s3://… envsubst < "
    "FILE | kubectl apply -f -` for `servingruntime.yaml` and `inferenceservice.yaml`. Neither an image nor a cluster "
    "was tried: what is proven of the two files is that every key and type is one that the SDK's own classes know. Set "
    "`resources` to what `deploykit bench` measured; they are an estimate from the file's size.",
)


@dataclass(frozen=True)
class Target:
    """`python server.py` on one machine; InferenceService and ServingRuntime for a cluster."""

    runtimes: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    speaks: ClassVar[Speaks] = "oip"
    stack: ClassVar[str] = "kserve"
    summary: ClassVar[str] = "KServe: its Python SDK's server over onnxruntime, and manifests for a cluster"
    proof: ClassVar[str] = (
        "For this target the KServe SDK's own server, on the CPU of one machine, answered the seed model's reference "
        "within its limits over JSON, binary and gRPC, and refused wrong names, types and shapes; not tried: a "
        "Kubernetes cluster, container images, GPUs."
    )

    def check(self, given: Given) -> None:
        """Refuse GPU settings, dtypes that are not in the protocol, and float16, which the SDK refuses in JSON.

        Raises:
            RefusedError: TARGET_CANNOT_SERVE.
        """
        _onnx_config.check(given, self.stack)
        for spec in (*given.signature.inputs, *given.signature.outputs):
            if spec.dtype == "float16":
                message = f"{spec.name} is float16, which the SDK refuses in JSON"
                raise _onnx_config.refused(given.model, message, "keep inputs and outputs float32, or --to mlserver")

    def files(self, given: Given) -> Tree:
        """The server, the manifests, and every version in `models/MODEL/NUMBER`."""
        tree: Tree = {
            "server.py": _HERE / "_kserve_server.py",
            "model.py": _HERE / "_kserve_model.py",
            "onnx_model.py": _HERE / "_onnx_model.py",
            "inferenceservice.yaml": _kserve_manifests.service(given),
            "servingruntime.yaml": _kserve_manifests.runtime(given),
        }
        for version in given.versions:
            folder = f"models/{given.model}/{version.number}"
            known = {"artifact": version.artifact, **_onnx_config.config(given, version)}
            tree[f"{folder}/{CONFIG}"] = json.dumps(known, indent=2) + "\n"
            tree |= {f"{folder}/{name}": path for name, path in version.files.items()}
        return tree

    def commands(self, given: Given) -> Commands:
        """pip, then the folder's own `server.py`."""
        return Commands(
            install=("pip install --require-hashes -r requirements.txt",),
            start="python server.py --http_port ${PORT:-8080} --grpc_port ${GRPC_PORT:-8081}",
            url="http://127.0.0.1:${PORT:-8080}",
            notes=(*_NOTES, *_onnx_config.notes(given)),
        )
