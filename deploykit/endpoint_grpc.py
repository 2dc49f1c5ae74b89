"""The Open Inference Protocol v2 over gRPC; needs the package grpcio."""

from __future__ import annotations

from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np

from deploykit import oip_messages
from deploykit.endpoint import ModelFacts, ServerFacts, shown
from deploykit.endpoint_http import FINAL, no_such_model, poll, spec_of
from deploykit.errors import UsageError, WorkError
from deploykit.http_client import Answer, checked, place_of
from deploykit.signature import Feeds
from deploykit.wire_tensors import DTYPES, datatype_of, from_bytes, from_numbers, raw

_HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""gRPC's status to HTTP's, by google/rpc/code.proto; the others are 500."""


class GrpcEndpoint:
    """See `deploykit.endpoint.Endpoint`. Several threads may share one: gRPC's channels allow that.

    Raises:
        UsageError: PACKAGE_MISSING, BAD_URL.
    """

    def __init__(
        self, url: str, model: str, version: str, timeout_s: float, headers: dict[str, str], max_answer: int
    ) -> None:
        self.url, self.model = url, model
        self._version, self._timeout_s = version, timeout_s
        place = place_of(url, ("grpc", "grpcs"))
        if place.path.strip("/"):
            raise UsageError(url, "gRPC knows no path", "write grpc://HOST:PORT", "BAD_URL")
        if find_spec("grpc") is None:
            hint = "pip install 'deploykit[grpc]', or use the server's HTTP port"
            raise UsageError(url, "the package grpcio is not installed", hint, "PACKAGE_MISSING")
        import grpc

        self._grpc: Any = grpc
        self._metadata = [(name.lower(), value) for name, value in headers.items()]
        options = [("grpc.max_receive_message_length", max_answer), ("grpc.max_send_message_length", -1)]
        target = place.netloc if place.port else f"{place.netloc}:8001"
        secure = place.scheme == "grpcs"
        self._channel = (
            grpc.secure_channel(target, grpc.ssl_channel_credentials(), options)
            if secure
            else grpc.insecure_channel(target, options)
        )

    def ready(self, timeout_s: float, reach_s: float | None = None) -> bool:
        """Wait until the model is ready to answer; False when it is not by then. 0 asks once."""
        return poll(self._is_ready, timeout_s, reach_s)

    def server(self) -> ServerFacts:
        """What the server tells of itself."""
        told = self._asked("ServerMetadata")
        return ServerFacts(shown(told.name), shown(told.version), tuple(map(shown, told.extensions)))

    def model_facts(self) -> ModelFacts:
        """What it tells of the model."""
        told = self._asked("ModelMetadata", name=self.model, version=self._version)
        inputs, outputs = (
            tuple(spec_of(one.name, one.datatype, list(one.shape), self.url) for one in side)
            for side in (told.inputs, told.outputs)
        )
        return ModelFacts(shown(told.name), tuple(map(shown, told.versions)), shown(told.platform), inputs, outputs)

    def infer(self, feeds: Feeds) -> Feeds:
        """All outputs of the model for `feeds`, by name."""
        asked = oip_messages.message("ModelInferRequest")(model_name=self.model, model_version=self._version)
        for name, array in feeds.items():
            asked.inputs.add(name=name, datatype=datatype_of(name, array), shape=array.shape)
            asked.raw_input_contents.append(raw(array))
        answer = checked(self.raw(asked.SerializeToString(), {}), self.url)
        told = self._parsed("ModelInferResponse", answer.body)
        try:
            return _outputs(told)
        except ValueError as error:
            raise WorkError(self.url, str(error), "see what the server logs", "BAD_ANSWER") from error

    def raw(self, body: bytes, headers: dict[str, str]) -> Answer:
        """Send these bytes as a `ModelInferRequest`, and give the answer's, with gRPC's status as HTTP's."""
        return self._call("ModelInfer", body, headers)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _is_ready(self, timeout_s: float) -> bool:
        asked = oip_messages.message("ModelReadyRequest")(name=self.model, version=self._version)
        answer = self._call("ModelReady", asked.SerializeToString(), {}, timeout_s)
        if answer.status == 404 and self._call("ServerMetadata", b"", {}, timeout_s).status == 200:
            raise no_such_model(self.url, self.model)
        if answer.status in FINAL:
            checked(answer, self.url)
        return answer.status == 200 and bool(self._parsed("ModelReadyResponse", answer.body).ready)

    def _asked(self, method: str, /, **fields: str) -> Any:
        body = oip_messages.message(f"{method}Request")(**fields).SerializeToString()
        return self._parsed(f"{method}Response", checked(self._call(method, body, {}), self.url).body)

    def _call(self, method: str, body: bytes, headers: dict[str, str], timeout_s: float | None = None) -> Answer:
        """One call, bytes in and out.

        Raises:
            WorkError: SERVER_UNREACHABLE, TIME_LIMIT, BAD_ANSWER.
        """
        call = self._channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        metadata = [*self._metadata, *((name.lower(), value) for name, value in headers.items())]
        try:
            return Answer(200, {}, call(body, timeout=timeout_s or self._timeout_s, metadata=metadata))
        except self._grpc.RpcError as error:
            status, said = error.code().name, " ".join((error.details() or "").split())
            if status == "UNAVAILABLE":
                message, hint = f"cannot be reached: {said[:200]}", "is the server running, and is this its gRPC port?"
                raise WorkError(self.url, message, hint, "SERVER_UNREACHABLE") from error
            if status == "DEADLINE_EXCEEDED":
                hint = "see what the server does, or allow more time"
                raise WorkError(self.url, "gave no whole answer in time", hint, "TIME_LIMIT") from error
            if status == "RESOURCE_EXHAUSTED" and "larger than max" in said and "Received" in said:
                raise WorkError(self.url, said[:200], "ask for less at a time", "BAD_ANSWER") from error
            return Answer(_HTTP.get(status, 500), {"grpc-status": status}, said.encode())

    def _parsed(self, name: str, body: bytes) -> Any:
        from google.protobuf.message import DecodeError

        try:
            return oip_messages.message(name).FromString(body)
        except DecodeError as error:
            raise WorkError(self.url, f"its answer is no {name}", "see what the server logs", "BAD_ANSWER") from error


