"""The Python API: the same results as the command line, and live modules as a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit import measurements, releases
from deploykit.benchmark.gate import Rules
from deploykit.benchmark.metrics import names
from deploykit.benchmark.scenario import Kind, Scenario
from deploykit.bundle import Bundle
from deploykit.errors import UsageError
from deploykit.isolation import Inline
from deploykit.measurements import BenchReport
from deploykit.model import SourceSpec
from deploykit.pipeline import bench as bench_pipeline
from deploykit.pipeline import export as export_pipeline
from deploykit.pipeline import verify as verify_pipeline
from deploykit.pipeline.keep_float import Wanted
from deploykit.preprocessing import Preprocessing, parse
from deploykit.preprocessing_arrays import prepared
from deploykit.progress import Progress, Silent
from deploykit.recommend.choose import Wish
from deploykit.recommend.constraints import Constraints
from deploykit.results import VerifyReport
from deploykit.session import CPU, provider_name
from deploykit.tune_results import Goal

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


def export(
    module: torch.nn.Module | str,
    example_inputs: Any = None,
    output: str | Path = "artifacts/model",
    *,
    variants: Sequence[str] | str = "core",
    inputs: Sequence[str] = (),
    checkpoint: str | Path | None = None,
    samples: str | Path | None = None,
    seed: int = 0,
    force: bool = False,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    keep_float: Sequence[str] | str = (),
    keep_float_target: float | None = None,
    target: str | None = None,
    preprocess: str = "",
    progress: Progress | None = None,
) -> Bundle:
    """Export a live module, or a SOURCE text as on the command line, into a bundle.

    A live module is captured in this process and left as it was; everything after that runs on files, in children.

    Args:
        module: an `nn.Module` in eval mode, or a text such as `torchvision:resnet18`.
        example_inputs: a tensor, a tuple of forward's arguments in call order, or a dict by their names; lists, tuples,
            dicts and dataclasses are looked into, plain values become part of the model. The leading dim becomes
            symbolic (`N`) where all tensors share it. May be None when `inputs` says it all.
        output: the bundle's directory.
        variants: `core`, `all`, or names.
        inputs: descriptions such as `image:float32[N=1..64,3,224,224]` instead of what the example shows.
        checkpoint: weights for a SOURCE text.
        samples: `.npz` with real inputs, and `labels` where there are any.
        seed: of the input campaign, and of random weights.
        force: replace the bundle at `output`.
        options: plugin options by variant name.
        keep_float: nodes that variants in reduced precision leave in float; `auto` looks for them.
        keep_float_target: centred SQNR in dB that `auto` aims at; None is where verify stops warning.
        target: what has to load the ONNX variants, `triton:24.10` or `ort:1.15`.
        preprocess: what raw uint8 images go through before the model, `imagenet` or `recorded:imagenet`.
        progress: is told of every step.

    Returns:
        The published bundle; a variant that could not be made is in its manifest with the reason.

    Raises:
        DeploykitError: see the error tree in `deploykit.errors`.
    """
    wanted = variants if isinstance(variants, str) else ",".join(variants)
    live = None
    if isinstance(module, str):
        checkpoint_text = str(checkpoint) if checkpoint is not None else None
        source = SourceSpec.parse(
            module, checkpoint=checkpoint_text, inputs=tuple(inputs), seed=seed, preprocess=preprocess
        )
    else:
        if checkpoint is not None:
            raise UsageError("checkpoint", "a live module has its weights already", "load them into the module first")
        source = SourceSpec("live", type(module).__name__, inputs=tuple(inputs), seed=seed, preprocess=preprocess)
        _adopt(module, example_inputs, source)
        live = Inline()
    request = export_pipeline.ExportRequest(
        source,
        Path(output),
        wanted,
        Path(samples) if samples is not None else None,
        force,
        options={name: dict(fields) for name, fields in (options or {}).items()},
        keep_float=Wanted.parse(keep_float if isinstance(keep_float, str) else tuple(keep_float), keep_float_target),
        release=releases.parse(target) if target is not None else None,
    )
    try:
        return export_pipeline.export(request, progress or Silent(), live).bundle
    finally:
        if live is not None:
            _release()


def preprocess(images: NDArray[np.uint8], steps: Preprocessing | str) -> NDArray[np.float32]:
    """What a model with recorded preprocessing gets for raw images; needs numpy only.

    Args:
        images: uint8, four axes in the layout that `steps` names: [N, H, W, C] unless it says `layout=nchw`.
        steps: `Bundle(path).manifest.preprocessing`, or a text as for `--preprocess`.

    Returns:
        float32[N, C, H, W].

    Raises:
        UsageError: BAD_PREPROCESS, the text is none, or the images are no such images.
    """
    found = parse(steps) if isinstance(steps, str) else steps
    if found is None or images.dtype != "uint8" or images.ndim != 4:
        message = "no steps are named" if found is None else f"the images are {images.dtype}{list(images.shape)}"
        raise UsageError("preprocess", message, "give uint8[N,H,W,C], and steps such as imagenet", "BAD_PREPROCESS")
    return prepared(found, images)


def verify(
    bundle: str | Path,
    *,
    variants: Sequence[str] | str | None = None,
    provider: str = CPU,
    trust_code: bool = False,
    limits: Mapping[str, float] | None = None,
    artifact: str | Path | None = None,
    precision: str = "fp32",
    self_check: bool = False,
    reproducers: str | Path | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Hold every variant of a bundle to its stored reference; see `deploykit verify`.

    Args:
        bundle: the directory.
        variants: names, or None for all.
        provider: `cpu`, `cuda` or ONNX Runtime's full name.
        trust_code: run TorchScript and `.pt2` files of a bundle that was made elsewhere.
        limits: changes to the budgets, `{"max_r": 6.0}`; loosening is reported.
        artifact: a file made elsewhere, judged instead of the bundle's variants.
        precision: the budget for `artifact`: `fp32`, `fp16`, `int8-dynamic`, …
        self_check: also prove with mutants of every variant that the gate can fail.
        reproducers: folder for what reproduces a failure; None is `reports/reproduce` of the bundle.
        progress: is told of every step.

    Raises:
        DeploykitError: the bundle cannot be used at all.
    """
    request = verify_pipeline.VerifyRequest(
        Path(bundle),
        _names(variants),
        provider_name(provider),
        trust_code,
        dict(limits or {}),
        Path(artifact) if artifact is not None else None,
        precision,
        self_check,
        Path(reproducers) if reproducers is not None else None,
    )
    return verify_pipeline.verify(request, progress or Silent())


