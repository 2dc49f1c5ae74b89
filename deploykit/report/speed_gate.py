"""The speed gate's answers: a calm line each, and JUnit XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from deploykit.measurements import BenchReport, GateMetric, GateReport
from deploykit.units import duration, size

ENDED = {"time": "the time limit", "launches": "the most launches that are made"}
"""Why sampling ended before its intervals were narrow, in words."""


def lines(report: BenchReport) -> list[str]:
    """A line per gate, a line per metric where several were declared, then what has to be known; nothing without."""
    found: list[str] = []
    for gate in report.gates:
        found.append(_line(gate))
        if len(gate.metrics) > 1:
            found += [f"    {metric.verdict}: {_metric(metric)}" for metric in gate.metrics]
        found += [f"    {text}" for text in gate.said]
    if report.gates:
        found += [f"not gated: {text}" for text in report.protocol.get("not_gated", ())]
        found += _rules(report.gates[0])
    return found


def _line(gate: GateReport) -> str:
    who = f"{gate.candidate} against {gate.base}, batch {gate.batch}"
    retried = ", in two rounds" if gate.retried else ""
    made = f" ({gate.launches} launches{retried})" if gate.metrics else ""
    single = gate.metrics[0] if len(gate.metrics) == 1 and gate.metrics[0].low is not None else None
    return f"{gate.verdict.upper():12} {who}: {_metric(single) if single else gate.reason}{made}"


def _metric(found: GateMetric) -> str:
    """`median +0.4 % [-0.9 %, +1.5 %], 21.0 → 21.1 µs: less than +5 % …`."""
    if found.ratio is None or found.low is None or found.high is None:
        return f"{found.name} {found.reason}"
    span = f"[{_percent(found.low)}, {_percent(found.high)}]"
    unit = size if found.name == "memory" else duration
    both = f"{unit(int(found.base or 0))} → {unit(int(found.candidate or 0))}"
    return f"{found.name} {_percent(found.ratio)} {span}, {both}: {found.reason.partition(': ')[2] or found.reason}"


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def _rules(gate: GateReport) -> list[str]:
    if gate.worse is None or gate.fine is None:  # a stored result: no rule was applied
        return []
    floor = f"; a time fails only beyond {duration(gate.floor_ns)} more, and passes below it" if gate.floor_ns else ""
    return [
        f"FAIL: more than +{100 * gate.worse:.3g} % at 99 % confidence (left limit); "
        f"PASS: less than +{100 * gate.fine:.3g} % at 95 % (right limit){floor}"
    ]


def sampling_lines(report: BenchReport) -> list[str]:
    """What befell the sample: rounds that were dropped, and intervals that did not get as narrow as they should."""
    said = report.protocol
    found = []
    reasons = ", ".join(f"{reason}: {count}" for reason, count in (said.get("rounds_disturbed") or {}).items())
    dropped, rounds = said.get("rounds_dropped") or 0, said.get("rounds") or 0
    if dropped:
        found.append(f"{dropped} of {rounds} rounds dropped for all ({reasons})")
    elif reasons:
        found.append(f"most rounds were disturbed ({reasons}) and none is dropped: this is how the machine is")
    if said.get("ended") in ENDED:
        width = f"±{said.get('half_width', 0):.1%}"
        found.append(f"sampling ended at {ENDED[said['ended']]}: some ratio is known less well than {width}")
    return found


def junit(report: BenchReport) -> str:
    """The document: a case per gate and metric. INCONCLUSIVE is a failure here: CI has no third colour."""
    root = ET.Element("testsuites", name=_clean(f"deploykit bench {report.bundle}"))
    for gate in report.gates:
        name = _clean(f"{gate.candidate} against {gate.base}, batch {gate.batch}")
        counts = {"tests": max(1, len(gate.metrics)), "failures": 0, "errors": 0, "skipped": 0}
        suite = ET.SubElement(root, "testsuite", name=name)
        for metric in gate.metrics or (GateMetric("speed", gate.verdict, gate.reason),):
            case = ET.SubElement(suite, "testcase", classname=name, name=_clean(metric.name))
            if metric.verdict in {"fail", "inconclusive"}:
                counts["failures"] += 1
                ET.SubElement(case, "failure", type=metric.verdict.upper(), message=_clean(metric.reason))
            elif metric.verdict == "invalid":
                counts["errors"] += 1
                ET.SubElement(case, "error", type="INVALID", message=_clean(metric.reason))
            ET.SubElement(case, "system-out").text = _clean(_metric(metric))
        for key, value in counts.items():
            suite.set(key, str(value))
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    """XML 1.0 has no control characters, not even escaped."""
    return "".join(c if c.isprintable() else " " for c in text)
