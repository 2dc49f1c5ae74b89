"""What verify asks of a variant in reduced precision beside its values: its weights, its range, its fused graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit.bundle import Bundle, CaseRecord, VariantRecord
from deploykit.finished import SOURCES
from deploykit.isolation import Pool
from deploykit.parity.scale import IN_DISTRIBUTION
from deploykit.results import Check, CheckVerdict, Ranked, from_data

if TYPE_CHECKING:
    from deploykit.pipeline.judging import Answers, Gate  # imports scipy, which export does without

HALF_OF_LARGEST = 65_504.0 / 2.0
"""Half of the largest float16: room for inputs twice as large as those that were seen."""

SMALLEST = 2.0**-24
"""The smallest float16 above zero: where the largest value of a tensor is below it, all of it is lost."""

MAX_CASE_BYTES = 2 << 20
"""Of the cases to run again for these checks the largest below this is taken: a batch of 3 for images of 224 pixels."""


def examine(
    gate: Gate, record: VariantRecord, artifact: Path, pool: Pool, answers: Answers | None = None
) -> list[Check]:
    """Checks of input class `weights` and `graph`; empty for float32 and for files that are not ONNX.

    Args:
        gate: the reference.
        record: the variant; its options say what its maker left out on purpose.
        artifact: its file.
        pool: gives the child that reads the file.
        answers: what it answered; None leaves out what needs a case.

    Raises:
        DeploykitError: the file cannot be read, or the child died.
    """
    if record.precision == "fp32":
        return []
    checks = _range(gate, record)
    if record.runtime != "onnxruntime":
        return checks
    case = _case(gate, answers) if answers is not None and record.precision.startswith("int8") else None
    base = float_base(gate.bundle)
    found: list[dict[str, Any]] = pool.worker("onnxruntime").call(
        "quantized:examine",
        artifact=str(artifact),
        base=str(base) if base else None,
        precision=record.precision,
        options=dict(record.options),
        case=str(gate.bundle.path / case.file) if case else None,
        answer=str(answers.folder / f"{case.id}.safetensors") if case and answers else None,
        input_names=[spec.name for spec in gate.bundle.manifest.signature.inputs],
        harmful_db=gate.budget(record).warn_sqnr_db or 0.0,
    )
    if SOURCES.get(gate.bundle.manifest.source.spec.kind) == record.made_by:
        # of a file that came quantized nobody knows what int8 costs, the unit of this check
        found = [entry for entry in found if entry["id"] != "qdq"]
    return [*checks, *(from_data(Check, entry) for entry in found)]


def float_base(bundle: Bundle) -> Path | None:
    """The bundle's float32 ONNX file, from which the others were made; None where there is none."""
    for record in bundle.manifest.variants:
        if record.file is not None and record.runtime == "onnxruntime" and record.precision == "fp32":
            return bundle.path / record.file
    return None


def _range(gate: Gate, record: VariantRecord) -> list[Check]:
    """Whether every value inside the network fits float16; CPU kernels compute it in float32 and would hide it."""
    reference = gate.bundle.manifest.reference
    largest, smallest = reference.largest, reference.smallest
    if record.precision != "fp16" or largest is None:
        return []
    if smallest is not None and smallest.value < SMALLEST:
        reason = f"all values inside the float64 network at {smallest.where} are below what float16 can tell from zero"
        value, limit = smallest.value, SMALLEST
        return [Check("range", "graph", "", "fail", "FP16_RANGE", "smallest", value, limit, reason, at_least=True)]
    good = largest.value <= HALF_OF_LARGEST
    reason = f"largest value inside the float64 network, at {largest.where}; float16 ends at 65,504"
    if largest.overflows:
        reason += f", which {largest.overflows} places exceed"
    verdict: CheckVerdict = "pass" if good else "fail"
    code = "" if good else "FP16_RANGE"
    return [Check("range", "graph", "", verdict, code, "largest", largest.value, HALF_OF_LARGEST, reason)]


def rank(
    gate: Gate, record: VariantRecord, artifact: Path, pool: Pool, cases: tuple[str, ...] | None = None
) -> tuple[Ranked, ...]:
    """Which nodes of a variant in reduced precision cost most, the most expensive first; empty where nobody can say.

    Args:
        gate: the reference.
        record: the variant.
        artifact: its file.
        pool: gives the child.
        cases: ids to choose the probe from where one of them is small enough; None for all.

    Raises:
        DeploykitError: the file cannot be read, or the child died.
    """
    base = float_base(gate.bundle)
    every = tuple(record.id for record in gate.records)
    fitting = _fitting(gate, cases or every) or _fitting(gate, every)
    if base is None or record.runtime != "onnxruntime" or record.precision == "fp32" or not fitting:
        return ()
    # two rows, since the signal is what differs between rows; every node costs a run
    probe = min(fitting, key=lambda case: ((case.rows or 2) < _LEAST_ROWS, _bytes(gate, case)))
    found: list[dict[str, Any]] = pool.worker("onnxruntime").call(
        "quantized:rank",
        artifact=str(artifact),
        base=str(base),
        precision=record.precision,
        case=str(gate.bundle.path / probe.file),
        input_names=[spec.name for spec in gate.bundle.manifest.signature.inputs],
    )
    return tuple(from_data(Ranked, entry) for entry in found)


def _case(gate: Gate, answers: Answers) -> CaseRecord | None:
    """The largest case of few rows that was answered, but for large ones; None where nothing was."""
    fitting = _fitting(gate, tuple(answers.order))
    small = [case for case in fitting if _bytes(gate, case) <= MAX_CASE_BYTES]
    if small:
        return max(small, key=lambda case: (_bytes(gate, case), case.id))
    return min(fitting, key=lambda case: (_bytes(gate, case), case.id), default=None)


def _fitting(gate: Gate, cases: tuple[str, ...]) -> list[CaseRecord]:
    """Cases of few rows inside the distribution, as they lie."""
    return [
        record
        for record in gate.records
        if record.id in cases
        and record.gate == "full"
        and record.input_class in (*IN_DISTRIBUTION, "shapes")
        and (record.rows or 1) <= _MAX_ROWS
        and not record.layout
    ]


def _bytes(gate: Gate, case: CaseRecord) -> int:
    return (gate.bundle.path / case.file).stat().st_size


_LEAST_ROWS, _MAX_ROWS = 2, 64
