"""Step: what a quantized or half-precision ONNX file answers for beside its values."""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

from deploykit.environment import fingerprint
from deploykit.errors import DeploykitError
from deploykit.quantization import coverage, integrity, literal, ranking, saturation
from deploykit.quantization.graph import Graph
from deploykit.quantization.sources import Sources, prepared
from deploykit.reference import load_arrays, part
from deploykit.results import Check, to_data


def examine(
    artifact: str,
    base: str | None,
    precision: str,
    options: dict[str, Any],
    case: str | None,
    answer: str | None,
    input_names: list[str],
    harmful_db: float,
) -> list[dict[str, Any]]:
    """Checks of one artifact, as data.

    Args:
        artifact: path of the ONNX file.
        base: the bundle's float32 ONNX file, None where it has none.
        precision: `fp16`, `int8-static`, …
        options: of the transform that made the artifact.
        case: file of a case inside the distribution, None to run nothing.
        answer: file of what the artifact as deployed answered to it.
        input_names: inputs of the model.
        harmful_db: below this, saturation is worth a warning.

    Raises:
        RefusedError: a file is no ONNX model.
    """
    graph = Graph.load(Path(artifact))
    checks = integrity.check(graph, _sources(base, Path(base).stat().st_mtime_ns) if base else None)
    checks += coverage.check(graph, precision, options)
    if precision.startswith("int8") and case is not None and answer is not None:
        checks += _behaviour(graph, load_arrays(Path(case)), load_arrays(Path(answer)), input_names, harmful_db)
    data: list[dict[str, Any]] = to_data(checks)
    return data


@lru_cache(maxsize=1)
def _sources(base: str, changed_ns: int) -> Sources:  # noqa: ARG001 - another file under the same name is another
    """Kept from call to call: the self-check asks for a dozen mutants of one artifact."""
    return Sources(Path(base))


def rank(artifact: str, base: str, precision: str, case: str, input_names: list[str]) -> list[dict[str, Any]]:
    """The quantized nodes of one artifact, the most expensive first, as fields of `Ranked`.

    Args:
        artifact: path of the ONNX file.
        base: path of the float32 ONNX file.
        precision: `fp16`, `int8-static`, …
        case: file of a case inside the distribution.
        input_names: inputs of the model.

    Raises:
        RefusedError: a file is no ONNX model.
    """
    inputs = part(load_arrays(Path(case)), "inputs")
    feeds = {name: inputs[name] for name in input_names}
    # static quantization works on the prepared model, the other converters on the file itself
    source = prepared(Path(base)) if precision == "int8-static" else Graph.load(Path(base))
    data: list[dict[str, Any]] = to_data(ranking.rank(source, Graph.load(Path(artifact)), feeds, precision))
    return data


def _behaviour(
    graph: Graph, case: dict[str, Any], answer: dict[str, Any], input_names: list[str], harmful_db: float
) -> list[Check]:
    """What the integers do on one case: literal against deployed, and sums of pairs."""
    inputs = part(case, "inputs")
    feeds = {name: inputs[name] for name in input_names}
    try:
        word = literal.execute(graph, feeds)
        checks = literal.check(graph, word, feeds, answer, part(case, "expected64") or part(case, "expected"))
    except Exception as error:  # noqa: BLE001 - whatever it is, the answers have been judged already
        text = error.message if isinstance(error, DeploykitError) else " ".join(str(error).split())
        reason = f"the graph does not run with its integers as outputs: {text[:200]}"
        return [Check("qdq", "graph", "", "skipped", "", "steps", None, None, reason)]
    flags: list[str] = fingerprint()["cpu_flags"]
    return checks + saturation.check(graph, word, harmful_db, flags, platform.machine())
