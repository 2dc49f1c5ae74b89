"""`deploykit train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploykit.cli import options
from deploykit.writing import check_file


@click.command("train")
@click.argument("model", default="mlp", type=click.Choice(["mlp"]))
@click.option("--output", "-o", type=Path, required=True, metavar="CHECKPOINT", help="Where the safetensors file goes.")
@click.option("--force", is_flag=True, help="Replace the checkpoint that is there.")
@click.option("--seed", type=options.SEED, default=0, show_default=True, help="Seeds weights, data split and order.")
@options.training_options
@options.common
def command(model: str, output: Path, force: bool, json_to: str | None, quiet: bool, debug: bool, **given: Any) -> int:  # noqa: ARG001
    """Train the seed model; prints the loss per epoch and the test accuracy.

    On several devices or processes: torchrun --nproc-per-node 2 -m deploykit train -o CHECKPOINT
    """
    from deploykit.errors import UsageError
    from deploykit.pipeline.train import train

    if output.exists() and not force:
        raise UsageError(str(output), "a file is there already", "replace it with --force", "EXISTS")
    check_file(output)
    record = train(options.train_request(given), output, None, options.progress_for(quiet=quiet))
    if record["rank"] == 0:
        options.emit(record, f"{record['summary']}\ncheckpoint: {output}", json_to)
    return 0
