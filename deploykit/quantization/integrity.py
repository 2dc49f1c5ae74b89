"""Does every quantized constant stand for the weight that it was made from? Exact, and without any data.

A rounded value is at most half a step from its source. What lies further away was not made by rounding: a scale, a
zero point or an integer is wrong. Values that the quantizer clipped lie beyond the last integer, and are no fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deploykit.onnx_graph import Array, given
from deploykit.quantization.constants import Constant, read
from deploykit.quantization.graph import Graph
from deploykit.quantization.sources import Sources
from deploykit.results import Check

HALF = 0.5
"""Steps between a value and its rounding."""

SLACK = 1e-3
"""Steps allowed for quantizers that divide in float32: measured up to 2e-5 for int8."""

RELATIVE = 2.0**-22
"""Two roundings of float32, relative to the integer: what an int32 bias of a million steps may lose beside."""

SAME_SCALE = 1e-4
"""Relative difference between a bias's scale and the product of two float32 scales: measured up to 1e-7."""

MAX_NAMED = 3
"""Faults worth a check of their own; the last one says how many there are."""


@dataclass(frozen=True)
class Fault:
    """One constant that is not its source's: in words, and how far off in steps."""

    name: str
    steps: float
    reason: str


def check(graph: Graph, sources: Sources | None) -> list[Check]:
    """One check on all constants, or one per fault.

    Args:
        graph: the quantized or half-precision artifact.
        sources: float constants that it was made from; None where the bundle has none.
    """
    faults = mismatched_pairs(graph)
    constants, worst, known = read(graph), 0.0, 0
    halves = [name for name, kind in graph.constants() if kind in _MANTISSA]
    for constant in constants:
        faults += _wrong_product(constant)
        steps, fault = _distance(constant, sources) if sources is not None else (None, None)
        known += steps is not None
        worst = max(worst, steps or 0.0)
        faults += [fault] if fault else []
    for name in halves if sources is not None else ():
        steps, fault = _half_distance(graph, name, sources)  # type: ignore[arg-type]  # the loop is empty without
        known += steps is not None
        worst = max(worst, steps or 0.0)
        faults += [fault] if fault else []
    if faults:
        return _failed(faults)
    total = len(constants) + len(halves)
    if not known:
        missing = "the bundle has no float32 ONNX file" if sources is None else "no float32 weight resembles them"
        return [_check("skipped", None, f"{total} quantized tensors, not compared: {missing}")] if total else []
    rest = f"; {total - known} have no source in the bundle" if total > known else ""
    return [
        _check("pass", worst, f"{known} of {total} tensors are within half a step of the weights they stand for{rest}")
    ]


def mismatched_pairs(graph: Graph) -> list[Fault]:
    """Values that are quantized with one scale or zero point and dequantized with another."""
    faults = []
    for node in graph.nodes:
        source = graph.producer.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if source is None or source.op_type != "QuantizeLinear":
            continue
        for index, what in ((1, "scale"), (2, "zero point")):
            names = [given(entry, index) for entry in (source, node)]
            into, back = (graph.known(name) if name else np.zeros(()) for name in names)
            if into is None or back is None or names[0] == names[1] or np.array_equal(into, back):
                continue
            ratio = abs(float(np.ravel(back)[0]) - float(np.ravel(into)[0]))
            reason = f"{source.input[0]}: quantized with {what} {_first(into)} and dequantized with {_first(back)}"
            faults.append(Fault(source.input[0], ratio, reason))
    return faults


def _wrong_product(constant: Constant) -> list[Fault]:
    """A bias whose scale is not what integer kernels add at: onnxruntime 1.32 falls back to float, others do not."""
    if constant.product is None or constant.scale is None:
        return []
    own, assumed = np.broadcast_arrays(np.asarray(constant.scale, np.float64).reshape(-1), constant.product)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(assumed == own, 1.0, own / assumed)
    index = int(np.argmax(np.abs(ratio - 1.0)))
    if not abs(float(ratio[index]) - 1.0) > SAME_SCALE:
        return []
    steps = float(np.max(np.abs(constant.q.reshape(-1) * (ratio - 1.0)))) if constant.q.size == ratio.size else 0.0
    reason = (
        f"{constant.name}[{index}]: its scale {own[index]:.6g} is not its input's times its weight's, "
        f"{assumed[index]:.6g}: integer kernels cannot add it"
    )
    return [Fault(constant.name, steps, reason)]


