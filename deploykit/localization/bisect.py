"""When the literal graph is right and the deployed one is not: graph level, optimizer, and the nodes it rewrote."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx

from deploykit.distances import rms, rmse
from deploykit.errors import WorkError
from deploykit.localization import instrument, search
from deploykit.localization.graph import Graph
from deploykit.onnx_session import LITERAL, optimized
from deploykit.signature import Feeds

LEVELS = {"basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}

OPTIMIZERS: tuple[str, ...] = (
    "EliminateIdentity", "EliminateSlice", "UnsqueezeElimination", "EliminateDropout", "ExpandElimination",
    "CastElimination", "CastChainElimination", "PreShapeNodeElimination", "NoopElimination", "DivMulFusion",
    "FuseReluClip", "GemmSumFusion", "GemmTransposeFusion", "NotWhereFusion", "ConvAddFusion", "ConvMulFusion",
    "ConvBNFusion", "Pad_Fusion", "MatMul_BatchNormalization_Fusion", "LabelEncoderFusion", "DoubleQDQPairsRemover",
    "ConstantSharing", "CommonSubexpressionElimination", "ConstantFolding", "MatMulAddFusion", "ReshapeFusion",
    "GeluFusionL1", "GeluFusionL2", "GeluFusion", "LayerNormFusionL1", "LayerNormFusionL2", "LayerNormFusion",
    "QDQPropagationTransformer", "WeightBiasQuantization", "EnsureUniqueDQForNodeUnit", "TransposeOptimizer",
    "ClipQuantRewrite", "ReluQuantRewrite", "QDQS8ToU8Transformer", "QDQSelectorActionTransformer",
    "GemmActivationFusion", "MatMulIntegerToFloatFusion", "DynamicQuantizeMatMulFusion", "ConvActivationFusion",
    "ConvAddActivationFusion", "SimplifiedLayerNormFusion", "AttentionFusion", "EmbedLayerNormFusion",
    "GatherToSplitFusion", "GatherToSliceFusion", "MatmulTransposeFusion", "BiasGeluFusion",
    "GroupQueryAttentionFusion", "SkipLayerNormFusion", "FastGeluFusion", "QuickGeluFusion", "BiasSoftmaxFusion",
    "BiasDropoutFusion", "MatMulScaleFusion", "MatMulActivationFusion", "DQMatMulNBitsFusion", "GeluApproximation",
    "NhwcTransformer", "NchwcTransformer", "Avx2WeightS8ToU8Transformer", "QDQFinalCleanupTransformer",
    "RocmBlasAltImpl", "ConcatSliceElimination", "BiasSkipLayerNormFusion", "IdenticalChildrenConsolidation",
)  # fmt: skip
"""Names by which onnxruntime's optimizers can be switched off (`optimizer/graph_transformer_utils.cc` and the headers
that it includes); names that a version does not know are ignored by it."""

TIMES = 10.0
"""The deployed graph has to be this much further from the truth than the literal one, or there is nothing to bisect."""

Runs = Callable[[str, tuple[str, ...]], Feeds]
"""Outputs at a graph level (`ORT_…`) without some optimizers."""


@dataclass(frozen=True)
class Rewriting:
    """What in the engine makes the difference.

    Attributes:
        level: first graph level that is wrong: `basic`, `extended` or `all`.
        optimizers: switching these off mends it; empty when no switch does.
        literal, deployed: relative error of the outputs, RMSE over RMS.
    """

    level: str
    optimizers: tuple[str, ...]
    literal: float
    deployed: float


def session_runs(model: onnx.ModelProto, feeds: Feeds) -> Runs:
    """How `find` asks onnxruntime itself."""
    return lambda level, disabled: instrument.run(model, feeds, level, disabled)


def find(runs: Runs, expected: Feeds) -> Rewriting | None:
    """The level and the optimizers that make the outputs wrong; None when the literal graph is no better.

    Args:
        runs: see Runs.
        expected: the right outputs by name.
    """
    literal = off(expected, runs(LITERAL, ()))
    deployed = off(expected, runs(LEVELS["all"], ()))
    if not deployed > TIMES * max(literal, 2.0**-24):
        return None
    # half way between right and wrong, on a logarithmic scale
    limit = math.sqrt(max(literal, 2.0**-24) * min(deployed, 1e30))

    def good(level: str, disabled: tuple[str, ...]) -> bool:
        try:
            return off(expected, runs(LEVELS[level], disabled)) <= limit
        except WorkError:  # some optimizers are not optional: without them the session does not open
            return False

    level = next((name for name in LEVELS if not good(name, ())), "all")
    return Rewriting(level, _guilty(lambda disabled: good(level, disabled)), literal, deployed)


def _guilty(good: Callable[[tuple[str, ...]], bool]) -> tuple[str, ...]:
    """The fewest optimizers found by halving whose absence makes the answer right; empty when all together do not."""
    names = OPTIMIZERS
    if not good(names):
        return ()
    while len(names) > 1:
        half = len(names) // 2
        part = next((p for p in (names[:half], names[half:]) if good(p)), None)
        if part is None:  # it takes some of both halves: drop names one by one
            for name in names:
                rest = tuple(other for other in names if other != name)
                if rest and good(rest):
                    names = rest
            return names
        names = part
    return names


def off(expected: Feeds, actual: Feeds) -> float:
    """RMSE over RMS, the largest of all outputs; infinite for another shape or non-finite pattern."""
    worst = 0.0
    for name, array in expected.items():
        found = actual.get(name)
        if found is None or found.shape != array.shape or not search.same_pattern(array, found):
            return math.inf
        error, level = rmse(array, found), rms(array)
        worst = max(worst, error / level if level else (math.inf if error else 0.0))
    return worst


@dataclass(frozen=True)
class Site:
    """One place that an optimizer rewrote, wrong on the literal graph's own values.

    Attributes:
        value: name in the literal graph.
        operator: what computes it after the rewriting.
        model: the literal nodes of that place.
        feeds, expected: their inputs and output in the literal graph.
        limit: RMSE up to which the output is right.
    """

    value: str
    operator: str
    model: onnx.ModelProto
    feeds: Feeds
    expected: Any
    limit: float


def site(graph: Graph, feeds: Feeds, rewriting: Rewriting) -> Site | None:
    """The first rewritten place that answers wrongly on its own; None when no single one does."""
    level = LEVELS[rewriting.level]
    plain = {_signature(node) for node in _optimized(graph, level, rewriting.optimizers)}
    for node in _optimized(graph, level, ()):
        values = [name for name in node.output if name in graph.values]
        if _signature(node) in plain or not values:
            continue
        known = {name for name in node.input if name in graph.values or name in graph.inputs}
        region = graph.region(values[:1], known)
        taken = graph.taken(region, known)
        inner = [*dict.fromkeys([name for name in taken if name not in feeds] + values[:1])]
        literal = {**feeds, **instrument.free(graph, feeds, inner)}
        given = {name: literal[name] for name in taken}
        model, shown = graph.cut(values[:1], {name: instrument.element_type(array) for name, array in given.items()})
        expected, actual = literal[values[0]], instrument.run(model, given, level)[shown[values[0]]]
        if search.deviation(expected, actual) > search.BAD:
            limit = search.BAD * search.floor(expected, expected)
            return Site(values[0], node.op_type, model, given, expected, limit)
    return None


def _optimized(graph: Graph, level: str, disabled: tuple[str, ...]) -> list[onnx.NodeProto]:
    """The nodes that onnxruntime makes of the graph."""
    return list(optimized(graph.model, level, disabled, external=False).graph.node)


def _signature(node: onnx.NodeProto) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    return node.op_type, tuple(node.input), tuple(node.output)
