"""What `--plan` says, as text."""

from __future__ import annotations

from deploykit.plan_results import PlannedStep, PlanReport


def render(report: PlanReport) -> str:
    """What would be done, in the order in which it would be done."""
    lines = [f"source      {report.source}, seed {report.seed}"]
    if report.source_unavailable:
        lines.append(f"            cannot be loaded here: {report.source_unavailable}")
    optional = ((name, getattr(report, name)) for name in ("training", "checkpoint", "samples", "release"))
    lines += [f"{name:12}{value}" for name, value in optional if value is not None]
    lines.append(f"inputs      {'; '.join(report.inputs) or 'as the source gives them'}")
    lines.append(f"bundle      {report.output}{', replacing the one that is there' if report.replaces else ''}")
    lines.append("variants")
    lines += [line for step in report.variants for line in _step(step)]
    for title, items in (("budget", report.budget), ("measured", report.measured), ("gates", report.gates)):
        lines += [title, *(f"  {item}" for item in items)] if items else []
    if report.handoffs:
        lines += ["handed over when the gates said yes", *(f"  {item}" for item in report.handoffs)]
    return "\n".join([*lines, "nothing was done: leave out --plan to do it"])


def _step(step: PlannedStep) -> list[str]:
    start = f"{step.plugin} on {step.base}" if step.base else f"{step.plugin} on the module"
    if step.unavailable:
        return [f"  {step.name:20}cannot be made here: {step.unavailable}"]
    reuse = f"anew: {step.reason}" if step.reason else f"anew or reused: {step.reuse}"
    options = ", ".join(f"{name}={_shown(value)}" for name, value in step.options.items())
    return [f"  {step.name:20}{start}; {reuse}", *([f"  {'':20}{options}"] if options else [])]


def _shown(value: object) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
