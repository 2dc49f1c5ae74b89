"""Options of verify and bench that ask a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploykit.cli.options import F
from deploykit.errors import UsageError, from_os_error

if TYPE_CHECKING:
    from deploykit.pipeline.remote import RemoteRequest

MAX_CLIENTS = 256

MAX_WAIT_S = 3600.0


def asking(function: F) -> F:
    """Which server, and how it is asked; all but --url need --url."""
    clients = click.option("--clients", type=click.IntRange(1, MAX_CLIENTS), help="That ask at once. [default: 8]")
    return _asking(clients(function))


def asking_by(function: F) -> F:
    """The same, with several numbers of clients, one after the other."""
    said = "That ask at once, for example 1,4. [default: 1; 8 for --scenario server]"
    return _asking(click.option("--clients", metavar="LIST", help=said)(function))


def clients_of(text: str | None) -> tuple[int, ...]:
    """`1,4` as numbers, each once; none without a text.

    Raises:
        UsageError: BAD_CLIENTS.
    """
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and 0 < int(part) <= MAX_CLIENTS for part in parts):
        hint = f"1 to {MAX_CLIENTS}, for example --clients 1,4"
        raise UsageError(f"--clients {text}", "not a list of numbers of clients", hint, "BAD_CLIENTS")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _asking(function: F) -> F:
    for decorate in (
        click.option(
            "--wait",
            type=click.FloatRange(0, MAX_WAIT_S),
            metavar="SECONDS",
            help="For a server that does not answer yet. [default: 5]",
        ),
        click.option("--token-file", type=Path, metavar="FILE", help="Sent as Authorization: Bearer."),
        click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="Sent with every request."),
        click.option("--wire", type=click.Choice(["auto", "json", "binary"]), help="How tensors travel over HTTP."),
        click.option("--model-version", metavar="N", help="Its version there. [default: the server's choice]"),
        click.option("--model-name", metavar="NAME", help="The model on the server. [default: the bundle's name]"),
        click.option("--url", metavar="URL", help="Ask a running server: http://, grpc:// or mlflow+http://HOST:PORT."),
    ):
        function = decorate(function)
    return function


def request_of(
    bundle: Path, given: dict[str, Any], variant: str | None, limits: dict[str, float]
) -> RemoteRequest | None:
    """The request for a server; None without --url.

    Args:
        bundle: its path.
        given: the options.
        variant: what is served there.
        limits: changes to the budgets.

    Raises:
        UsageError: an option that only --url needs, or a malformed header.
        StorageError: the token cannot be read.
    """
    from deploykit.pipeline.remote import RemoteRequest
    from deploykit.session import provider_name

    own = {"--model-name": "model_name", "--model-version": "model_version", "--wire": "wire"}
    own |= {"--header": "headers", "--token-file": "token_file", "--clients": "clients"}
    own["--wait"] = "wait"
    if given["url"] is None:
        for option, name in own.items():
            if given[name] not in (None, ()):
                raise UsageError(option, "only --url needs it", "give --url http://HOST:PORT, or leave it out")
        return None
    return RemoteRequest(
        bundle,
        given["url"],
        variant,
        given["model_name"],
        given["model_version"] or "",
        provider_name(given["on"]),
        limits,
        given["wire"] or "auto",
        _headers(given["headers"], given["token_file"]),
        given["clients"] or RemoteRequest.clients,
        wait_s=RemoteRequest.wait_s if given["wait"] is None else given["wait"],
    )


def refuse(given: dict[str, Any], names: dict[str, str]) -> None:
    """Refuse options that a running server has no use for.

    Args:
        given: the options.
        names: option as it is typed, to its name in `given`.

    Raises:
        UsageError: one of them is given.
    """
    for option, name in names.items():
        if given[name]:
            raise UsageError(option, "does not go with --url", "leave one of the two out")


def one_variant(variants: tuple[str, ...] | None) -> str | None:
    """The variant that a server serves, for its budget.

    Raises:
        UsageError: several are named.
    """
    if variants is not None and len(variants) > 1:
        raise UsageError("--variants", "a server serves one of them", "name that one: --variants onnx")
    return variants[0] if variants else None


def _headers(texts: tuple[str, ...], token: Path | None) -> dict[str, str]:
    found = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip() or any(not c.isprintable() for c in text):
            raise UsageError(f"--header {name}", "is no header", "write NAME:VALUE", "BAD_HEADER")
        found[name.strip()] = value.strip()
    if token is not None:
        try:
            secret = token.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as error:
            raise UsageError(str(token), "is no text", "give a file that holds the token", "BAD_HEADER") from error
        except OSError as error:
            raise from_os_error(error, str(token)) from error
        if not secret.isascii() or not secret.isprintable():  # what is sent in a header, or its error would show it
            raise UsageError(str(token), "holds no token on one line", "give a file that holds the token", "BAD_HEADER")
        found["Authorization"] = f"Bearer {secret}"
    return found
