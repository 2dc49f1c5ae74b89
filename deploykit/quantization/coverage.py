"""How much of a network really has the precision in its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deploykit.onnx_graph import given
from deploykit.quantization.graph import COMPUTING, Graph
from deploykit.results import Check

LEAST = 0.8
"""Share of the weights that must be converted: quantizers leave a sensitive first or last layer out, seldom more."""

LEAST_KEPT = 0.5
"""The same where nodes are kept in float on purpose."""

_WEIGHTS = {
    **dict.fromkeys(COMPUTING, 1),
    "MatMulInteger": 1, "ConvInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3, "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1, "MatMulNBits": 1, "FusedConv": 1, "FusedMatMul": 1, "FusedGemm": 1,
}  # fmt: skip
"""Operator to the input that holds its weight."""

_KINDS = {
    "fp16": {"float16"}, "bf16": {"bfloat16"}, "int4": {"int4", "uint4", "int2", "uint2"},
    "int8-dynamic": {"int8", "uint8"}, "int8-static": {"int8", "uint8"},
}  # fmt: skip
"""Precision to the types that its weights have."""


@dataclass(frozen=True)
class Coverage:
    """Elements of weights of matrix products and convolutions: all, those converted, and all by operator."""

    total: int
    converted: int
    by_operator: dict[str, int]

    @property
    def share(self) -> float:
        """Converted over all; 0 without weights."""
        return self.converted / self.total if self.total else 0.0


def measure(graph: Graph, precision: str) -> Coverage:
    """What `graph` holds in the types of `precision`."""
    sizes: dict[str, tuple[int, bool, str]] = {}
    for node in graph.nodes:
        place = _WEIGHTS.get(node.op_type)
        if place is None:
            continue
        for name in (given(node, place), given(node, 0)):
            origin = graph.origin(name) if name else ""
            if origin and graph.size(origin) > 1:
                packed = node.op_type == "MatMulNBits"
                applied = graph.kind(origin) in _KINDS.get(precision, set()) or packed
                sizes[origin] = (graph.size(origin) * (2 if packed else 1), applied, node.op_type)
    by_operator: dict[str, int] = {}
    for size, applied, operator in sizes.values():
        if not applied:
            by_operator[operator] = by_operator.get(operator, 0) + size
    return Coverage(
        sum(size for size, _, _ in sizes.values()),
        sum(size for size, applied, _ in sizes.values() if applied),
        by_operator,
    )


def check(graph: Graph, precision: str, options: dict[str, Any]) -> list[Check]:
    """One check on the share of converted weights; none for a graph without weights.

    Args:
        graph: the artifact.
        precision: which types count as converted.
        options: of the transform that made it; operators that it leaves out on purpose are a warning, not a failure.
    """
    found = measure(graph, precision)
    if not found.total:
        return []
    kept = options.get("keep_float") or ()
    limit = LEAST_KEPT if kept else LEAST
    text = f"{found.share:.1%} of the {found.total:,} weights of matrix products and convolutions are {precision}"
    if kept:
        text += f", with {len(kept)} nodes kept in float"
    if found.share >= limit:
        return [_check("pass", "", found.share, limit, text)]
    wanted = options.get("op_types")
    left = {op: size for op, size in found.by_operator.items() if wanted and op in COMPUTING and op not in wanted}
    rest = found.total - sum(left.values())
    if left and rest and found.converted / rest >= limit:
        text += f": {' and '.join(sorted(left))} weights stay in float by design"
        return [_check("warn", "VARIANT_NOT_APPLIED", found.share, limit, text)]
    return [_check("fail", "VARIANT_NOT_APPLIED", found.share, limit, text)]


def _check(verdict: str, code: str, value: float, limit: float, reason: str) -> Check:
    return Check("coverage", "weights", "", verdict, code, "share", value, limit, reason, at_least=True)  # type: ignore[arg-type]
