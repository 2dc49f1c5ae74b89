"""A program captured by torch.export, run node by node: its values by name, and how uncertain each of them is.

Used at export, to tell which value of a converted graph is which, and when verify searches. torch is imported inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

Visit = Callable[["torch.fx.Node", "torch.Tensor", "float"], None]
"""Takes a node, its value (a tensor) and its noise (RMS, absolute; 0.0 when not asked for)."""

ULP = 2.0**-23
"""Largest relative distance between neighbours in float32."""

MANY, DRAWS = 1000, 4
"""Elements from which one draw of roundings is sample enough, and how many are made for fewer."""


def visit(program: ExportedProgram, inputs: list[torch.Tensor], see: Visit, *, noise: bool = False) -> None:
    """Run `program` on `inputs` (in call order) and show every tensor that a node computes, in order.

    The tensors may be written to by later nodes: whoever keeps one copies it.

    With `noise` every operator runs once more, each element of what it takes (weights as well) moved to a neighbouring
    float32 or left as it is. How far the answer moves, RMS, is what no float32 evaluation of that operator can be
    blamed for, whatever its order of summation. It is 0.0 for values that are not float32.
    """
    import torch

    class Runner(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Any:
            # before the operator itself, which may work in place
            moved = _moved(self, node) if noise and node.op == "call_function" else []
            value = super().run_node(node)
            if node.op == "call_function" and isinstance(value, torch.Tensor):
                see(node, value, max((_rmse(value, other) for other in moved), default=0.0))
            return value

    with torch.no_grad():
        Runner(program.graph_module).run(*_arguments(program, inputs))


def _arguments(program: ExportedProgram, inputs: list[torch.Tensor]) -> list[Any]:
    """Parameters, buffers, constants and `inputs` in the order in which the program's graph takes them."""
    from torch.export.graph_signature import InputKind

    given = iter(inputs)
    found: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            found.append(next(given))
        elif spec.target in program.constants:
            found.append(program.constants[spec.target])
        else:
            found.append(program.state_dict[str(spec.target)])
    return found


def _moved(runner: torch.fx.Interpreter, node: torch.fx.Node) -> list[torch.Tensor]:
    """What the operator of `node` answers on inputs that are a rounding away; several answers where they are small."""
    import torch
    from torch.utils import _pytree as pytree

    shown = node.meta.get("val")
    if not isinstance(shown, torch.Tensor) or shown.dtype != torch.float32:
        return []
    generator = torch.Generator().manual_seed(0)

    def nearby(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if leaf.dtype != torch.float32:
            return leaf.clone()
        return leaf * torch.empty_like(leaf).uniform_(1.0 - ULP, 1.0 + ULP, generator=generator)

    arguments, keywords = runner.fetch_args_kwargs_from_env(node)
    answers: list[torch.Tensor] = []
    target: Any = node.target
    while len(answers) < (DRAWS if not answers or answers[0].numel() < MANY else 1):
        answers.append(target(*pytree.tree_map(nearby, arguments), **pytree.tree_map(nearby, keywords)))
    return answers


def _rmse(value: torch.Tensor, other: torch.Tensor) -> float:
    """RMS of the difference over the elements that are finite in both; 0.0 without any."""
    import torch

    difference = value - other  # of neighbours: exact in float32, or next to it
    square = float(torch.linalg.vector_norm(difference, dtype=torch.float64)) ** 2
    count = difference.numel()
    if not math.isfinite(square):
        finite = difference[torch.isfinite(difference)]
        square, count = float(torch.linalg.vector_norm(finite, dtype=torch.float64)) ** 2, finite.numel()
    return math.sqrt(square / count) if count else 0.0
