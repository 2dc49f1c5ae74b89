"""Workflow commands of GitHub Actions: a failed gate as an annotation on the line of the model that is to blame.

The form is that of GitHub's page "Workflow commands for GitHub Actions", the escaping that of its own toolkit
(`packages/core/src/command.ts`): `%`, CR and LF in the message, also `:` and `,` in a property.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from deploykit.diagnosis import remedy
from deploykit.errors import escape
from deploykit.report import baseline, location, rows
from deploykit.results import EXIT_OF, VariantReport, VerifyReport

MOST = 10
"""Annotations of one level that GitHub shows for a step; it drops the others without a word."""

_SAID = {"fail", "inconclusive", "error", "refused"}


@dataclass(frozen=True)
class Annotation:
    """One line on stderr, and one remark in the pull request.

    Attributes:
        level: `error` or `warning`.
        title: heads the remark.
        source: `model.py:88`, or empty when the place is not known.
    """

    level: str
    title: str
    message: str
    source: str = ""

    def command(self) -> str:
        """The workflow command, one line."""
        file, _, line = self.source.rpartition(":")
        place = {"file": file, "line": line} if file and line.isdecimal() else {"file": self.source}
        properties = {**{key: value for key, value in place.items() if value}, "title": self.title}
        told = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
        return f"::{self.level} {told}::{_data(self.message)}"


def render_verify(report: VerifyReport, *, open_is_error: bool = True) -> str:
    """A command per line, errors first; empty when there is nothing to annotate.

    Args:
        report: the gate's answer.
        open_is_error: whether what evidence does not decide stops the job; else it is a warning.
    """
    errors = [_blame(variant, report) for variant in report.variants if variant.verdict in _SAID]
    for found in report.self_check or ():
        if found.verdict in _SAID:
            title = f"{report.bundle} {found.variant}: {found.code or found.verdict}"
            errors.append(Annotation("error", title, f"the gate's self-check: {found.reason}"))
    if report.baseline is not None and report.baseline.verdict in _SAID:
        title = f"{report.bundle}: {report.baseline.code}"
        errors.append(Annotation("error", title, "\n".join(baseline.lines(report))))
    if not open_is_error and report.exit_code == EXIT_OF["inconclusive"]:
        errors = [replace(item, level="warning") for item in errors]
    warnings = [_warning(variant, report, line) for variant in report.variants for line in rows.warnings(variant)]
    return "".join(f"{item.command()}\n" for item in (*_capped(errors), *_capped(warnings)))


def _blame(variant: VariantReport, report: VerifyReport) -> Annotation:
    """Why a variant did not pass, at the line of the model where the difference starts."""
    said = [f"{variant.verdict}: {variant.reason}"]
    place = location.lines(variant, rows.measured(variant))
    said += [line.removeprefix(f"{variant.name}: ") for line in place]
    if advice := remedy(variant.code):
        said.append(f"what to do: {advice}")
    title = f"{report.bundle} {variant.name}: {variant.code or variant.verdict}"
    return Annotation("error", title, "\n".join(said), variant.location.source if variant.location else "")


def _warning(variant: VariantReport, report: VerifyReport, line: str) -> Annotation:
    return Annotation("warning", f"{report.bundle} {variant.name}", line)


def _capped(found: list[Annotation]) -> list[Annotation]:
    """At most `MOST`; the last one says how many are not shown."""
    if len(found) <= MOST:
        return found
    *shown, last = found[:MOST]
    rest = f"and {len(found) - MOST} more of this kind: see the log and the job summary"
    return [*shown, replace(last, message=f"{last.message}\n{rest}")]


def _data(text: str) -> str:
    """A message may have several lines, each of them printable."""
    plain = "\n".join(escape(line) for line in text.split("\n"))
    return plain.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(escape(text)).replace(":", "%3A").replace(",", "%2C")
