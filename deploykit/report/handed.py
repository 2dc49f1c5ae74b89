"""What a handoff wrote, as text."""

from __future__ import annotations

from deploykit.results import HandoffReport


def render(report: HandoffReport) -> str:
    """A few lines: what went out, what was proven, what to type next."""
    release = f" {report.release}" if report.release else ""
    others = [str(number) for number in report.versions if number != report.version]
    lines = [
        f"{report.model} for {report.target}{release}: {report.variant} as version {report.version}, in {report.path}",
        f"  variant    {report.variant}, {report.choice}",
        f"  verify     {report.verdict}: {report.reason}",
        f"  settings   {report.settings or 'the defaults'}",
        f"  files      {report.files}, {report.cases} cases of the reference among them",
    ]
    if not report.cases:
        lines.append("  reference  nothing of it is small and plain enough to travel: check.py proves nothing,")
        lines.append("             use deploykit verify BUNDLE --url URL where something is served")
    if others:
        lines.append(f"  versions   also {', '.join(others)}")
    lines.append(
        f"next: cd {report.path}, and the commands in README.md" + (": start, then check" if report.start else "")
    )
    return "\n".join(lines)
