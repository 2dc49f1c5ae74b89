"""`deploykit bench`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from deploykit.cli import choosing_options, gate_options, options, scenario_options, tuning_options


@click.command("bench")
@click.argument("bundle", type=Path)
@click.option("--variants", metavar="LIST", help="Comma-separated names. [default: all of the bundle]")
@click.option("--source", metavar="SOURCE", help="Builds eager where the bundle does not say it (python:...).")
@click.option("--seed", type=options.SEED, default=0, show_default=True, help="Of the order of measurement.")
@click.option("--trust-code", is_flag=True, help="Run TorchScript and .pt2 files that were made elsewhere.")
@click.option("--compile", "compiled", is_flag=True, help="Eager under torch.compile, too: compiles in every launch.")
@click.option("--profile", is_flag=True, help="Also say which operators take the time, by the engines' profilers.")
@options.measuring_options
@choosing_options.choosing
@tuning_options.tuning
@scenario_options.loading
@gate_options.gating
@options.common
def command(bundle: Path, json_to: str | None, quiet: bool, debug: bool, **given: Any) -> int:  # noqa: ARG001
    """Measure what passes verify in fresh, interleaved worker processes, next to eager, and recommend a variant."""
    from deploykit.pipeline.bench import bench
    from deploykit.report import text

    request = choosing_options.wishing(options.bench_request(bundle, given), given)
    request = scenario_options.loaded(request, given)
    request = replace(request, compiled=given["compiled"], profile=given["profile"])
    request = gate_options.gated(request, given)
    request = tuning_options.tuned(request, given)
    report = bench(request, options.progress_for(quiet=quiet))
    gate_options.publish(report, given)
    options.emit(report, text.render_bench(report), json_to)
    return report.exit_code
