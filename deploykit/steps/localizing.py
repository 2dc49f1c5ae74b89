"""Steps: find where a variant starts to differ from eager. `reference` runs beside torch, all else without it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from deploykit.lines import Lines
from deploykit.localization import bisect, born, evidence, instrument, reproducer, search
from deploykit.localization.graph import Graph
from deploykit.localization.search import Deviation
from deploykit.localization.stored import Stored, Writer
from deploykit.onnx_session import LITERAL
from deploykit.reference import load_arrays
from deploykit.results import to_data
from deploykit.signature import Feeds

TRIED = 5
"""Suspects that are put right one after another to see which of them makes the outputs wrong."""

MENDED = 0.01
"""A suspect explains the failure when putting it right takes the outputs' error below this part of what it was."""


def reference(artifact: str, feeds: str, input_names: list[str], wanted: list[str], folder: str) -> dict[str, Any]:
    """Every value of a captured program (`.pt2`) on `feeds`, with its noise, into `folder`.

    Args:
        artifact: written by torch.export.save.
        feeds: file with the inputs by name.
        input_names: the call order.
        wanted: names of the values to keep.
        folder: receives the values.

    Returns:
        `index`, see `localization.stored`.
    """
    import torch

    from deploykit import captured
    from deploykit.quiet import quiet

    with quiet():
        program = torch.export.load(artifact)
    given, keep = load_arrays(Path(feeds)), set(wanted)
    writer = Writer(Path(folder))

    def store(node: torch.fx.Node, value: torch.Tensor, noise: float) -> None:
        if node.name in keep and value.dtype != torch.bfloat16:  # numpy has no such dtype
            writer.add(node.name, value.detach().cpu().contiguous().clone().numpy(), noise)

    captured.visit(program, [torch.from_numpy(given[name].copy()) for name in input_names], store, noise=True)
    writer.flush()
    return {"index": writer.index}


