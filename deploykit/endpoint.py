"""The client side of a running inference server: one face, whichever protocol it speaks.

`http://` and `https://` speak the Open Inference Protocol v2 over HTTP, `grpc://` and `grpcs://` over gRPC;
`mlflow+http://` and `mlflow+https://` speak MLflow's own scoring protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from deploykit.errors import UsageError, escape
from deploykit.http_client import MAX_ANSWER, Answer
from deploykit.signature import Feeds, TensorSpec

Wire: TypeAlias = Literal["auto", "json", "binary"]
"""How tensors travel; `auto` asks the server what it takes."""

SCHEMES = ("http", "https", "grpc", "grpcs", "mlflow+http", "mlflow+https")

TIMEOUT_S = 30.0
"""Wall time for one answer unless the caller knows better."""


TOLD_LIMIT = 80
"""Printable characters of a text that a server tells of itself."""


def shown(text: str) -> str:
    """A server's text as reports may show it: printable, and no longer than `TOLD_LIMIT` characters."""
    return escape(text[: 4 * TOLD_LIMIT], TOLD_LIMIT)


@dataclass(frozen=True)
class ServerFacts:
    """What a server tells of itself, each text as `shown` gives it; empty where it tells nothing."""

    name: str = ""
    version: str = ""
    extensions: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFacts:
    """What a server tells of its model. A dim of any size (-1) is symbolic, named `TENSOR.AXIS`.

    Names of tensors are exact, for they are sent back; all other texts are as `shown` gives them.
    """

    name: str
    versions: tuple[str, ...] = ()
    platform: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


class Endpoint(Protocol):
    """One model of one server. It keeps one connection, for one thread at a time: make one endpoint per thread.

    Attributes:
        url: of the server, as it was given.
        model: its name there.
    """

    url: str
    model: str

    def ready(self, timeout_s: float, reach_s: float | None = None) -> bool:
        """Wait until the model is ready to answer; False when it is not by then. 0 asks once.

        Args:
            timeout_s: seconds for a server that answers.
            reach_s: seconds until anything answers at all; None is `timeout_s`.

        Raises:
            WorkError: what no waiting changes: BAD_ANSWER, REQUEST_REFUSED, and NOT_READY where a server that is
                ready itself has no such model.
        """

    def server(self) -> ServerFacts:
        """What the server tells of itself.

        Raises:
            WorkError: as `infer`.
        """

    def model_facts(self) -> ModelFacts:
        """What it tells of the model.

        Raises:
            WorkError: as `infer`.
        """

    def infer(self, feeds: Feeds) -> Feeds:
        """All outputs of the model for `feeds`, by name.

        Raises:
            UsageError: NOT_IN_JSON, a value is not finite and tensors travel as JSON; NO_DATATYPE.
            WorkError: SERVER_UNREACHABLE, TIME_LIMIT; SERVER_ERROR and REQUEST_REFUSED with the server's own words;
                BAD_ANSWER.
        """

    def raw(self, body: bytes, headers: dict[str, str]) -> Answer:
        """Send these bytes as a request for an inference, and give whatever comes back: for wrong ones.

        Raises:
            WorkError: SERVER_UNREACHABLE, TIME_LIMIT, BAD_ANSWER.
        """

    def close(self) -> None:
        """Close the connection."""


def connect(
    url: str,
    model: str,
    *,
    version: str = "",
    wire: Wire = "auto",
    timeout_s: float = TIMEOUT_S,
    headers: dict[str, str] | None = None,
    outputs: Sequence[TensorSpec] = (),
    max_answer: int = MAX_ANSWER,
) -> Endpoint:
    """An endpoint; nothing is sent yet.

    Args:
        url: of the server, perhaps with a path before `/v2`.
        model: its name there.
        version: of the model; empty leaves the choice to the server.
        wire: how tensors travel over HTTP; gRPC always takes bytes, MLflow always JSON.
        timeout_s: wall time for one answer.
        headers: sent with every request, `Authorization` for example; metadata where that is gRPC.
        outputs: dtypes and names for protocols whose answers do not declare them (MLflow).
        max_answer: bytes of the longest answer that is taken.

    Raises:
        UsageError: BAD_URL; PACKAGE_MISSING, gRPC without grpcio.
    """
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        hint = f"write one of {', '.join(f'{one}://' for one in SCHEMES)} before HOST:PORT"
        raise UsageError(url, "is no URL of an inference server", hint, "BAD_URL")
    if scheme.startswith("grpc"):
        from deploykit.endpoint_grpc import GrpcEndpoint

        return GrpcEndpoint(url, model, version, timeout_s, headers or {}, max_answer)
    if scheme.startswith("mlflow"):
        from deploykit.endpoint_mlflow import MlflowEndpoint

        return MlflowEndpoint(url, model, tuple(outputs), timeout_s, headers or {}, max_answer)
    from deploykit.endpoint_http import HttpEndpoint

    return HttpEndpoint(url, model, version, wire, timeout_s, headers or {}, max_answer)