def _outputs(told: Any) -> Feeds:
    """The arrays of a ModelInferResponse, whether they travel as bytes or as numbers.

    Raises:
        ValueError: a datatype, a size or a name is wrong.
    """
    as_bytes = list(told.raw_output_contents)
    if as_bytes and len(as_bytes) != len(told.outputs):
        raise ValueError(f"{len(as_bytes)} raw contents for {len(told.outputs)} outputs")
    found: Feeds = {}
    for index, output in enumerate(told.outputs):
        if output.datatype not in DTYPES:
            raise ValueError(f"output {output.name}: its datatype {shown(output.datatype)} is unknown")
        if output.name in found:
            raise ValueError(f"output {output.name[:80]} is there twice")
        found[output.name] = _array(output, as_bytes[index] if as_bytes else None)
    return found


def _array(output: Any, data: bytes | None) -> np.ndarray[Any, Any]:
    dtype, shape = DTYPES[output.datatype], tuple(output.shape)
    if any(dim < 0 for dim in shape):
        raise ValueError(f"output {output.name}: its shape {list(shape)} has a negative dim")
    if data is None:
        field = oip_messages.CONTENTS.get(dtype)
        values = list(getattr(output.contents, field)) if field else []
        if len(values) != prod(shape):
            raise ValueError(f"output {output.name}: {len(values)} values for the shape {list(shape)}")
        if dtype.startswith("float"):  # unlike JSON it has NaN and infinity
            return np.array(values, dtype).reshape(shape)
        return from_numbers(values, dtype).reshape(shape)
    if len(data) != prod(shape) * np.dtype(dtype).itemsize:
        raise ValueError(f"output {output.name}: {len(data)} bytes for {list(shape)} of {output.datatype}")
    return from_bytes(data, dtype).reshape(shape)
