"""What a report says about the self-check: one line per variant, and a line more where the gate has a hole."""

from __future__ import annotations

from deploykit.errors import escape
from deploykit.results import SelfCheck, VerifyReport


def proof_lines(report: VerifyReport) -> list[str]:
    """A line per self-checked variant; nothing where no self-check was asked for."""
    return [proof_line(found) for found in report.self_check or ()]


def proof_line(found: SelfCheck) -> str:
    """`self-check onnx: 11 of 12 mutants seen, …`: what was seen, what must be, and the smallest change that was."""
    if not found.tried:
        return escape(f"self-check {found.variant}: {found.verdict.upper()}, {found.code}: {found.reason}")
    parts = [
        f"{found.seen} of {found.tried} mutants seen" + _without_effect(found),
        f"{found.killed} of {found.killable} killable caught",
    ]
    text = f"self-check {found.variant}: {', '.join(parts)}"
    if found.smallest is not None:
        text += f"; smallest weight change seen {percent(found.smallest)} of {found.smallest_place}"
    if found.verdict != "pass":
        text += f": {found.verdict.upper()}, {found.code}: {found.reason}"
    return escape(text)


def _without_effect(found: SelfCheck) -> str:
    return f" ({found.equivalent} within rounding)" if found.equivalent else ""


def percent(share: float) -> str:
    """`0.012 %`: two significant digits, never in powers of ten."""
    return f"{float(f'{100 * share:.2g}'):.10f}".rstrip("0").rstrip(".") + " %"
