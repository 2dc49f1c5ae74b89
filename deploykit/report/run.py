"""Text for `deploykit run`: training, parity, latency, recommendation, and where the time went."""

from __future__ import annotations

from deploykit.measurements import RunReport
from deploykit.report import text


def render(report: RunReport) -> str:
    """Everything, in the order in which it happened."""
    parts = [report.training["summary"]] if report.training else []
    parts += [text.render_verify(report.verify), text.render_bench(report.bench)]
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.seconds.items())
    parts.append(f"bundle: {report.bundle} (reports/report.html inside)\ntime: {spent}")
    return "\n\n".join(parts)
