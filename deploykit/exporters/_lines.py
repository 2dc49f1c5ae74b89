"""Which line of the model computes which value: read from torch's captured and converted programs before both forget.

It imports torch at the top: exporters import it inside their methods only.
"""

from __future__ import annotations

import operator
import re
import sysconfig
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deploykit import captured
from deploykit.lines import Line, Lines, tell

if TYPE_CHECKING:
    import onnx
    from torch.export import ExportedProgram

_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+), in .*$')
_CODE_LIMIT = 160
"""Characters of a source line worth keeping."""

_CLOSE = 1e-4
"""Relative difference under which two values are the same one: far above rounding, far below another operator's."""


def tell_captured(program: ExportedProgram) -> Lines:
    """Hand over the lines of a captured program, whose stack traces are still there; gives them, too."""
    owners = {str(spec.arg.name): str(spec.target) for spec in program.graph_signature.input_specs if spec.target}
    lines = Lines({node.name: _line(node, owners) for node in program.graph.nodes if node.op == "call_function"})
    tell(lines)
    return lines


def tell_converted(
    program: ExportedProgram,
    converted: ExportedProgram | None,
    proto: onnx.ModelProto,
    inputs: tuple[torch.Tensor, ...],
) -> None:
    """Hand over which value of the ONNX graph is which of the captured program.

    The converter first decomposes the program, which numbers values anew. Each value of the decomposed program comes
    from a captured one by its provenance, and is it when both give the same numbers on the example.
    """
    if converted is None:
        return
    try:
        tell(_values(program, converted, proto, inputs))
    except Exception:  # noqa: BLE001 - the artifact is made; without this a later search only has fewer names
        return


def _values(
    program: ExportedProgram, converted: ExportedProgram, proto: onnx.ModelProto, inputs: tuple[torch.Tensor, ...]
) -> Lines:
    roots = {node.name: _root(node) for node in converted.graph.nodes if node.op == "call_function"}
    same = _same(program, converted, roots, list(inputs))
    names = [str(name) for name in converted.graph_signature.user_outputs]
    shown = dict(zip(names, (value.name for value in proto.graph.output), strict=False))
    computed = {name for node in proto.graph.node for name in node.output}
    # what a rewriting swallowed (a batch-norm's convolution) is no value of this graph
    values = {shown.get(name, name): found for name, found in same.items() if shown.get(name, name) in computed}
    parts: dict[str, str] = {}
    for node in proto.graph.node:
        notes = {entry.key: entry.value for entry in node.metadata_props}
        within = notes.get("pkg.torch.onnx.fx_node", "").partition(" ")[0].removeprefix("%")
        for name in node.output:
            if name not in values and (root := roots.get(within, "")):
                parts[name] = root
    return Lines({}, values, parts)


def _line(node: torch.fx.Node, owners: dict[str, str]) -> Line:
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = list(stack.values())[-1] if stack else ("", "")
    kind = kind if isinstance(kind, str) else kind.__qualname__
    source, code = place(str(node.meta.get("stack_trace") or ""))
    taken = [entry.name for entry in node.all_input_nodes]
    return Line(
        module=f"{path} ({kind.rpartition('.')[2]})".strip() if kind else str(path),
        operator=_operator(node.target),
        source=source,
        code=code,
        reads=tuple(name for name in taken if name not in owners),
        parameters=tuple(owners[name] for name in taken if name in owners),
    )


def _operator(target: Any) -> str:
    """`upsample_bilinear2d` for `aten.upsample_bilinear2d.vec`."""
    if target is operator.getitem:
        return "getitem"
    name = str(getattr(target, "__name__", target))
    return name.partition(".")[0]


def place(trace: str) -> tuple[str, str]:
    """File and line of the innermost frame that is not torch's own, and its text; two empty strings without a trace."""
    frames = []
    text = trace.splitlines()
    for index, row in enumerate(text):
        if found := _FRAME.match(row):
            after = text[index + 1].strip() if index + 1 < len(text) else ""
            frames.append((found["file"], found["line"], "" if _FRAME.match(after) else after))
    if not frames:
        return "", ""
    named = [(relative(file), line, code) for file, line, code in frames]
    own = [entry for entry in named if not entry[0].startswith("torch/")]
    file, line, code = (own or named)[-1]
    return f"{file}:{line}", code[:_CODE_LIMIT]


@cache
def relative(file: str) -> str:
    """`file` below the folder of its top package or of installed packages; a lone file by its name."""
    path = Path(file)
    for root in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sysconfig.get_path("stdlib")):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    top = path.parent
    while (top / "__init__.py").is_file() and top != top.parent:
        top = top.parent
    return path.relative_to(top).as_posix() if path.is_absolute() else path.name


def _root(node: torch.fx.Node) -> str:
    """Name of the captured node that `node` comes from, by torch's provenance; empty when it has none."""
    name = ""
    sources = node.meta.get("from_node") or []
    while sources:
        name, sources = str(sources[0].name), sources[0].from_node
    return name


Sketch = tuple[tuple[int, ...], str, np.ndarray]


def _same(
    program: ExportedProgram, converted: ExportedProgram, roots: dict[str, str], inputs: list[torch.Tensor]
) -> dict[str, str]:
    """Values of the decomposed program that are values of the captured one."""
    before: dict[str, Sketch] = {}
    users: dict[str, list[str]] = {}

    def keep(node: torch.fx.Node, value: torch.Tensor, _noise: float) -> None:
        before[node.name] = _sketch(value)

    for node in program.graph.nodes:
        pieces = [user.name for user in node.users if user.target is operator.getitem]
        users[node.name] = [node.name, *pieces]
    captured.visit(program, inputs, keep)
    found: dict[str, str] = {}

    def match(node: torch.fx.Node, value: torch.Tensor, _noise: float) -> None:
        own = _sketch(value)
        for name in users.get(roots.get(node.name, ""), []):
            if name in before and _alike(before[name], own):
                found[node.name] = name
                break

    captured.visit(converted, inputs, match)
    return found


def _sketch(value: torch.Tensor) -> Sketch:
    """Enough to recognize an array by: keeping all of them could take gigabytes."""
    array = value.detach().cpu().double().reshape(-1).numpy()
    spots = array[np.linspace(0, max(array.size - 1, 0), 64).astype(np.int64)] if array.size else array
    sums = [array.mean(), np.abs(array).mean()] if array.size else []
    return tuple(int(size) for size in value.shape), str(value.dtype), np.concatenate([sums, spots])


def _alike(one: Sketch, other: Sketch) -> bool:
    if one[:2] != other[:2]:
        return False
    scale = float(np.abs(one[2][np.isfinite(one[2])]).max(initial=0.0))
    return bool(np.allclose(one[2], other[2], rtol=_CLOSE, atol=_CLOSE * scale, equal_nan=True))


_CONVERTING = re.compile(r"Converting a tensor to a (?:Python )?(\w+)")
_SHORT = {"boolean": "bool", "integer": "int", "NumPy": "array"}


def baked(warned: list[Any]) -> dict[str, str | int]:
    """What a tracer said about Python values that it turned into constants, as a fact: `bool at model.py:12`."""
    places: dict[str, None] = {}
    for warning in warned:
        found = _CONVERTING.match(str(warning.message))
        file = relative(warning.filename)
        if found and not file.startswith("torch/"):
            places[f"{_SHORT.get(found[1], found[1])} at {file}:{warning.lineno}"] = None
    return {"baked": ", ".join(places)} if places else {}
