"""Text for `deploykit run`: training, parity, latency, recommendation, and where the time went."""

from __future__ import annotations

from deploykit.measurements import RunReport
from deploykit.report import handed, text


def render(report: RunReport) -> str:
    """Everything, in the order in which it happened."""
    parts = [report.training["summary"]] if report.training else []
    parts += [text.render_verify(report.verify), text.render_bench(report.bench)]
    parts += [text.render_bench(one) for one in report.more]
    parts += [handed.render(one) for one in report.handoffs]
    parts += [f"not handed over: {name}: {reason}" for name, reason in report.not_handed.items()]
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.seconds.items())
    parts.append(f"bundle: {report.bundle} (reports/report.html inside)\ntime: {spent}")
    return "\n\n".join(parts)
