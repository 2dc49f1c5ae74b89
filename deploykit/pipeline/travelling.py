"""The part of a reference that travels with a handoff, with limits that need no judge."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from deploykit.bundle import Bundle, CaseRecord, VariantRecord
from deploykit.handed import HandedCase
from deploykit.parity.ledger import Ledger
from deploykit.parity.scale import truth
from deploykit.parity.values import Values
from deploykit.pipeline.judging import Gate
from deploykit.reference import Case

MOST_BYTES = 8 << 20
"""Arrays of one case above this stay at home: an image batch as JSON text is some three times its size."""


def files_of(bundle: Bundle, record: VariantRecord) -> dict[str, Path]:
    """The artifact of a variant and the files beside it, by name."""
    folder = f"variants/{record.name}/"
    return {
        one.path.removeprefix(folder): bundle.path / one.path
        for one in bundle.manifest.files
        if one.path.startswith(folder)
    }


def cases(gate: Gate, record: VariantRecord, folder: Path, place: str) -> tuple[HandedCase, ...]:
    """Write the cases whose values count everywhere as `.npz` to `folder/place` and say what they are held to.

    Left at home: non-finite inputs and relations between cases, which only `deploykit verify` can judge, cases that
    would be asked twice over the wire (memory layouts do not travel), and arrays too large for JSON.

    Args:
        gate: the reference.
        record: the variant, whose precision sets the limits.
        folder: existing directory.
        place: POSIX path below it.

    Raises:
        OSError: a file cannot be written.
    """
    values = Values(gate.scale, Ledger())
    found = []
    for one in gate.records:
        if not _travels(one):
            continue
        case = gate.case(one)
        limits = _limits(gate, record, case, values)
        arrays = {f"inputs/{name}": array for name, array in case.inputs.items()}
        arrays |= {f"expected/{name}": truth(case, name) for name in limits}
        if not limits or sum(array.nbytes for array in arrays.values()) > MOST_BYTES:
            continue
        file = f"{place}/{one.id}.npz"
        (folder / place).mkdir(parents=True, exist_ok=True)
        np.savez(folder / file, **arrays)  # type: ignore[arg-type]
        found.append(HandedCase(id=one.id, file=file, limits=limits))
    return tuple(found)


def _travels(record: CaseRecord) -> bool:
    """Whether a case asks for values, and of the wire something new."""
    return record.gate == "full" and not record.layout and not record.relation


def _limits(gate: Gate, record: VariantRecord, case: Case, values: Values) -> dict[str, float | None]:
    """Per output that can be held to a number: the largest RMSE, or None for equality."""
    indices = gate.bundle.manifest.reference.index_outputs
    budget = gate.budget(record)
    limits: dict[str, float | None] = {}
    for name, expected in case.expected.items():
        if name in indices or name in case.near:
            continue  # ties and edges: eager's answer is one of several right ones
        if expected.dtype.kind in "biu":
            limits[name] = None
        elif expected.dtype.kind == "f" and np.isfinite(expected).all():
            most = values.most(case, name, budget)
            if math.isfinite(most):
                limits[name] = most
    return limits
