"""Options that several commands share, and how results leave the process."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deploykit.errors import UsageError
from deploykit.model import SourceSpec
from deploykit.progress import Progress, Silent
from deploykit.results import to_json
from deploykit.signature import MAX_DIM
from deploykit.writing import check_file, write_text

if TYPE_CHECKING:
    from deploykit.pipeline.bench import BenchRequest
    from deploykit.pipeline.export import ExportRequest
    from deploykit.pipeline.train import TrainRequest
    from deploykit.pipeline.verify import VerifyRequest

SEED = click.IntRange(0, 2**32 - 1)
"""What torch, numpy and scikit-learn all take."""

F = TypeVar("F", bound=Callable[..., Any])


def common(function: F) -> F:
    """`--json`, `--quiet`, `--debug`."""
    function = click.option("--debug", is_flag=True, help="Show tracebacks and the logs of child processes.")(function)
    function = click.option("--quiet", "-q", is_flag=True, help="No progress.")(function)
    said = "Write the result as JSON; - is stdout."
    return click.option("--json", "json_to", metavar="FILE|-", callback=writable, help=said)(function)


def writable(ctx: click.Context, param: click.Parameter, value: Any) -> Any:  # noqa: ARG001
    """Callback of an option that names a file: that it cannot be written is said before the work, not after it.

    Raises:
        DeploykitError: it cannot be written.
    """
    if value not in {None, "-"}:
        check_file(Path(value))
    return value


def source_options(function: F) -> F:
    """SOURCE and what belongs to it."""
    for decorate in (
        click.option("--seed", type=SEED, default=0, show_default=True, help="Seeds weights, training and inputs."),
        click.option("--variants", default="core", show_default=True, help="core, all, or a comma-separated list."),
        click.option("--samples", type=Path, metavar="FILE.npz", help="Real inputs; 'labels' where there are any."),
        click.option(
            "--input", "inputs", multiple=True, metavar="NAME:DTYPE[dims]", help="An input; a name is a symbolic dim."
        ),
        click.option(
            "--preprocess", default="", metavar="STEPS", help="Of raw images: imagenet, mean=…,size=…, recorded:STEPS."
        ),
        click.option("--trust-code", is_flag=True, help="Open a SOURCE file that can run code: exported, torchscript."),
        click.option("--checkpoint", metavar="FILE", help="Weights: safetensors, or a state-dict .pt."),
        click.option(
            "--keep-float-target", type=float, metavar="DB", help="What auto aims at. [default: no more warning]"
        ),
        click.option("--keep-float", metavar="auto|NODES", help="Nodes that reduced precision leaves in float."),
        click.option("--target", "release", metavar="NAME:RELEASE", help="Must load in it: triton:24.10, ort:1.15."),
        click.option("--force", is_flag=True, help="Replace the bundle that is there."),
        click.option(
            "--output", "-o", type=Path, metavar="BUNDLE", help="Where the bundle goes. [default: artifacts/NAME]"
        ),
        click.argument("source", default="mlp"),
    ):
        function = decorate(function)
    return function


def training_options(function: F) -> F:
    """How the seed model is trained."""
    for decorate in (
        click.option(
            "--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate. [default: the optimizer's]"
        ),
        click.option("--optimizer", type=click.Choice(["sgd", "adam", "rmsprop"]), default="sgd", show_default=True),
        click.option("--epochs", type=click.IntRange(min=1), help="Passes over the data. [default: the data's]"),
        click.option("--download", is_flag=True, help="Fetch MNIST if it is not there."),
        click.option("--data-root", default="data", show_default=True, help="Where MNIST lies."),
        click.option("--data", type=click.Choice(["digits", "mnist"]), default="digits", show_default=True),
    ):
        function = decorate(function)
    return function


def measuring_options(function: F) -> F:
    """How latency is measured."""
    for decorate in (
        click.option("--quick", is_flag=True, help="Three short launches instead of ten: indicative, no gate."),
        click.option("--threads", type=click.IntRange(1, 1024), help="Intra-op threads. [default: all usable cores]"),
        click.option(
            "--batch", default="1", show_default=True, metavar="LIST", help="Batch sizes, for example 1,8,64."
        ),
        click.option(
            "--on", default="cpu", show_default=True, metavar="PROVIDER", help="cpu, cuda, or a full provider name."
        ),
    ):
        function = decorate(function)
    return function


def train_request(given: dict[str, Any]) -> TrainRequest:
    """The training options as a request.

    Raises:
        UsageError: the learning rate is no number.
    """
    from deploykit.pipeline.train import TrainRequest

    if given["lr"] is not None and not math.isfinite(given["lr"]):
        raise UsageError(f"--lr {given['lr']}", "not a finite number", "for example --lr 0.01", "BAD_LR")
    return TrainRequest(
        given["data"],
        given["data_root"],
        given["download"],
        given["epochs"],
        given["optimizer"],
        given["lr"],
        given["seed"],
    )


def export_request(source: str, output: Path | None, given: dict[str, Any]) -> ExportRequest:
    """SOURCE and its options as a request.

    Raises:
        UsageError: an unknown source, variant or missing file, before anything starts.
    """
    from deploykit import plan, releases
    from deploykit.pipeline.export import ExportRequest
    from deploykit.pipeline.keep_float import Wanted

    spec = source_of(source, given["checkpoint"], given["inputs"], given["seed"], given.get("preprocess", ""))
    spec = replace(spec, trust_code=given.get("trust_code", False))
    plan.select(given["variants"])
    samples = given["samples"]
    if samples is not None and not samples.is_file():
        raise UsageError(str(samples), "no such samples file", "check the path", "NOT_FOUND")
    target = output or Path("artifacts") / spec.name
    recipe = given.get("recipe")
    return ExportRequest(
        spec,
        target,
        given["variants"],
        samples,
        given["force"],
        train_request(given),
        options={name: dict(values) for name, values in recipe.options.items()} if recipe is not None else {},
        keep_float=Wanted.parse(given["keep_float"], given["keep_float_target"]),
        release=releases.parse(given["release"]) if given["release"] is not None else None,
        reuse=given.get("reuse", True),
    )


def verify_request(bundle: Path, given: dict[str, Any]) -> VerifyRequest:
    """The options of verify as a request.

    Raises:
        UsageError: options that do not go together, an unknown provider, or something that is no limit.
    """
    from deploykit.pipeline.verify import VerifyRequest
    from deploykit.session import provider_name

    artifact, variants, precision = given["artifact"], given["variants"], given["precision"]
    if artifact is not None and variants is not None:
        raise UsageError("--variants", "does not go with --artifact", "give one of the two")
    if artifact is None and precision is not None:
        raise UsageError("--precision", "only --artifact needs it", "leave it out, or give --artifact FILE")
    return VerifyRequest(
        bundle,
        names(variants),
        provider_name(given["on"]),
        given["trust_code"],
        limits_given(given),
        artifact,
        precision or "fp32",
        os.environ.get("CI", "").lower() in {"1", "true"} if given["self_check"] is None else given["self_check"],
        given["reproducers"],
    )


def bench_request(bundle: Path, given: dict[str, Any]) -> BenchRequest:
    """The measuring options as a request.

    Raises:
        UsageError: a batch size is no positive number, or the provider is unknown.
    """
    from deploykit.pipeline.bench import BenchRequest
    from deploykit.session import provider_name

    own_source, recipe = given.get("source"), given.get("recipe")
    return BenchRequest(
        bundle,
        names(given["variants"]) if "samples" not in given else None,  # run's own variants are those to make
        provider_name(given["on"]),
        _batches(given["batch"]),
        given["threads"],
        given["quick"],
        given["seed"],
        given.get("trust_code", False),
        replace(source_of(own_source, None, (), given["seed"]), trust_code=given.get("trust_code", False))
        if own_source
        else None,
        limits=dict(recipe.budget) if recipe is not None else {},
    )


def _batches(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= MAX_DIM for part in parts):
        raise UsageError(f"--batch {text}", "not a list of positive numbers", "for example --batch 1,8,64", "BAD_BATCH")
    return tuple(dict.fromkeys(int(part) for part in parts))


def names(text: str | None) -> tuple[str, ...] | None:
    """A comma-separated list; None stays None.

    Raises:
        UsageError: the list is empty.
    """
    if text is None:
        return None
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise UsageError("--variants", "no variant is named", "give names separated by commas", "UNKNOWN_VARIANT")
    return found


def limits_of(texts: tuple[str, ...]) -> dict[str, float]:
    """`budget.max_r=6` texts as limits.

    Raises:
        UsageError: another form, or no finite number.
    """
    limits = {}
    for text in texts:
        key, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not key.startswith("budget.") or not math.isfinite(number):
            raise UsageError(
                f"--set {text}", "not a limit", "write budget.KEY=NUMBER, for example budget.max_r=6", "BAD_LIMIT"
            )
        limits[key.removeprefix("budget.")] = number
    return limits


def limits_given(given: dict[str, Any]) -> dict[str, float]:
    """The budgets of the recipe, with those of `--set` on top.

    Raises:
        UsageError: BAD_LIMIT.
    """
    recipe = given.get("recipe")
    return {**(recipe.budget if recipe is not None else {}), **limits_of(given["limits"])}


def source_of(
    source: str, checkpoint: str | None, inputs: tuple[str, ...], seed: int, preprocess: str = ""
) -> SourceSpec:
    """The parsed SOURCE; checked before any child starts.

    Raises:
        UsageError: an unknown kind, a missing checkpoint, a malformed input, or preprocessing that is none.
    """
    from deploykit import preprocessing, registry
    from deploykit.signature import parse_input

    spec = SourceSpec.parse(source, checkpoint=checkpoint, inputs=inputs, seed=seed, preprocess=preprocess)
    preprocessing.parse(preprocess)
    registry.load("sources", spec.kind)
    for text in inputs:
        parse_input(text)
    if checkpoint is not None and not Path(checkpoint).is_file():
        raise UsageError(checkpoint, "no such checkpoint", "check the path", "NOT_FOUND")
    return spec


def progress_for(*, quiet: bool) -> Progress:
    """Progress on stderr: a bar on a terminal, plain lines elsewhere, nothing when quiet."""
    if quiet:
        return Silent()
    from deploykit.cli.progress import Bar, Lines

    if not sys.stderr.isatty():
        return Lines()
    context = click.get_current_context()
    context.obj = bar = Bar()
    context.call_on_close(bar.close)  # also after Ctrl-C: the cursor must come back
    return bar


def emit(result: Any, text: str, json_to: str | None) -> None:
    """Print `text` on stdout and write the JSON where asked for; with `-` the JSON is all there is on stdout.

    Raises:
        StorageError: the JSON file cannot be written.
    """
    if (bar := click.get_current_context().obj) is not None:
        bar.close()  # results come after the bar, not through it
    if json_to == "-":
        click.echo(to_json(result), nl=False)
        return
    click.echo(text)  # before anything that can still fail
    if json_to is not None:
        write_text(Path(json_to), to_json(result))
