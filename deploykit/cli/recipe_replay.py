"""What a recipe asks of `deploykit run` beside the run's own options, as requests that are checked before the work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit.errors import UsageError
from deploykit.writing import check_file

if TYPE_CHECKING:
    from deploykit.measurements import RunReport
    from deploykit.pipeline.bench import BenchRequest
    from deploykit.pipeline.handoff import HandoffRequest
    from deploykit.pipeline.run import Further
    from deploykit.pipeline.verify import VerifyRequest
    from deploykit.recipe import Handoff, Recipe


def replayed(table: BenchRequest, given: dict[str, Any]) -> tuple[BenchRequest, Further | None]:
    """The table as the recipe wants it, and what else there is to do; without a recipe the table as it is, and nothing.

    Raises:
        UsageError: what the recipe names does not go together, or does not exist.
    """
    from deploykit.pipeline.run import Further

    recipe: Recipe | None = given["recipe"]
    if recipe is None:
        return table, None
    table = replace(table, session=recipe.bench.session or "", compiled=bool(recipe.bench.compile))
    _ = table.settings  # the words of a session are read now, and not after the export
    before, after = _beside(recipe, table)
    for name in (recipe.verify.junit, recipe.verify.summary, recipe.gates.junit):
        if name is not None:
            check_file(Path(name))
    baseline = Path(recipe.verify.baseline) if recipe.verify.baseline is not None else None
    if baseline is not None and not baseline.is_file():
        hint = "write it: deploykit verify BUNDLE --baseline FILE --update-baseline"
        raise UsageError(str(baseline), "no such baseline", hint, "NOT_FOUND")
    further = Further(
        _judging(recipe, table),
        baseline,
        recipe.verify.inconclusive == "warn",
        before,
        after,
        tuple(_handing(recipe, one, table, force=given["force"]) for one in recipe.handoff),
    )
    return replace(table, profile=bool(recipe.bench.profile)), further


def _judging(recipe: Recipe, table: BenchRequest) -> VerifyRequest:
    from deploykit.parity.budget import budget_for
    from deploykit.pipeline.verify import VerifyRequest

    budget_for("fp32", table.provider, recipe.budget)  # a limit that there is not: now, and not after the export
    verify = recipe.verify
    own = Path(verify.reproducers) if verify.reproducers is not None else None
    checked = True if verify.self_check is None else verify.self_check
    return VerifyRequest(
        table.bundle, provider=table.provider, limits=dict(recipe.budget), self_check=checked, reproducers=own
    )


def _beside(recipe: Recipe, table: BenchRequest) -> tuple[tuple[BenchRequest, ...], tuple[BenchRequest, ...]]:
    """What is measured before the table, and what after it."""
    from deploykit.cli import gate_options, scenario_options, tuning_options
    from deploykit.recommend.choose import Wish

    bench, gates = recipe.bench, recipe.gates
    plain = replace(table, wish=Wish(), compiled=False)
    nothing: dict[str, Any] = {"scenario": "single-stream", "rate": None, "slo": None, "seconds": None, "tune": None}
    load = {"scenario": bench.scenario or "single-stream", "rate": bench.rate, "slo": bench.slo}
    timed = {"seconds": bench.seconds}
    before, after = [], []
    if bench.tune is not None:
        asked = {**nothing, **timed, "tune": bench.tune}
        before.append(tuning_options.tuned(scenario_options.loaded(plain, asked), asked))
    if bench.tune is None or load["scenario"] != "single-stream":
        asked = {**nothing, **load, **timed}
        loaded = scenario_options.loaded(plain, asked)  # also says which keys do not go together
        after += [loaded] if loaded.scenario.kind != "single-stream" else []
    compared = {"against": gates.against, "metrics": gates.metrics, "margin": gates.margin, "junit": gates.junit}
    full = replace(plain, quick=False)  # the speed gate needs its launches, however the table is made
    gated = gate_options.gated(full, {**compared, "session": bench.session or ""})
    after += [gated] if gated.against else []
    return tuple(before), tuple(after)


def _handing(recipe: Recipe, part: Handoff, table: BenchRequest, *, force: bool) -> HandoffRequest:
    from deploykit import handed, plan, registry, releases
    from deploykit.pipeline.handoff import HANDOFF, HandoffRequest
    from deploykit.publish import check_target

    registry.load("handoff", part.to)
    if part.variant is not None:
        plan.select(part.variant)
    output, version = Path(part.output), part.version or HandoffRequest.version
    if not (output / handed.RECORD).is_file():
        check_target(output, force=force, kind=HANDOFF)
    elif not force and version in [one.number for one in handed.load(output).versions]:
        hint = "replace it with --force, or name another version in the recipe"
        raise UsageError(str(output), f"version {version} is there already", hint, "EXISTS")
    return HandoffRequest(
        table.bundle,
        part.to,
        output,
        releases.parse(part.target) if part.target is not None else None,
        part.variant,
        part.model_name,
        version,
        part.goal or HandoffRequest.goal,
        part.session or "",
        table.provider,
        trust_code=True,  # it was made a moment ago from the user's own source
        allow_unverified=bool(part.allow_unverified),
        force=force,
        preflight=Path(part.preflight) if part.preflight is not None else None,
        limits=dict(recipe.budget),
    )


def publish(report: RunReport, given: dict[str, Any]) -> None:
    """Write what the recipe wants a continuous integration to read: JUnit XML, the job summary, annotations.

    Raises:
        DeploykitError: a file cannot be written.
    """
    from deploykit.cli import gate_options, verify_options

    recipe: Recipe | None = given["recipe"]
    if recipe is None:
        return
    verify = recipe.verify
    asked = {"inconclusive": verify.inconclusive or "fail", "annotations": verify.annotations or "none"}
    junit, summary = (None if name is None else Path(name) for name in (verify.junit, verify.summary))
    verify_options.publish(report.verify, junit, summary, asked)
    if recipe.gates.junit is not None:
        for one in report.more:
            if one.gates:
                gate_options.publish(one, {"junit": Path(recipe.gates.junit)})
