"""JUnit XML: one suite per variant, one case per check. INCONCLUSIVE is a failure here: CI has no third colour."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from deploykit.report import baseline, location, proof, rows
from deploykit.results import BaselineReport, Check, SelfCheck, VariantReport, VerifyReport

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
    if report.self_check:
        root.append(_self_check(report.self_check))
    if report.baseline is not None:
        root.append(_baseline(report.baseline))
    total = [suite.attrib for suite in root]
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite[key]) for suite in total)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _self_check(found: tuple[SelfCheck, ...]) -> ET.Element:
    """A case per variant: whether the gate can fail it."""
    failures = sum(entry.verdict in _BAD for entry in found)
    counts = {"tests": len(found), "failures": failures, "errors": 0, "skipped": 0}
    suite = ET.Element("testsuite", {"name": "self-check", **{key: str(value) for key, value in counts.items()}})
    for entry in found:
        case = ET.SubElement(suite, "testcase", classname="self-check", name=_clean(entry.variant))
        if entry.verdict in _BAD:
            ET.SubElement(case, "failure", type=_clean(entry.code), message=_clean(entry.reason))
        ET.SubElement(case, "system-out").text = _clean(proof.proof_line(entry))
    return suite


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
    said = [variant.first_divergence or "", *location.lines(variant, rows.measured(variant))]
    if text := "\n".join(_clean(line) for line in said if line):
        ET.SubElement(suite, "system-err").text = text
    for key, value in counts.items():
        suite.set(key, str(value))
    return suite


def _baseline(found: BaselineReport) -> ET.Element:
    """A case per difference that counts, or one that says that there is none."""
    suite = ET.Element("testsuite", name="baseline")
    bad = [drift for drift in found.drifts if drift.verdict in _BAD]
    for drift in bad:
        name = " ".join(part for part in (drift.variant or "eager", drift.check, drift.output, drift.metric) if part)
        case = ET.SubElement(suite, "testcase", classname="baseline", name=_clean(name))
        message = _clean(baseline.sentence(drift))
        ET.SubElement(case, "failure", type=_clean(drift.code), message=message).text = _clean(_changed(found))
    if not bad:
        case = ET.SubElement(suite, "testcase", classname="baseline", name="baseline")
        if found.verdict == "skipped":
            ET.SubElement(case, "skipped", message=_clean(found.reason))
        ET.SubElement(case, "system-out").text = _clean(f"{found.reason}; {_changed(found)}")
    counts = {"tests": max(1, len(bad)), "failures": len(bad), "errors": 0, "skipped": found.verdict == "skipped"}
    for key, value in counts.items():
        suite.set(key, str(int(value)))
    return suite


def _changed(found: BaselineReport) -> str:
    return f"changed packages: {', '.join(found.changed_packages) or 'none'}"


def _title(check: Check) -> str:
    return _clean(" ".join(part for part in (check.id, check.output, check.metric) if part))


def _numbers(check: Check) -> str:
    sign = "≥" if check.at_least else "≤"
    limit = "" if check.limit is None else f" {sign} {rows.number(check.limit)}, head-room {rows.headroom(check)}"
    return f"{_clean(check.metric)} {rows.number(check.value)}{limit}"


def _clean(text: str) -> str:
    """XML 1.0 has no control characters, not even escaped."""
    return "".join(c if c.isprintable() else " " for c in text)
