"""JUnit XML: one suite per variant, one case per check. INCONCLUSIVE is a failure here: CI has no third colour."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from deploykit.report import rows
from deploykit.results import Check, VariantReport, VerifyReport

_BAD = {"fail", "inconclusive"}
_WITHOUT_CHECKS = {
    "skipped": ("skipped", "skipped"),
    "fail": ("failure", "failures"),
    "inconclusive": ("failure", "failures"),
}


def render_verify(report: VerifyReport) -> str:
    """The document, with its XML declaration."""
    root = ET.Element("testsuites", name=_clean(f"deploykit verify {report.bundle}"))
    for variant in report.variants:
        root.append(_suite(variant))
    total = [suite.attrib for suite in root]
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite[key]) for suite in total)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(variant: VariantReport) -> ET.Element:
    name = _clean(variant.name)
    suite = ET.Element("testsuite", name=name)
    counts = {"tests": len(variant.checks), "failures": 0, "errors": 0, "skipped": 0}
    for check in variant.checks:
        case = ET.SubElement(suite, "testcase", classname=name, name=_title(check))
        if check.verdict in _BAD:
            counts["failures"] += 1
            failure = ET.SubElement(case, "failure", type=_clean(check.code), message=_clean(check.reason))
            failure.text = _numbers(check)
        elif check.verdict == "skipped":
            counts["skipped"] += 1
            ET.SubElement(case, "skipped", message=_clean(check.reason))
        else:
            ET.SubElement(case, "system-out").text = _numbers(check)
    if not variant.checks:
        counts["tests"] = 1
        case = ET.SubElement(suite, "testcase", classname=name, name="variant")
        kind, count = _WITHOUT_CHECKS.get(variant.verdict, ("error", "errors"))
        counts[count] = 1
        element = ET.SubElement(case, kind, message=_clean(variant.reason))
        if kind != "skipped":
            element.set("type", _clean(variant.code))
    if variant.first_divergence:
        ET.SubElement(suite, "system-err").text = _clean(variant.first_divergence)
    for key, value in counts.items():
        suite.set(key, str(value))
    return suite


def _title(check: Check) -> str:
    return _clean(" ".join(part for part in (check.id, check.output, check.metric) if part))


def _numbers(check: Check) -> str:
    sign = "≥" if check.at_least else "≤"
    numbers = f"{rows.number(check.value)} {sign} {rows.number(check.limit)}, head-room {rows.headroom(check)}"
    return f"{_clean(check.metric)} {numbers}"


def _clean(text: str) -> str:
    """XML 1.0 has no control characters, not even escaped."""
    return "".join(c if c.isprintable() else " " for c in text)
