"""`deploykit handoff`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploykit.cli import options


@click.command("handoff")
@click.argument("bundle", type=Path)
@click.option(
    "--to", "target", required=True, metavar="TARGET", help="triton, kserve, mlserver, ray-serve, mlflow, web."
)
@click.option("--output", "-o", type=Path, required=True, metavar="DIR", help="The folder that is written.")
@click.option("--target", "release", metavar="NAME:RELEASE", help="What will load it: triton:24.10, ort:1.15.")
@click.option("--variant", metavar="NAME", help="[default: the one that bench recommended, else onnx]")
@click.option("--model-name", "model", metavar="NAME", help="Name on the server. [default: the bundle's]")
@click.option("--version", type=click.IntRange(1, 2**31 - 1), default=1, show_default=True, help="Others there stay.")
@click.option(
    "--goal",
    type=click.Choice(["latency", "throughput", "memory"]),
    default="latency",
    show_default=True,
    help="Which settings of bench --tune sessions open with.",
)
@click.option("--session", default="", metavar="WORDS", help="Settings on top: threads=1,spinning=off; default.")
@click.option("--on", default="cpu", show_default=True, metavar="PROVIDER", help="cpu, cuda, or a full provider name.")
@click.option("--trust-code", is_flag=True, help="Hand over TorchScript that was made elsewhere.")
@click.option("--allow-unverified", is_flag=True, help="Do not ask the gate, and say so in the record.")
@click.option("--preflight", type=Path, metavar="PYTHON", help="Try it in this Python's onnxruntime, too.")
@click.option("--force", is_flag=True, help="Replace the version or the folder that is there.")
@options.common
def command(bundle: Path, json_to: str | None, quiet: bool, debug: bool, **given: Any) -> int:  # noqa: ARG001
    """Write the folder that a serving stack takes as it is: model, configuration, reference, commands.

    The variant passes the parity gate with the settings that are shipped, or nothing is written.
    """
    from deploykit import releases
    from deploykit.pipeline.handoff import HandoffRequest, handoff
    from deploykit.report import handed
    from deploykit.session import provider_name

    named = given.pop("release")
    given["release"] = releases.parse(named) if named is not None else None
    request = HandoffRequest(bundle, provider=provider_name(given.pop("on")), **given)
    report = handoff(request, options.progress_for(quiet=quiet))
    options.emit(report, handed.render(report), json_to)
    return report.exit_code
