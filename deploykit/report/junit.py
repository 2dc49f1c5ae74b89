"""JUnit XML: one suite per variant, one case per check. INCONCLUSIVE is a failure here: CI has no third colour."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from deploykit.report import rows
from deploykit.results import Check, VariantReport, VerifyReport

_BAD = {"fail", "inconclusive"}


def render_verify(report: VerifyReport) -> str:
    """The document, with its XML declaration."""
    root = ET.Element("testsuites", name=f"deploykit verify {report.bundle}")
    for variant in report.variants:
        root.append(_suite(variant))
    total = [suite.attrib for suite in root]
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite[key]) for suite in total)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(variant: VariantReport) -> ET.Element:
    suite = ET.Element("testsuite", name=variant.name)
    failures = 0
    for check in variant.checks:
        case = ET.SubElement(suite, "testcase", classname=variant.name, name=_title(check))
        if check.verdict in _BAD:
            failures += 1
            failure = ET.SubElement(case, "failure", type=check.code, message=_clean(check.reason))
            failure.text = _numbers(check)
        else:
            ET.SubElement(case, "system-out").text = _numbers(check)
    counts = {"tests": len(variant.checks), "failures": failures, "errors": 0, "skipped": 0}
    if not variant.checks:
        counts["tests"] = 1
        case = ET.SubElement(suite, "testcase", classname=variant.name, name="variant")
        kind, count = {"skipped": ("skipped", "skipped"), "fail": ("failure", "failures")}.get(
            variant.verdict, ("error", "errors")
        )
        counts[count] = 1
        element = ET.SubElement(case, kind, message=_clean(variant.reason))
        if kind != "skipped":
            element.set("type", variant.code)
    for key, value in counts.items():
        suite.set(key, str(value))
    return suite


def _title(check: Check) -> str:
    return " ".join(part for part in (check.id, check.output, check.metric) if part)


def _numbers(check: Check) -> str:
    sign = "≥" if check.at_least else "≤"
    return (
        f"{check.metric} {rows.number(check.value)} {sign} {rows.number(check.limit)}, head-room {rows.headroom(check)}"
    )


def _clean(text: str) -> str:
    """XML 1.0 has no control characters, not even escaped."""
    return "".join(c if c.isprintable() else " " for c in text)
