"""The Open Inference Protocol v2 over HTTP, as Triton, KServe, MLServer and `deploykit serve` speak it.

Where they differ: KServe's SDK takes binary tensors (and FP16 only so) without naming the extension, and knows no
versions; MLServer takes JSON only; Triton's answers to questions about readiness have no body.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from deploykit import strict_json, wire
from deploykit.endpoint import TOLD_LIMIT, ModelFacts, ServerFacts, Wire, shown
from deploykit.errors import WorkError
from deploykit.http_client import Answer, HttpClient, checked, place_of
from deploykit.signature import Feeds, TensorSpec
from deploykit.wire_tensors import DTYPES

BINARY = "binary_tensor_data"
"""The extension's name in a server's metadata."""

_UNNAMED_BINARY = ("kserve",)
"""Servers that take binary tensors and do not say so."""

FINAL = (401, 403)
"""Statuses of a question whether a model is ready that no waiting changes; a model that is loading gets 400 or 503."""

_POLL_S = (0.02, 0.25)
"""First and longest pause between two questions whether a model is ready."""


class HttpEndpoint:
    """See `deploykit.endpoint.Endpoint`."""

    def __init__(
        self,
        url: str,
        model: str,
        version: str,
        how: Wire,
        timeout_s: float,
        headers: dict[str, str],
        max_answer: int,
    ) -> None:
        self.url, self.model = url, model
        self._client = HttpClient(place_of(url, ("http", "https")), timeout_s, headers, max_answer)
        self._path = f"/v2/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")
        self._binary = {"json": False, "binary": True}.get(how)

    def ready(self, timeout_s: float, reach_s: float | None = None) -> bool:
        """Wait until the model is ready to answer; False when it is not by then. 0 asks once."""
        return poll(self._is_ready, timeout_s, reach_s)

    def server(self) -> ServerFacts:
        """What the server tells of itself."""
        facts = self._asked("/v2")
        return ServerFacts(_text(facts, "name"), _text(facts, "version"), _texts(facts, "extensions"))

    def model_facts(self) -> ModelFacts:
        """What it tells of the model."""
        facts = self._asked(self._path)
        inputs, outputs = (tuple(self._specs(facts, key)) for key in ("inputs", "outputs"))
        return ModelFacts(_text(facts, "name"), _texts(facts, "versions"), _text(facts, "platform"), inputs, outputs)

    def infer(self, feeds: Feeds) -> Feeds:
        """All outputs of the model for `feeds`, by name."""
        message = wire.request(feeds, binary=self._takes_binary())
        answer = checked(self.raw(message.body, message.headers), self.url)
        return wire.parse_response(answer.headers, answer.body)

    def raw(self, body: bytes, headers: dict[str, str]) -> Answer:
        """Send these bytes as a request for an inference, and give whatever comes back."""
        return self._client.send("POST", f"{self._path}/infer", body, headers)

    def get(self, path: str) -> Answer:
        """Whatever the server answers to a plain GET."""
        return self._client.send("GET", path)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _is_ready(self, timeout_s: float) -> bool:
        answer = self._client.send("GET", f"{self._path}/ready", timeout_s=timeout_s)
        if answer.status == 404 and self._is_live(timeout_s):
            raise no_such_model(self.url, self.model)
        if answer.status in FINAL or 300 <= answer.status < 400:
            checked(answer, self.url)
        if answer.status != 200:
            return False
        try:
            told = strict_json.parse(answer.body) if answer.body.strip() else {}
        except (ValueError, RecursionError):
            return True
        return not isinstance(told, dict) or told.get("ready") is not False

    def _is_live(self, timeout_s: float) -> bool:
        """Whether the server itself is ready; one without that route is where it tells of itself."""
        status = self._client.send("GET", "/v2/health/ready", timeout_s=timeout_s).status
        return status == 200 or (status == 404 and self._client.send("GET", "/v2", timeout_s=timeout_s).status == 200)

    def _takes_binary(self) -> bool:
        """Whether tensors travel as bytes; asked once, and JSON where the server tells nothing of itself."""
        if self._binary is None:
            answer = self._client.send("GET", "/v2")
            facts = self.server() if answer.status == 200 else ServerFacts()
            self._binary = takes_binary(facts)
        return self._binary

    def _asked(self, path: str) -> dict[str, Any]:
        answer = checked(self._client.send("GET", path), self.url)
        try:
            facts = strict_json.parse(answer.body)
        except (ValueError, RecursionError) as error:
            raise self._bad(f"{path} is no valid JSON") from error
        if not isinstance(facts, dict):
            raise self._bad(f"{path} is no JSON object")
        return facts

    def _specs(self, facts: dict[str, Any], key: str) -> list[TensorSpec]:
        found = facts.get(key, [])
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise self._bad(f"its {key} are no list of objects")
        return [spec_of(str(one.get("name")), one.get("datatype"), one.get("shape"), self.url) for one in found]

    def _bad(self, message: str) -> WorkError:
        return WorkError(self.url, message, "does it speak the Open Inference Protocol v2?", "BAD_ANSWER")


def takes_binary(facts: ServerFacts) -> bool:
    """Whether a server says that it takes tensors as bytes, or is known to."""
    return BINARY in facts.extensions or facts.name.lower() in _UNNAMED_BINARY


def spec_of(name: str, datatype: object, shape: object, url: str) -> TensorSpec:
    """A tensor as a server's metadata describes it.

    Raises:
        WorkError: BAD_ANSWER.
    """
    dims = list(shape) if isinstance(shape, list | tuple) else None
    if dims is None or any(type(dim) is not int or dim < -1 for dim in dims):
        message = f"the shape that it tells of {shown(name)} is no list of dims"
        raise WorkError(url, message, "does it speak the Open Inference Protocol v2?", "BAD_ANSWER")
    told = str(datatype)[:TOLD_LIMIT]
    named = tuple(f"{name}.{axis}" if dim == -1 else dim for axis, dim in enumerate(dims))
    return TensorSpec(name, DTYPES.get(told, shown(told)), named)


def no_such_model(url: str, model: str) -> WorkError:
    """What a server that is ready says of a model that it does not have."""
    return WorkError(url, f"it has no model {model}", "name it as the server does with --model-name", "NOT_READY")


def poll(probe: Callable[[float], bool], timeout_s: float, reach_s: float | None = None) -> bool:
    """Ask until the answer is yes or the time is over.

    Args:
        probe: takes seconds that it may take.
        timeout_s: seconds for a server that answers.
        reach_s: seconds until anything answers at all; None is `timeout_s`.

    Raises:
        WorkError: of `probe`, but for those that time may heal.
    """
    began, pause = time.monotonic(), _POLL_S[0]
    deadline, reached_by = began + timeout_s, began + (timeout_s if reach_s is None else reach_s)
    while True:
        until = deadline
        try:
            if probe(max(1.0, deadline - time.monotonic())):
                return True
        except WorkError as error:
            if error.code not in _PASSING:
                raise
            until = reached_by if error.code == "SERVER_UNREACHABLE" else deadline
        if time.monotonic() + pause >= until:
            return False
        time.sleep(pause)
        pause = min(pause * 1.5, _POLL_S[1])


_PASSING = {"SERVER_UNREACHABLE", "TIME_LIMIT", "SERVER_ERROR"}
"""Errors of a server that is only starting."""


def _text(facts: dict[str, Any], key: str) -> str:
    value = facts.get(key)
    return shown(value) if isinstance(value, str) else ""


def _texts(facts: dict[str, Any], key: str) -> tuple[str, ...]:
    value = facts.get(key)
    return tuple(shown(str(one)) for one in value) if isinstance(value, list) else ()