def bench(
    bundle: str | Path,
    *,
    variants: Sequence[str] | str | None = None,
    provider: str = CPU,
    batches: Sequence[int] = (1,),
    threads: int | None = None,
    quick: bool = False,
    seed: int = 0,
    trust_code: bool = False,
    source: str | None = None,
    session: str = "",
    tune: Goal | None = None,
    seconds: float | None = None,
    goal: measurements.Goal = "latency",
    constraints: Mapping[str, str] | None = None,
    against: str | Path | None = None,
    metrics: str = "median",
    scenario: Kind = "single-stream",
    rate: float | None = None,
    slo: str | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure what passes verify and recommend a variant; see `deploykit bench`.

    Args:
        bundle: the directory.
        variants: names, or None for all.
        provider: `cpu`, `cuda` or ONNX Runtime's full name.
        batches: batch sizes; the first one decides the recommendation.
        threads: intra-op threads for every variant; None takes every core this process may use.
        quick: three short launches instead of ten; indicative.
        seed: of the order of measurement.
        trust_code: run TorchScript and `.pt2` files of a bundle that was made elsewhere.
        source: SOURCE text that builds `eager`, where the bundle does not say it.
        session: settings of every session, `threads=1,spinning=off`; `default` leaves aside what was tuned.
        tune: find the settings that suit `latency`, `throughput` or `memory` and write them into the bundle.
        seconds: wall time for that, or for the scenarios `offline` and `server`.
        goal: what the recommendation goes by.
        constraints: what it must satisfy, as on the command line: `{"latency_p90": "5ms", "memory": "500MB"}`.
        against: the speed gate against this bundle or variant, perhaps with `@settings`, instead of a table.
        metrics: what that gate judges: some of `median,p90,throughput,memory,load`.
        scenario: `offline` sweeps batch sizes, `server` lets requests arrive at their own times.
        rate: requests per second of a server; None looks for the highest that keeps `slo`.
        slo: what a server's latency has to keep, `p99=5ms`.
        progress: is told of every launch.

    Raises:
        DeploykitError: the bundle cannot be used, a batch size does not fit, or a constraint is none.
    """
    request = bench_pipeline.BenchRequest(
        Path(bundle),
        _names(variants),
        provider_name(provider),
        tuple(batches),
        threads,
        quick,
        seed,
        trust_code,
        SourceSpec.parse(source) if source else None,
        session=session,
        tune=tune,
        seconds=seconds,
        wish=Wish(goal, Constraints.parse(constraints or {})),
        against=str(against or ""),
        rules=Rules(names(metrics)),
        scenario=Scenario.parse(scenario, rate, slo, seconds),
    )
    return bench_pipeline.bench(request, progress or Silent())


def _names(variants: Sequence[str] | str | None) -> tuple[str, ...] | None:
    """Names as a tuple; a text is a comma-separated list, as on the command line."""
    if variants is None:
        return None
    return tuple(name.strip() for name in variants.split(",")) if isinstance(variants, str) else tuple(variants)


def _adopt(module: torch.nn.Module, example_inputs: Any, source: SourceSpec) -> None:
    """Make the caller's module the live one of this process."""
    from deploykit import preprocessed
    from deploykit.sources._compiled import bare
    from deploykit.sources._forward import describe
    from deploykit.steps import live

    live.adopt(preprocessed.behind(source, lambda spec: describe(bare(module), example_inputs, spec.inputs, spec.seed)))


def _release() -> None:
    """Let go of the caller's module."""
    from deploykit.steps import live

    live.release()
