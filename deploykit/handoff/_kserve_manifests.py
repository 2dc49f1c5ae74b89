"""What KServe's controller reads: an InferenceService, and the ServingRuntime that it names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

from deploykit.handoff.interface import Given

IMAGE, STORAGE = "${IMAGE}", "${STORAGE_URI}"
"""Places to fill in: what cannot be known here. Neither is a valid value: left as it is, the cluster refuses it."""

MOUNT = "/mnt/models"
"""Where KServe's storage initializer puts what `storageUri` names (kserve.model_repository.MODEL_MOUNT_DIRS)."""

PORTS = (8080, 8081)
"""The SDK's default ports for HTTP and gRPC; KServe routes to the container's first one."""

BASE_MIB, COPIES = 512, 3
"""Memory of the container: the server itself (180 MiB resident with a small model, and room for requests), and the
weights in the file, in the session, and prepacked for its kernels."""

LONGEST = 40
"""Of a Kubernetes label's 63 characters KServe needs some for its suffixes and the namespace in host names."""

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9./-]*")
_WORDS = {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}
"""What YAML 1.1 reads as something else than a text."""


def service(given: Given) -> str:
    """`inferenceservice.yaml` (serving.kserve.io/v1beta1)."""
    name = dns_name(given.model)
    model = {
        "modelFormat": {"name": "onnx"},
        "protocolVersion": "v2",
        "runtime": runtime_name(given),
        "storageUri": STORAGE,
        "resources": resources(given),
    }
    document = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": {"model": model}},
    }
    lines = (
        f"FILL IN {STORAGE}: where this folder's models/ was copied to, s3://BUCKET/PATH, gs://… or pvc://…",
        f"Clients ask for the model {given.model}.",
    )
    return _file(lines, document)


def runtime(given: Given) -> str:
    """`servingruntime.yaml` (serving.kserve.io/v1alpha1)."""
    container = {
        "name": "kserve-container",
        "image": IMAGE,
        "command": ["python", "/app/server.py"],
        "args": [f"--models_dir={MOUNT}", f"--http_port={PORTS[0]}", f"--grpc_port={PORTS[1]}"],
        "ports": [{"containerPort": PORTS[0], "protocol": "TCP"}],
        "readinessProbe": {
            "httpGet": {"path": f"/v2/models/{given.model}/ready", "port": PORTS[0]},
            "periodSeconds": 5,
        },
        "resources": resources(given),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
        },
    }
    document = {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": runtime_name(given)},
        "spec": {
            "supportedModelFormats": [{"name": "onnx", "version": "1", "autoSelect": False}],
            "protocolVersions": ["v2", "grpc-v2"],
            "multiModel": False,
            "containers": [container],
        },
    }
    lines = (
        f"FILL IN {IMAGE}: NAME@sha256:…, an image with Python, what requirements.txt pins, and in /app",
        "server.py, model.py and onnx_model.py of this folder.",
    )
    return _file(lines, document)


def dns_name(model: str) -> str:
    """A name that KServe takes for `model`: lower case, `a-z`, digits and hyphens, a letter first, at most 40 long."""
    name = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    name = name if name[:1].isalpha() else f"m-{name}".rstrip("-")
    return name[:LONGEST].rstrip("-")


def runtime_name(given: Given) -> str:
    """Of the ServingRuntime: beside others in the namespace."""
    return f"{dns_name(given.model)}-onnxruntime"


def resources(given: Given) -> dict[str, Any]:
    """Memory from the size of all versions, CPU from the threads of their sessions.

    Without a number of threads a session takes every core of the node that it sees: there is no CPU limit then, which
    would only have them wait for each other.
    """
    size = sum(path.stat().st_size for version in given.versions for path in version.files.values())
    memory = f"{BASE_MIB + 64 * ceil(COPIES * size / (64 << 20))}Mi"
    threads = [version.settings.threads for version in given.versions]
    asked = {"cpu": str(max(number or 1 for number in threads)), "memory": memory}
    limits = {"memory": memory} if None in threads else asked
    return {"requests": asked, "limits": dict(limits)}


def _file(lines: Sequence[str], document: Mapping[str, Any]) -> str:
    return "".join(f"# {line}\n" for line in lines) + "".join(f"{line}\n" for line in _mapping(document))


def _mapping(document: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a block mapping. Texts, numbers, booleans, mappings and lists are all that there is here."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield f"{key}:"
            yield from (f"  {line}" for line in _mapping(value))
        elif isinstance(value, list):
            yield f"{key}:"
            for item in value:
                yield from _item(item)
        else:
            yield f"{key}: {_scalar(value)}"


def _item(item: Any) -> Iterator[str]:
    if not isinstance(item, Mapping):
        yield f"  - {_scalar(item)}"
        return
    for index, line in enumerate(_mapping(item)):
        yield f"  {'- ' if index == 0 else '  '}{line}"


def _scalar(value: str | int | bool) -> str:
    """Texts in double quotes wherever YAML could take them for something else: JSON's quotes are YAML's."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value)
