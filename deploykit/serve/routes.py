"""What the embedded server answers: the protocol's routes, /metrics and /docs, and nothing else."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from deploykit.endpoint_http import BINARY
from deploykit.serve.head import Head, HttpFault
from deploykit.serve.metrics import Metrics
from deploykit.serve.model import VERSION, Model
from deploykit.serve.page import Page
from deploykit.serve.rules import Rules

JSON = ("Content-Type", "application/json")


@dataclass(frozen=True)
class Reply:
    """An answer, but for what the connection adds to it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True)
class Route:
    """Where a request goes: a word for the metrics, the methods it may have, and what answers it."""

    name: str
    methods: tuple[str, ...]
    answer: Callable[[Head, bytearray], Reply]


class Routes:
    """The routes of one model.

    Args:
        model: what answers.
        rules: hosts and token that a request must have.
        metrics: shown at /metrics.
        version: of this package.
    """

    def __init__(self, model: Model, rules: Rules, metrics: Metrics, version: str) -> None:
        self._model, self._rules = model, rules
        self._token = rules.token.encode()
        shown = Page(model.about, rules, version)
        told = {"name": "deploykit", "version": version, "extensions": [BINARY]}
        base = f"/v2/models/{model.about.name}"
        ready = {"name": model.about.name, "ready": True}
        fixed: dict[str, tuple[str, Any]] = {
            "/v2": ("metadata", told),
            "/v2/health/live": ("health", {"live": True}),
            "/v2/health/ready": ("health", {"ready": True}),
        }
        inferring = Route("infer", ("POST",), self._infer)
        self._routes = {"/metrics": _getting("metrics", _METRICS, metrics.render)}
        for place in (base, f"{base}/versions/{VERSION}"):
            fixed[place] = ("metadata", model.about.metadata)
            fixed[f"{place}/ready"] = ("health", ready)
            self._routes[f"{place}/infer"] = inferring
        for path, (name, data) in fixed.items():
            self._routes[path] = _getting(name, (JSON,), _always(json.dumps(data).encode()))
        self._routes["/docs"] = _getting("docs", shown.headers, _always(shown.body))

    def find(self, head: Head) -> Route:
        """The route of a request that may be answered; called before its body is read.

        Raises:
            HttpFault: 401, 403, 404, 405, 413, 421.
        """
        self._admit(head)
        route = self._routes.get(head.path.rstrip("/") or "/")
        if route is None:
            if head.path.startswith("/v2/models/"):
                said = f"there is no such model or route; the model is {self._model.about.name}"
                raise HttpFault(404, said, "NOT_FOUND")
            raise HttpFault(404, "there is nothing here; see /docs", "NOT_FOUND")
        if head.method not in route.methods:
            allowed = ", ".join(route.methods)
            raise HttpFault(405, f"this route takes {allowed}", "WRONG_METHOD", extra=(("Allow", allowed),))
        if head.length > self._rules.max_body:
            said = f"the body may have {self._rules.max_body} bytes, not {head.length}"
            raise HttpFault(413, said, "TOO_LARGE", closes=True)
        return route

    def _admit(self, head: Head) -> None:
        """A page of another site may reach a server on this machine through the browser: it gets nothing.

        Raises:
            HttpFault: 401, 403, 421.
        """
        hosts, host, origin = self._rules.hosts, head.headers.get("host"), head.headers.get("origin")
        if hosts and host is not None and _name(f"//{host}") not in hosts:
            raise HttpFault(421, "this server does not go by that name", "WRONG_HOST")
        if origin is not None and _place(origin) not in ({_place(f"http://{host}")} - {None}):
            raise HttpFault(403, "pages of other sites get no answer", "WRONG_ORIGIN")
        if self._token:
            scheme, _, given = head.headers.get("authorization", "").partition(" ")
            fits = hmac.compare_digest(given.strip().encode("latin-1"), self._token)
            if scheme.lower() != "bearer" or not fits:
                extra = (("WWW-Authenticate", "Bearer"),)
                raise HttpFault(401, "give the token: Authorization: Bearer …", "UNAUTHORIZED", extra=extra)

    def _infer(self, head: Head, body: bytearray) -> Reply:
        message = self._model.infer(head.headers, body)
        return Reply(200, tuple(message.headers.items()), message.body)


_METRICS = (("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),)


def failed(fault: HttpFault) -> Reply:
    """The answer to a request that gets none of the others, in the protocol's form."""
    body = json.dumps({"error": fault.said, "code": fault.code}).encode()
    return Reply(fault.status, (JSON, *fault.extra), body)


def _getting(name: str, headers: tuple[tuple[str, str], ...], content: Callable[[], bytes]) -> Route:
    return Route(name, ("GET", "HEAD"), lambda head, body: Reply(200, headers, content()))  # noqa: ARG005


def _always(body: bytes) -> Callable[[], bytes]:
    return lambda: body


def _place(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port, which are alike for the pages of one site; None for what is no URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    return parts.scheme, (parts.hostname or "").lower(), port if port is not None else 80


def _name(url: str) -> str:
    """The host of a URL without its port, lower case; empty for what is none."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""
