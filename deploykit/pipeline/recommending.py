"""What the recommendation needs of a measured bundle, put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deploykit.benchmark import goals
from deploykit.benchmark.series import Measured
from deploykit.measurements import BenchRow, Comparison, Goal, Recommendation
from deploykit.pipeline.measuring import Field
from deploykit.recommend import traits
from deploykit.recommend.choose import Candidates, choose
from deploykit.recommend.unhelped import Facts


def recommend(
    field: Field, measured: Measured, rows: Sequence[BenchRow], environment: dict[str, Any]
) -> Recommendation:
    """The choice for the goal and the constraints of the request.

    Args:
        field: bundle, gate and request.
        measured: what the launches found.
        rows: the table made of it.
        environment: the machine's fingerprint.
    """
    request, deciding = field.request, field.subjects.batches[0]
    records = field.bundle.manifest.variants

    def compare(base: str, candidate: str, goal: Goal) -> Comparison:
        return goals.compare(measured, rows, base, candidate, deciding, goal)

    known = Candidates(
        rows,
        field.verdicts,
        traits.of(records),
        {record.name: record.reason for record in records if record.name in field.verdicts and record.file is None},
        deciding,
        Facts(environment, request.provider, request.quick),
    )
    return choose(known, compare, request.wish)
