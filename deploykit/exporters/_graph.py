"""What the exporters share: example tensors, symbolic dims, one capture with torch.export, and a module left alone.

It imports torch at the top: exporters import it inside their methods only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree

from deploykit.errors import WorkError
from deploykit.exporters._lines import tell_captured
from deploykit.model import LoadedModel
from deploykit.quiet import quiet
from deploykit.signature import Signature


class Flat(torch.nn.Module):
    """`module` with its outputs as one tensor or a flat tuple, in pytree order, without the `None` leaves."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        # not eval(), which would reach into the module
        self.training = False

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The tensors that `module` returns."""
        leaves = tuple(leaf for leaf in pytree.tree_leaves(self.module(*inputs)) if leaf is not None)
        return leaves[0] if len(leaves) == 1 else leaves


@contextmanager
def untouched(module: torch.nn.Module) -> Iterator[None]:
    """Give `module` and torch's globals back as they were: tracing calls forward, and forward may write anywhere."""
    state = [(owner, {key: _copied(value) for key, value in vars(owner).items()}) for owner in module.modules()]
    values = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    grads = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    # attention's fused kernel has no ONNX form and fails trace checks
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), quiet():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for owner, attributes in state:
            _restore(owner, attributes)
        with torch.no_grad():
            # also after a failure: the next exporter works on the same module
            for buffer, value in values:
                buffer.copy_(value)
        for parameter, wanted in grads:
            parameter.requires_grad_(wanted)


def _copied(value: Any) -> Any:
    return (value, value.copy()) if isinstance(value, dict) else (value, None)


def _restore(owner: torch.nn.Module, attributes: dict[str, Any]) -> None:
    """Attributes by identity, dicts (parameters, buffers, hooks) also by content."""
    own = vars(owner)
    own.clear()
    for key, (value, content) in attributes.items():
        own[key] = value
        if content is not None:
            value.clear()
            value.update(content)


def example(model: LoadedModel) -> tuple[torch.Tensor, ...]:
    """Fresh tensors of the example feeds in call order, where the module's parameters are."""
    device = next((p.device for p in model.module.parameters()), torch.device("cpu"))
    return tuple(torch.from_numpy(model.example[spec.name].copy()).to(device) for spec in model.signature.inputs)


def capture(model: LoadedModel) -> tuple[torch.export.ExportedProgram, dict[str, str]]:
    """The module as a torch.export program without source locations; and the ranges narrower than promised.

    Raises:
        WorkError: DYNAMIC_DIM_FIXED when a symbolic dim of the signature became a number, or two became one.
    """
    tensors, signature = example(model), model.signature
    try:
        program = _export(model.module, tensors, _named_dims(signature))
    except (torch._dynamo.exc.UserError, ValueError):  # noqa: SLF001 - the class export raises has no public name
        # Dim states the promise and is refused where torch would infer less; AUTO infers, then the promise is checked
        program = _export(model.module, tensors, _auto_dims(signature))
    narrowed = _check_dims(program, signature)
    tell_captured(program)
    _forget_sources(program)
    return program, narrowed


def _export(module: torch.nn.Module, tensors: tuple[torch.Tensor, ...], dims: Any) -> torch.export.ExportedProgram:
    return torch.export.export(module, tensors, dynamic_shapes=_by_argument(module, tensors, dims), strict=False)


def _by_argument(module: torch.nn.Module, tensors: tuple[torch.Tensor, ...], dims: list[Any]) -> Any:
    """`dims` in the nesting of forward's arguments: a `*args` parameter holds all the rest in one tuple."""
    import inspect

    nested: list[Any] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            nested.append(tuple(dims[len(nested) :]))
            break
        if len(nested) == len(tensors):
            break
        nested.append(dims[len(nested)])
    return tuple(nested)


def _named_dims(signature: Signature) -> list[dict[int, Any] | None]:
    named = {dim.name: torch.export.Dim(dim.name, min=dim.min, max=dim.max) for dim in signature.dims}
    return _axes(signature, named)


def _auto_dims(signature: Signature) -> list[dict[int, Any] | None]:
    return _axes(signature, dict.fromkeys((dim.name for dim in signature.dims), torch.export.Dim.AUTO))


def _axes(signature: Signature, dims: dict[str, Any]) -> list[dict[int, Any] | None]:
    found = [{axis: dims[d] for axis, d in enumerate(spec.shape) if isinstance(d, str)} for spec in signature.inputs]
    return [axes or None for axes in found]


def dim_fixed(name: str, what: str) -> WorkError:
    """The error for a symbolic dim that the exporter did not keep."""
    hint = "use shapes in forward as they are, without int() or item(); or declare the dim as a number"
    return WorkError(f"dim {name}", what, hint, "DYNAMIC_DIM_FIXED")


def _check_dims(program: torch.export.ExportedProgram, signature: Signature) -> dict[str, str]:
    """Ranges that came out narrower than promised, by dim name."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    found: dict[str, str] = {}
    narrowed: dict[str, str] = {}
    promised = {dim.name: dim for dim in signature.dims}
    for spec, user_input in zip(signature.inputs, program.graph_signature.user_inputs, strict=True):
        shape = nodes[str(user_input)].meta["val"].shape
        for name, size in zip(spec.shape, shape, strict=True):
            if isinstance(name, int):
                continue
            symbol = str(size)
            # a specialised dim can still be a SymInt, of a constant
            if symbol.isdecimal():
                raise dim_fixed(name, f"exporting fixed it to {symbol} in input {spec.name}")
            other = next((n for n, s in found.items() if s == symbol and n != name), None)
            if other is not None:
                raise dim_fixed(name, f"exporting made it equal to {other}")
            found[name] = symbol
            bounds = program.range_constraints.get(size.node.expr)
            # an inferred lower end of 2 is torch's way to say "not specialised"; 1 runs as well
            if bounds is not None and (bounds.lower > max(2, promised[name].min) or bounds.upper < promised[name].max):
                narrowed[name] = f"{bounds.lower} to {bounds.upper}"
    return narrowed


def _forget_sources(program: torch.export.ExportedProgram) -> None:
    """Drop stack traces, which hold absolute paths, and the example inputs, which would be stored as a pickle."""
    for graph in program.graph_module.modules():
        if isinstance(graph, torch.fx.GraphModule):
            for node in graph.graph.nodes:
                node.meta.pop("stack_trace", None)
    program.example_inputs = None
