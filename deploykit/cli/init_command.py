"""`deploykit init`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from deploykit.cli import options


@click.command("init")
@click.argument("source", default="mlp")
@click.option("--output", "-o", type=Path, default="deploykit.toml", show_default=True, metavar="FILE")
@click.option("--bundle", type=Path, metavar="BUNDLE", help="Where the bundle will go. [default: artifacts/NAME]")
@click.option("--force", is_flag=True, help="Replace the file that is there.")
@click.option("--checkpoint", metavar="FILE", help="Weights: safetensors, or a state-dict .pt.")
@click.option("--input", "inputs", multiple=True, metavar="NAME:DTYPE[dims]", help="An input; a name is symbolic.")
@click.option("--preprocess", default="", metavar="STEPS", help="Of raw images: imagenet, mean=…, recorded:STEPS.")
@click.option("--trust-code", is_flag=True, help="Open a SOURCE file that can run code: exported, torchscript.")
@click.option("--samples", type=Path, metavar="FILE.npz", help="Real inputs; 'labels' where there are any.")
@click.option("--variants", default="core", show_default=True, help="core, all, or a comma-separated list.")
@click.option("--target", "release", metavar="NAME:RELEASE", help="Must load in it: triton:24.10, ort:1.15.")
@click.option("--seed", type=options.SEED, default=0, show_default=True, help="Seeds weights, training and inputs.")
@options.common
def command(source: str, output: Path, json_to: str | None, quiet: bool, debug: bool, **given: Any) -> int:  # noqa: ARG001
    """Write a recipe for SOURCE, with the inputs that the loaded model has and a comment on each line.

    The model is loaded, as an export would. Replay the recipe with: deploykit run --recipe FILE
    """
    from deploykit import releases
    from deploykit.errors import UsageError
    from deploykit.pipeline.init import InitRequest, init

    spec = options.source_of(source, given["checkpoint"], given["inputs"], given["seed"], given["preprocess"])
    spec = replace(spec, trust_code=given["trust_code"])
    samples, release = given["samples"], given["release"]
    if samples is not None and not samples.is_file():
        raise UsageError(str(samples), "no such samples file", "check the path", "NOT_FOUND")
    if release is not None:
        releases.parse(release)
    request = InitRequest(spec, output, given["variants"], samples, release, given["bundle"], given["force"])
    report = init(request, options.progress_for(quiet=quiet))
    inputs = "\n".join(f"  in   {text}" for text in report.inputs)
    outputs = "\n".join(f"  out  {text}" for text in report.outputs)
    text = f"wrote {report.path} for {report.source}\n{inputs}\n{outputs}\nnext: deploykit run --recipe {report.path}"
    options.emit(report, text, json_to)
    return report.exit_code
