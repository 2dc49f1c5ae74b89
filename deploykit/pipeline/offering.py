"""What `deploykit serve` decides before anything starts: which variant, how it is opened, and where it listens."""

from __future__ import annotations

import errno
import ipaddress
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploykit.bundle import Bundle, VariantRecord
from deploykit.environment import usable_cores
from deploykit.errors import RefusedError, UsageError, WorkError, from_os_error
from deploykit.pipeline.shipping import check_trust, model_name, recommended, stored_report
from deploykit.serve.rules import Rules
from deploykit.session import CPU, SessionSettings
from deploykit.tune_results import Goal
from deploykit.tuned import USUAL, opened, parted, tuned_for
from deploykit.wire_tensors import DATATYPES

SHORTEST_TOKEN = 16
"""Characters; a shorter one can be guessed over a network."""

_BACKLOG = 512
"""Connections that the system keeps for the server while it is busy, or being replaced."""


@dataclass(frozen=True)
class ServeRequest:
    """What to serve, and where.

    Attributes:
        variant: None takes what the stored benchmark recommends, else `onnx`.
        port: 0 takes a free one.
        model: name in the URLs; None takes the bundle's.
        goal: which tuned settings the session opens with.
        session: settings on top, as for `bench --session`.
        provider: full execution provider name.
        concurrency: runs of the session at a time; None is as many as have cores of their own.
        drain_s: seconds for the requests in flight when it is stopped.
        trust_code: serve TorchScript and `.pt2` of a bundle that this machine did not make.
        allow_remote: listen on an address that other machines reach; needs a token.
        token_file: holds what a request's `Authorization: Bearer` must carry.
        allow_unverified: serve a variant that no stored report of verify passes.
        version: of deploykit, as the server tells it.
    """

    bundle: Path
    variant: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    model: str | None = None
    goal: Goal = USUAL
    session: str = ""
    provider: str = CPU
    concurrency: int | None = None
    drain_s: float = 10.0
    trust_code: bool = False
    allow_remote: bool = False
    token_file: Path | None = None
    allow_unverified: bool = False
    version: str = ""


@dataclass(frozen=True)
class Chosen:
    """What will be served, and why it is this variant."""

    record: VariantRecord
    artifact: Path
    model: str
    settings: SessionSettings
    rules: Rules
    choice: str


def choose(bundle: Bundle, request: ServeRequest) -> Chosen:
    """Variant, settings and limits.

    Raises:
        UsageError: UNKNOWN_VARIANT, BAD_SETTING, NO_DATATYPE, BAD_NAME; what concerns the address and the token.
        RefusedError: UNTRUSTED_CODE, NOT_VERIFIED.
    """
    record, choice = recommended(bundle)
    if request.variant is not None:
        bundle.file_of(request.variant)
        record, choice = bundle.manifest.variant(request.variant), "it was asked for"
    _check_datatypes(bundle)
    check_trust(bundle, record, trusted=request.trust_code)
    if not request.allow_unverified and (missing := _unverified(bundle, record.name, request.provider)):
        hint = "run deploykit verify on the bundle, or give --allow-unverified"
        raise RefusedError(record.name, missing, hint, "NOT_VERIFIED")
    settings = _settings(record, request)
    rules = Rules(
        concurrency=_concurrency(record, settings, request), hosts=_hosts(request), token=_token(request)
    )  # fmt: skip
    model = model_name(bundle, request.model)
    return Chosen(record, bundle.file_of(record.name).absolute(), model, settings, rules, choice)


