"""Inputs and outputs keep their names in an ONNX graph; values inside that have the same ones get others.

torch names values after operators and outputs as it is told to, without a look at each other: an output called
`embedding` and an embedding layer make a file that no engine opens.
"""

from __future__ import annotations

from typing import Any


def make_distinct(model: Any) -> None:
    """Rename what inside `model` (an `onnx_ir.Model`) has the name of an input or output: `embedding_inner`."""
    import onnx_ir

    shown = [*model.graph.inputs, *model.graph.outputs]
    taken = {value.name for value in shown}
    inside = [value for node in onnx_ir.traversal.RecursiveGraphIterator(model.graph) for value in node.outputs]
    inside += list(model.graph.initializers.values())
    own = {id(value) for value in shown}
    clashing = [value for value in inside if value.name in taken and id(value) not in own]
    taken |= {value.name for value in inside}
    for value in clashing:
        name = f"{value.name}_inner"
        while name in taken:
            name += "_"
        taken.add(name)
        value.name = name