def _distance(constant: Constant, sources: Sources) -> tuple[float | None, Fault | None]:
    """The largest distance to the source in steps, and what is wrong; None without a source."""
    if constant.scale is None:
        return None, None
    value, step = constant.dequantized(), np.abs(constant.step())
    limit = HALF + SLACK + (np.abs(constant.q) * RELATIVE if constant.q.dtype.itemsize > 1 else 0.0)
    return _best(constant.name, sources, value, lambda source: _steps(constant, value, step, limit, source), limit)


def _steps(constant: Constant, value: Array, step: Array, limit: Array | float, source: Array) -> Array:
    difference = source - value
    with np.errstate(divide="ignore", invalid="ignore"):
        steps: Array = np.abs(difference) / step
    if not step.all():  # a channel of zeros
        steps = np.where((step == 0.0) & (difference == 0.0), 0.0, steps)
    if not np.all(steps <= limit):
        steps = np.where(_clipped(constant, difference), 0.0, steps)
    return steps


def _best(
    name: str, sources: Sources, value: Array, distance: Callable[[Array], Array], limit: Array | float
) -> tuple[float | None, Fault | None]:
    """The verdict on the first candidate that fits; on the first one of all where none does: it has the name."""
    first: tuple[float, Fault | None] | None = None
    for source in sources.candidates(name, value):
        found = _verdict(name, distance(source), limit, source, value)
        if found[1] is None:
            return found
        first = first or found
    return first or (None, None)


def _clipped(constant: Constant, difference: Array) -> Array:
    """Where the source lies beyond the integers in use: the quantizer clipped it.

    Only the ends of the type count as such: a scale that is too small clips everywhere, and is seen elsewhere.
    """
    q, (low, high) = constant.q, constant.ends
    outward = difference * np.sign(constant.step())  # blocks of 4 bits have scales below 0
    lowest = (low, low + 1) if low < 0 else (low,)  # symmetric int8 ends at -127
    found: Array = ((q == high) & (outward > 0)) | (np.isin(q, lowest) & (outward < 0))
    return found


_MANTISSA = {"float16": (11, 2.0**-24), "bfloat16": (8, 2.0**-133)}
"""Type to bits of its significand and its smallest number."""


def _half_distance(graph: Graph, name: str, sources: Sources) -> tuple[float | None, Fault | None]:
    """As `_distance`, for a constant in half precision; one step is a unit in its last place.

    onnxruntime's converter lifts what would become 0 to the smallest number, which counts as one step.
    """
    bits, smallest = _MANTISSA[graph.kind(name)]
    value = np.asarray(graph.known(name), np.float32)

    def distance(source: Array) -> Array:
        exponent = np.frexp(np.maximum(np.abs(source), np.float32(smallest)))[1]
        step = np.maximum(np.ldexp(np.float32(1.0), exponent - bits), np.float32(smallest))
        steps: Array = np.abs(source - value) / step * np.where(np.abs(source) < smallest, HALF, 1.0)
        return steps

    return _best(name, sources, value, distance, HALF + SLACK)


def _verdict(name: str, steps: Array, limit: Array | float, source: Array, value: Array) -> tuple[float, Fault | None]:
    wrong = ~(steps <= limit)  # NaN is wrong, too
    largest = float(np.max(steps, initial=0.0))
    count = int(np.count_nonzero(wrong))
    if not count:
        return min(largest, HALF), None
    index = np.unravel_index(int(np.argmax(np.where(np.isnan(steps), np.inf, steps))), steps.shape)
    place = f"{name}[{', '.join(map(str, index))}]"
    far = float(steps[index])
    reason = (
        f"{place}: the source has {float(source[index]):.6g}, here it is {float(value[index]):.6g}, "
        f"{far:.3g} steps away ({count} of {steps.size} elements are more than half a step off)"
    )
    return largest, Fault(name, far, reason)


def _failed(faults: list[Fault]) -> list[Check]:
    named = sorted(faults, key=lambda fault: -fault.steps)[:MAX_NAMED]
    more = f"; {len(faults) - len(named)} other tensors as well" if len(faults) > len(named) else ""
    texts = [fault.reason + (more if fault is named[-1] else "") for fault in named]
    return [_check("fail", fault.steps, text) for fault, text in zip(named, texts, strict=True)]


def _check(verdict: str, value: float | None, reason: str) -> Check:
    code = "WEIGHT_INTEGRITY" if verdict == "fail" else ""
    return Check("weights", "weights", "", verdict, code, "steps", value, HALF, reason)  # type: ignore[arg-type]


def _first(values: Array) -> str:
    return f"{float(np.ravel(values)[0]):.6g}"
