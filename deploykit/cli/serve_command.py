"""`deploykit serve`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploykit.cli import options
from deploykit.tune_results import GOALS

if TYPE_CHECKING:
    from deploykit.pipeline.serve import Serving


@click.command("serve")
@click.argument("bundle", type=Path)
@click.option("--variant", metavar="NAME", help="[default: the one that bench recommended, else onnx]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Another address needs --allow-remote.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--model-name", "model", metavar="NAME", help="Name in the URLs. [default: the bundle's]")
@click.option(
    "--goal",
    type=click.Choice(GOALS),
    default="latency",
    show_default=True,
    help="Which settings of bench --tune the session opens with.",
)
@click.option("--session", default="", metavar="WORDS", help="Settings on top: threads=1,spinning=off; default.")
@click.option("--on", default="cpu", show_default=True, metavar="PROVIDER", help="cpu, cuda, or a full provider name.")
@click.option("--concurrency", type=click.IntRange(1, 256), help="Runs at a time. [default: cores / threads of a run]")
@click.option(
    "--drain", "drain_s", type=click.FloatRange(0, 3600), default=10.0, show_default=True, metavar="SECONDS",
    help="For the requests in flight when it is stopped.",
)  # fmt: skip
@click.option("--trust-code", is_flag=True, help="Serve TorchScript and .pt2 files that were made elsewhere.")
@click.option("--allow-remote", is_flag=True, help="Other machines may ask; needs --token-file.")
@click.option("--token-file", type=Path, metavar="FILE", help="Every request must carry this token.")
@click.option("--allow-unverified", is_flag=True, help="Serve what no stored report of verify passes.")
@options.common
def command(bundle: Path, json_to: str | None, quiet: bool, debug: bool, **given: Any) -> int:  # noqa: ARG001
    """Answer Open Inference Protocol requests with a variant of BUNDLE, for trying and testing.

    Prints the URL when it answers. SIGTERM or Ctrl-C lets the requests in flight end; a second one ends at once.
    """
    from deploykit import __version__
    from deploykit.pipeline.offering import ServeRequest
    from deploykit.pipeline.serve import serve
    from deploykit.session import provider_name
    from deploykit.writing import write_text

    def announce(told: Serving) -> None:
        line = json.dumps({"schema": 1, **asdict(told)}, ensure_ascii=False)
        if json_to == "-":
            click.echo(line)
            return
        click.echo(f"{told.url} answers as {told.model}: {told.variant} on {told.provider}; try {told.url}/docs")
        if json_to is not None:
            write_text(Path(json_to), line + "\n")

    request = ServeRequest(bundle, provider=provider_name(given.pop("on")), version=__version__, **given)
    return serve(request, options.progress_for(quiet=quiet), announce)