def base(artifact: str, feeds: str, folder: str) -> dict[str, Any]:
    """Every value of a sound ONNX graph, run literally, into `folder`; answers as `reference` does."""
    graph, given = Graph.load(Path(artifact)), load_arrays(Path(feeds))
    writer = Writer(Path(folder))
    left, count = graph.values, 16
    while left:
        found = instrument.free(graph, given, left[:count])
        for name, array in found.items():
            writer.add(name, array)
        left = left[count:]
        per_value = sum(array.nbytes for array in found.values()) // max(len(found), 1)
        count = max(1, min(4 * count, instrument.CHUNK_BYTES // max(per_value, 1)))
    writer.flush()
    return {"index": writer.index}


@dataclass(frozen=True)
class Task:
    """One search; all paths are files.

    Attributes:
        artifact: the ONNX file in question.
        feeds: its inputs.
        expected: the right outputs.
        index, folder: what `reference` or `base` answered, and where.
        sound: the bundle's own ONNX file where its values are the reference; else the captured program's are.
        lines, weights: of the bundle; may be missing.
        minimum_db: for reduced precision: the SQNR that the budget demands; None searches by noise.
        reproduce: folder for a reproducer, None for none.
        title: what the reproducer is about.
    """

    artifact: str
    feeds: str
    expected: str
    index: dict[str, list[Any]]
    folder: str
    lines: str
    weights: str
    title: str
    sound: str | None = None
    minimum_db: float | None = None
    reproduce: str | None = None


def find(**task: Any) -> dict[str, Any]:
    """Carry out a `Task`.

    Returns:
        `matched` values; and where something is bad `value`, `operator`, `nodes`, `born`, `local`, `cumulative`,
        `before` and `after` (relative error of the outputs as they are and with the value put right), `notes`,
        `missing`, `reproducer`.
    """
    wanted = Task(**task)
    graph, lines = Graph.load(Path(wanted.artifact)), Lines.load(Path(wanted.lines))
    names = {value: value for value in graph.values} if wanted.sound else lines.values
    stored = Stored(Path(wanted.folder), wanted.index, names)
    tried = born.Tried(graph, load_arrays(Path(wanted.feeds)), stored)
    answer: dict[str, Any] = {"matched": len(tried.matched), "values": len(graph.values)}
    if not tried.matched:
        return answer
    if wanted.minimum_db is not None:
        found = _by_decibels(tried, wanted.minimum_db)
    else:
        found = _by_noise(tried, load_arrays(Path(wanted.expected)))
    if found is None:
        return answer
    answer |= found | _described(tried, found["value"], wanted, lines)
    if wanted.reproduce and wanted.minimum_db is None:
        answer["reproducer"] = str(_reproduced(tried, answer, wanted))
    finite: dict[str, Any] = to_data(answer)
    return finite


def _by_noise(tried: born.Tried, expected: dict[str, Any]) -> dict[str, Any] | None:
    """The first suspect that explains the outputs' error, else the first one; None when no value is bad on its own."""
    suspects = search.suspects(tried.deviations())
    if not suspects:
        return None
    before = bisect.off(expected, tried.outputs())
    found: dict[str, Any] = {"before": before}
    chosen = suspects[0]
    for suspect in suspects[:TRIED]:
        after = bisect.off(expected, tried.outputs((suspect.value,)))
        if after <= MENDED * before:
            chosen, found["after"] = suspect, after
            break
    found["others"] = [entry.value for entry in suspects if entry is not chosen]
    return found | _found(chosen, born_here=True)


def _by_decibels(tried: born.Tried, minimum: float) -> dict[str, Any] | None:
    """The first value whose SQNR in the whole graph is too low; born here when half of the error power is its own."""
    found = tried.decibels()
    low = next((entry for entry in found if entry.cumulative < minimum), None)
    return None if low is None else _found(low, born_here=low.local <= low.cumulative + 3.0)


def _found(entry: Deviation, *, born_here: bool) -> dict[str, Any]:
    return {"value": entry.value, "born": born_here, "local": entry.local, "cumulative": entry.cumulative}


def _described(tried: born.Tried, value: str, wanted: Task, lines: Lines) -> dict[str, Any]:
    """Which nodes compute the value, and what about them is visibly different."""
    graph, region = tried.graph, tried.region(value)
    taken = set(graph.taken(region, tried.stops()))
    nodes = [graph.nodes[index] for index in region]
    named, notes, missing = nodes, [], []
    if wanted.minimum_db is not None:
        named = [node for node in nodes if node.op_type not in _WRAPPING] or nodes
    elif wanted.sound:
        sound = Graph.load(Path(wanted.sound))
        notes = evidence.changes(graph, sound, value)
        gone = [name for name in sound.producer[value].input if name in sound.values and name not in graph.values]
        missing = [[name, sound.producer[name].op_type] for name in gone if taken & set(sound.producer[name].input)]
    else:
        wrong = evidence.weights(graph, region, _weights(wanted.weights), lines.of(value).parameters)
        named, notes = [node for node in nodes if set(node.input) & wrong.keys()] or nodes, list(wrong.values())
        missing = _passed_by(lines, value, graph, taken)
    return {
        "operator": "+".join(dict.fromkeys(node.op_type for node in named)),
        "nodes": [node.name for node in named],
        "notes": notes,
        "missing": missing,
    }


def _passed_by(lines: Lines, value: str, graph: Graph, taken: set[str]) -> list[list[str]]:
    """Values that the captured operator reads and the graph has not, though it has what they are computed from."""
    shown = {captured: name for name, captured in lines.values.items()}

    @cache
    def read(name: str) -> frozenset[str]:
        """Captured values with a name in the graph; the converter swallows others (a convolution in its batch-norm)."""
        direct = lines.captured[name].reads if name in lines.captured else ()
        return frozenset(n for n in direct if n in shown).union(*(read(n) for n in direct if n not in shown))

    gone = [name for name in sorted(read(lines.values[value])) if shown[name] not in graph.values]
    return [[shown[n], lines.captured[n].operator] for n in gone if taken & {shown[other] for other in read(n)}]


_WRAPPING = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"}
"""What a change of precision puts around an operator."""


def _weights(path: str) -> Feeds:
    """The model's weights by name; empty where a bundle has none."""
    return load_arrays(Path(path)) if Path(path).is_file() else {}


def weights(artifact: str, weights: str) -> dict[str, str]:
    """Parameters and buffers of a captured program (`.pt2`) that are not the source's, by name, in words."""
    import torch

    from deploykit.quiet import quiet

    with quiet():
        program = torch.export.load(artifact)
    stored = {name: value for name, value in program.state_dict.items() if value.dtype != torch.bfloat16}
    return evidence.differing(_weights(weights), {name: value.detach().cpu().numpy() for name, value in stored.items()})


def _reproduced(tried: born.Tried, answer: dict[str, Any], wanted: Task) -> Path:
    value = answer["value"]
    known = tried.known([value])
    model, _ = tried.graph.cut([value], {name: instrument.element_type(array) for name, array in known.items()})
    expected = tried.stored.get(value)
    limit = search.BAD * search.floor(expected, expected, tried.stored.noise(value))
    what = f"value {value} of {wanted.title}"
    why = "what computes it, on the reference's inputs"
    fault = reproducer.Fault(what, model, known, expected, limit or float(np.finfo("f4").tiny), LITERAL, why)
    return reproducer.write(fault, Path(str(wanted.reproduce)))


def rewriting(artifact: str, feeds: str, expected: str, title: str, reproduce: str | None = None) -> dict[str, Any]:
    """Which graph level and optimizer of onnxruntime make a literally right graph wrong, and at which value.

    Returns:
        `level`, `optimizers`, `literal`, `deployed`; `value`, `operator` and `reproducer` where one rewritten place is
        wrong on its own. Empty when the deployed graph is as good as the literal one.
    """
    graph, given = Graph.load(Path(artifact)), load_arrays(Path(feeds))
    found = bisect.find(bisect.session_runs(graph.model, given), load_arrays(Path(expected)))
    if found is None:
        return {}
    answer: dict[str, Any] = to_data(found)
    site = bisect.site(graph, given, found) if found.optimizers else None
    if site is not None:
        answer |= {"value": site.value, "operator": site.operator}
        if reproduce:
            why = f"wrong with onnxruntime's {', '.join(found.optimizers)} on, right with it off"
            what = f"value {site.value} of {title}"
            level = bisect.LEVELS[found.level]
            fault = reproducer.Fault(what, site.model, site.feeds, site.expected, site.limit, level, why)
            answer["reproducer"] = str(reproducer.write(fault, Path(reproduce)))
    return answer
