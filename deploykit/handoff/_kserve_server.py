"""Serve every version below `models/` with the KServe SDK's own server: HTTP and gRPC, Open Inference Protocol v2.

    python server.py [--models_dir models] [--http_port 8080] [--grpc_port 8081]

Further options are the SDK's: `python server.py --help`. It listens on all interfaces; the SDK has no switch for that.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from kserve import ModelServer
from kserve.errors import InferenceError, InvalidInput
from kserve.model_server import app, parser
from kserve.protocol.dataplane import DataPlane
from model import Version

HERE = Path(__file__).resolve().parent
VERSIONED = re.compile(r"(/v2/models/[^/@]+)/versions/([^/@]+)(/ready|/infer)?")


class Numbered:
    """Middleware: `/v2/models/M/versions/N` goes to `M@N`; the SDK answers 501 to any version."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Rewrite the path of an HTTP request, then hand it on."""
        if scope["type"] == "http" and (found := VERSIONED.fullmatch(scope["path"])):
            scope = {**scope, "path": f"{found[1]}@{found[2]}{found[3] or ''}"}
        await self._app(scope, receive, send)


class StrictDataPlane(DataPlane):  # type: ignore[misc]  # kserve is not installed where types are checked
    """The SDK's, with versions, and with 400 instead of 500 for a body that it cannot decode."""

    def decode_inference_request(self, body: Any, headers: Any, model_name: str) -> Any:
        """The request.

        Raises:
            InvalidInput: a field is missing or of another type, or the bytes do not fit their shape.
        """
        try:
            found = super().decode_inference_request(body, headers, model_name)
        except (AttributeError, InferenceError, IndexError, KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"this is no request for an inference: {error}") from error
        if not well_formed(found):
            raise InvalidInput("this is no request for an inference: a field is of another type")
        return found

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """The SDK's, with the versions that there are."""
        told = await super().model_metadata(model_name)
        name = self.get_model_from_registry(model_name).model
        numbers = [key.partition("@")[2] for key in self.model_registry.get_models() if key.startswith(f"{name}@")]
        return {**told, "name": name, "versions": sorted(numbers, key=int), "platform": "onnxruntime_onnx"}

    async def infer(self, model_name: str, request: Any, headers: Any = None) -> Any:
        """The SDK's; gRPC names the version in the request."""
        number = getattr(request, "model_version", None)
        return await super().infer(f"{model_name}@{number}" if number else model_name, request, headers)


def well_formed(found: Any) -> bool:
    """Whether the fields are of the protocol's types: beside binary tensors the SDK does not look."""
    outputs = found.request_outputs or []
    return (
        isinstance(found.id, str | None)
        and all(isinstance(one.parameters, dict | None) for one in (found, *found.inputs, *outputs))
        and all(isinstance(one.name, str) and isinstance(one.datatype, str) for one in found.inputs)
        and all(isinstance(one.name, str) for one in outputs)
        and all(isinstance(one.shape, list) and all(type(dim) is int for dim in one.shape) for one in found.inputs)
    )


def versions(models: Path) -> list[Version]:
    """All versions of all models, each model's in ascending order."""
    folders = [folder for folder in models.glob("*/*") if folder.name.isdecimal()]
    return [Version(folder) for folder in sorted(folders, key=lambda one: (one.parent.name, int(one.name)))]


def main() -> int:
    """See the module."""
    options = argparse.ArgumentParser(description=__doc__, parents=[parser], conflict_handler="resolve")
    options.add_argument("--models_dir", type=Path, default=HERE / "models", help="holds MODEL/NUMBER folders")
    given = options.parse_args()
    if given.workers != 1:
        options.error("--workers: one process holds the sessions; run several replicas instead")
    found = versions(given.models_dir)
    if not found:
        options.error(f"--models_dir: no MODEL/NUMBER folder in {given.models_dir}")
    server = ModelServer(http_port=given.http_port, grpc_port=given.grpc_port)
    server.dataplane = StrictDataPlane(model_registry=server.registered_models)
    app.add_middleware(Numbered)
    for version in found:  # ascending: the last one of a model is what clients get who name none
        server.register_model(version, version.model)
    server.start(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