@contextmanager
def listening(request: ServeRequest) -> Iterator[socket.socket]:
    """The socket that every child of the server accepts from.

    Raises:
        UsageError: BAD_HOST; REMOTE_REFUSED, others could reach it, and nobody allowed that or gave a token.
        WorkError: PORT_IN_USE, PORT_REFUSED.
    """
    place = f"{request.host}:{request.port}"
    try:
        found = socket.getaddrinfo(request.host, request.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {request.host}", "is no address of this machine", "127.0.0.1", "BAD_HOST") from error
    family, kind, protocol, _, address = found[0]
    _check_remote(request, str(address[0]))
    with socket.socket(family, kind, protocol) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                hint = "choose another --port, or 0 for a free one"
                raise WorkError(place, "something listens there already", hint, "PORT_IN_USE") from error
            reason = (error.strerror or str(error)).lower()
            raise WorkError(place, f"cannot listen there: {reason}", "choose another", "PORT_REFUSED") from error
        yield sock


def url_of(sock: socket.socket) -> str:
    """Where a listening socket is reached."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _unverified(bundle: Bundle, name: str, provider: str) -> str:
    """Why a variant counts as unverified; empty where the stored report of verify passes it on this provider."""
    found = stored_report(bundle, "verify.json").get("variants")
    entries = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    entry = next((one for one in entries if one.get("name") == name), None)
    if entry is None:
        return "the bundle holds no report of verify about it"
    if entry.get("verdict") != "pass":
        return f"verify said {entry.get('verdict')}"
    if entry.get("provider") != provider:
        return f"it was verified on {entry.get('provider')}, not on {provider}"
    return ""


def _check_datatypes(bundle: Bundle) -> None:
    signature = bundle.manifest.signature
    for spec in (*signature.inputs, *signature.outputs):
        if spec.dtype not in DATATYPES:
            hint = "the Open Inference Protocol carries booleans, integers and real numbers"
            raise UsageError(spec.name, f"{spec.dtype} has no datatype in the protocol", hint, "NO_DATATYPE")


def _settings(record: VariantRecord, request: ServeRequest) -> SessionSettings:
    """The tuned settings with those of the request on top.

    Where nothing was tuned, idle threads of the engine do not spin: a server waits most of the time, and they would
    take the cores that read and answer requests. With `default` among the words they do as the engine likes.
    """
    plain, words = parted(request.session)
    found = None if plain else tuned_for(record.tuned, request.provider, request.goal)
    start = SessionSettings(request.provider, spinning=plain or found is not None)
    return opened(found, start, usable_cores()).with_words(words)


def _concurrency(record: VariantRecord, settings: SessionSettings, request: ServeRequest) -> int:
    """Runs at a time: each has its intra-op threads, and more of them than cores only make every one slower.

    Only a plain ONNX Runtime session on the CPU may be run by several threads at once.

    Raises:
        UsageError: BAD_SETTING.
    """
    several = record.runtime == "onnxruntime" and settings.provider == CPU and not settings.binding
    if request.concurrency is None:
        return max(1, usable_cores() // (settings.threads or usable_cores())) if several else 1
    if request.concurrency > 1 and not several:
        message = f"a session of {record.runtime} on {settings.provider} with these settings answers one at a time"
        raise UsageError(f"--concurrency {request.concurrency}", message, "leave it out", "BAD_SETTING")
    return request.concurrency


def _check_remote(request: ServeRequest, address: str) -> None:
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return
    if not request.allow_remote or request.token_file is None:
        message = "other machines could send requests"
        hint = "use 127.0.0.1, or give --allow-remote with --token-file FILE"
        raise UsageError(f"--host {request.host}", message, hint, "REMOTE_REFUSED")


def _hosts(request: ServeRequest) -> tuple[str, ...]:
    """Names that requests may be for. Where a token is asked for, a page of another site cannot know it."""
    return () if request.allow_remote else tuple({"localhost", "127.0.0.1", "::1", request.host.lower()})


def _token(request: ServeRequest) -> str:
    """The token; empty where none is asked for.

    Raises:
        UsageError: BAD_TOKEN.
        DeploykitError: the file cannot be read.
    """
    if request.token_file is None:
        return ""
    subject = f"--token-file {request.token_file.name}"
    try:
        mode = request.token_file.stat().st_mode
        token = request.token_file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise UsageError(subject, "is no text", "write the token into it", "BAD_TOKEN") from error
    except OSError as error:
        raise from_os_error(error, subject) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(subject, "other users may read it", f"chmod 600 {request.token_file.name}", "BAD_TOKEN")
    if len(token) < SHORTEST_TOKEN or not all("!" <= c <= "~" for c in token):
        message = f"the token is no line of {SHORTEST_TOKEN} or more plain characters"
        raise UsageError(subject, message, "for example the output of: openssl rand -hex 24", "BAD_TOKEN")
    return token
