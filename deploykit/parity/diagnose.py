"""From which cases fail, what is wrong: rules of thumb that give a failed variant the code of its cause. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from deploykit.results import Check, VariantReport

GENERIC = {"VALUE_MISMATCH", "NAN_PATTERN", "SHAPE_MISMATCH", "RUN_ERROR", "OUT_OF_RANGE"}
"""Codes that say what differs and not why; only these are refined."""

DEGENERATE = {"constant", "non-finite", "extreme"}
"""Classes on which a small constant decides: denominators and logarithms meet zero there and nowhere else."""

FAR = 100.0
"""A lost constant is at least so many times worse where it decides than where it only adds a little."""

FLAGRANT = 100_000.0
"""R from which an answer is another one: a baked value gives millions, an edited weight thousands."""

MOSTLY = 0.8
"""Share of the other inputs that must be wrong before a baked number is more likely than a baked branch."""


@dataclass(frozen=True)
class Evidence:
    """What is known beside the checks.

    Attributes:
        forms: shapes of the inputs by case.
        baked: what the exporter saw Python read from a tensor, `bool at model.py:12`; empty where it told nothing.
        swapped: outputs that fit when they change places, in words; empty when none do.
        inputs_swapped: inputs that fit when they change places, in words; empty when none do.
        narrowed: `int32` or `float32` when exactly the rows with integers that these cannot hold are wrong; else empty.
        stage: `RUNTIME` when the literal graph is right and the deployed one is not; else empty.
        edited: whether a weight is known not to be the source's: then that is the cause.
    """

    forms: Mapping[str, tuple[tuple[int, ...], ...]]
    baked: str = ""
    swapped: str = ""
    inputs_swapped: str = ""
    narrowed: str = ""
    stage: str = ""
    edited: bool = False


def diagnosed(report: VariantReport, precision: str, evidence: Evidence) -> VariantReport:
    """The report with the code of the cause, where a rule fits; all checks stay as they are."""
    if report.verdict not in {"fail", "error"} or report.code not in GENERIC:
        return report
    found = _by_evidence(evidence) or _by_cases(_Cases.of(report.checks, evidence), precision, evidence)
    if found is None:
        return report
    code, why = found
    reason = report.reason
    if code == "CONSTANT_DROPPED":  # the worst ordinary case says nothing about it
        first = next(c for c in report.checks if c.verdict == "fail" and c.input_class == "constant")
        reason = f"{first.id}: {first.reason}"
    return replace(report, code=code, reason=f"{why}; {reason}")


def _by_evidence(evidence: Evidence) -> tuple[str, str] | None:
    if evidence.swapped:
        return "OUTPUT_ORDER", f"outputs fit when they change places: {evidence.swapped}"
    if evidence.inputs_swapped:
        return "INPUT_ORDER", f"right when inputs change places: {evidence.inputs_swapped}"
    if evidence.narrowed:
        return "INT_NARROWING", f"wrong in exactly the rows with integers that {evidence.narrowed} cannot hold"
    if evidence.stage == "RUNTIME":
        return "RUNTIME_FUSION", "right with graph optimizations off"
    return None


@dataclass(frozen=True)
class _Cases:
    """Ids of the cases by what became of them.

    Attributes:
        wrong, right: cases with and without a failure.
        classes: input class of each case.
        other: cases whose inputs have other shapes than the example's.
        worst_ordinary: the largest value of a failure outside the degenerate classes, 0 without any.
        mildest_constant: the smallest on constant inputs.
        constant_breaks: whether constants give NaN or infinity, or do not, against eager.
        sizes_refused: whether every failure is the engine's refusal of a size.
        by_form: whether cases of ordinary values with the same shapes are all right or all wrong.
    """

    wrong: frozenset[str]
    right: frozenset[str]
    classes: Mapping[str, str]
    other: frozenset[str]
    worst_ordinary: float
    mildest_constant: float
    constant_breaks: bool
    by_form: bool
    sizes_refused: bool

    @classmethod
    def of(cls, checks: tuple[Check, ...], evidence: Evidence) -> _Cases:
        asked = (c for c in checks if c.id in evidence.forms and c.metric not in {"refused", "answered"})
        classes = {check.id: check.input_class for check in asked}
        wrong = frozenset(c.id for c in checks if c.verdict == "fail" and c.code in GENERIC and c.id in classes)
        usual = evidence.forms.get("example")
        other = frozenset(name for name in classes if usual is not None and evidence.forms[name] != usual)
        sizes = {
            kind: [_size(c) for c in checks if c.id in wrong and c.verdict == "fail" and _kind(c) == kind]
            for kind in _KINDS
        }
        ordinary, constant = max(sizes["ordinary"], default=0.0), min(sizes["constant"], default=math.inf)
        breaks = any(
            c.verdict == "fail" and c.code == "NAN_PATTERN" and c.input_class == "constant" and c.id in wrong
            for c in checks
        )
        fates: dict[tuple[tuple[int, ...], ...], set[bool]] = {}
        for name, kind in classes.items():
            if kind not in DEGENERATE:
                fates.setdefault(evidence.forms[name], set()).add(name in wrong)
        refusals = [c.reason for c in checks if c.verdict == "fail" and c.id in wrong]
        refused = bool(refusals) and all(_SIZE.search(reason) for reason in refusals)
        by_form = all(len(found) == 1 for found in fates.values())
        return cls(wrong, frozenset(classes) - wrong, classes, other, ordinary, constant, breaks, by_form, refused)

    def wrong_classes(self) -> set[str]:
        """Input classes in which something failed."""
        return {self.classes[name] for name in self.wrong}


_SIZE = re.compile(r"Got: \d+ Expected: \d+")
"""How ONNX Runtime refuses a dim that the file fixes."""

_KINDS = ("ordinary", "degenerate", "constant")


def _kind(check: Check) -> str:
    """`constant`, another degenerate class, or ordinary."""
    if check.input_class == "constant":
        return "constant"
    return "degenerate" if check.input_class in DEGENERATE else "ordinary"


def _size(check: Check) -> float:
    """How bad a failure is: R, or infinite for a pattern, a form or an error."""
    return check.value if check.metric == "R" and check.value is not None else math.inf


def _by_cases(cases: _Cases, precision: str, evidence: Evidence) -> tuple[str, str] | None:
    """The first rule that fits, narrow ones before wide ones."""
    classes = cases.wrong_classes()
    if not classes:
        return None
    if cases.sizes_refused:
        return "DYNAMIC_DIM_FIXED", "sizes that the signature promises are refused"
    if precision != "fp32":
        return None
    for only, code, why in (
        ({"masks"}, "MASKED_ROW_SEMANTICS", "wrong only where a mask hides something"),
        ({"layout"}, "LAYOUT_UNCHECKED", "wrong only on inputs that are not contiguous"),
        ({"integers"}, "INT_NARROWING", "wrong only on integers at the ends of their range"),
        ({"outside"}, "OUT_OF_RANGE", "wrong only outside the declared range"),
    ):
        if classes <= only:
            return code, why
    told_apart = math.isfinite(cases.worst_ordinary)  # what ordinary inputs get NaN or an error for is no epsilon
    apart = cases.constant_breaks or cases.worst_ordinary * FAR <= cases.mildest_constant
    if "constant" in classes and told_apart and apart:
        return "CONSTANT_DROPPED", "wrong on constant and degenerate inputs above all"
    if "example" in cases.right:
        return _right_on_the_example(cases, evidence)
    return None


def _right_on_the_example(cases: _Cases, evidence: Evidence) -> tuple[str, str] | None:
    """Something of the example went into the artifact: its sizes, a number, or the side of a branch."""
    alike = (cases.right | cases.wrong) - cases.other - {"example", "again"}
    if cases.wrong <= cases.other and alike and "shapes" in cases.wrong_classes() and cases.by_form:
        # the example's sizes are not the only ones that hold
        refused = "only other sizes than the example's fail"
        few = cases.right & cases.other
        return ("GUARD_LOST", refused) if few or not cases.other else ("DYNAMIC_DIM_FIXED", refused)
    if evidence.baked.startswith("bool"):
        return "CONTROL_FLOW_BAKED", f"tracing took one side of a branch: {evidence.baked}"
    if evidence.baked:
        return "SCALAR_BAKED", f"a number of the example became a constant: {evidence.baked}"
    ordinary = {name for name, kind in cases.classes.items() if kind not in DEGENERATE} - {"example", "again"}
    wrong = cases.wrong & ordinary
    if not wrong or evidence.edited or cases.worst_ordinary < FLAGRANT:
        return None  # a fault that shows little on the example looks the same
    if len(wrong) >= MOSTLY * len(ordinary):
        return "SCALAR_BAKED", "right on the example and wrong on other inputs"
    return "CONTROL_FLOW_BAKED", "right on the example's side of a branch and wrong elsewhere"
