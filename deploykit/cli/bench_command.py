"""`deploykit bench`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from deploykit.cli import (
    choosing_options,
    gate_options,
    options,
    recipe_options,
    remote_options,
    scenario_options,
    tuning_options,
)


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
@remote_options.asking_by
@recipe_options.from_recipe("bench")
@options.common
def command(bundle: Path, json_to: str | None, quiet: bool, debug: bool, **given: Any) -> int:  # noqa: ARG001
    """Measure what passes verify in fresh, interleaved worker processes, next to eager, and recommend a variant."""
    from deploykit.pipeline.bench import bench
    from deploykit.pipeline.bench_url import bench_served
    from deploykit.report import text

    request = choosing_options.wishing(options.bench_request(bundle, given), given)
    request = scenario_options.loaded(request, given)
    request = replace(request, compiled=given["compiled"], profile=given["profile"])
    request = gate_options.gated(request, given)
    request = tuning_options.tuned(request, given)
    clients = remote_options.clients_of(given["clients"])
    given["clients"] = max(clients, default=None)
    names = options.names(given["variants"])
    remote = remote_options.request_of(bundle, given, remote_options.one_variant(names) if given["url"] else None, {})
    progress = options.progress_for(quiet=quiet)
    report = bench(request, progress) if remote is None else bench_served(request, remote, clients, progress)
    gate_options.publish(report, given)
    options.emit(report, text.render_bench(report), json_to)
    return report.exit_code
