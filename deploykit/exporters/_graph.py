"""What the exporters share: example tensors, symbolic dims, one capture with torch.export, and a module left alone.

It imports torch at the top: exporters import it inside their methods only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree

from deploykit import nested
from deploykit.errors import WorkError
from deploykit.exporters._lines import tell_captured
from deploykit.exporters._refusals import explained, first
from deploykit.lines import Lines
from deploykit.model import LoadedModel
from deploykit.quiet import quiet
from deploykit.signature import Dim, Signature
from deploykit.twin import twin


class Flat(torch.nn.Module):
    """`module` with its outputs as one tensor or a flat tuple, in pytree order, without the `None` leaves."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        # not eval(), which would reach into the module
        self.training = False

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The tensors that `module` returns."""
        return flat(self.module(*inputs))


def flat(outputs: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """The tensors inside `outputs` in pytree order: one as it is, several as a tuple."""
    nested.register_dataclasses(outputs)
    leaves = tuple(leaf for leaf in pytree.tree_leaves(outputs) if leaf is not None)
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
                if not torch.equal(buffer, value):  # an expanded buffer may be read and not written
                    buffer.copy_(value)
        for parameter, wanted in grads:
            parameter.requires_grad_(wanted)


def _copied(value: Any) -> Any:
    plain = type(value) in {dict, OrderedDict}  # others may refuse to be written to
    return (value, value.copy()) if plain else (value, None)


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


@dataclass(frozen=True)
class Captured:
    """A module as a torch.export program.

    Attributes:
        program: without source locations.
        facts: what the manifest should say of the capture: `dim NAME`, a range narrower than promised; `captured`, how,
            where the plain way failed, and why.
        lines: where its values come from.
    """

    program: torch.export.ExportedProgram
    facts: dict[str, str]
    lines: Lines


def capture(model: LoadedModel) -> Captured:
    """The module by torch.export, in the plainest way that works.

    Raises:
        WorkError: DYNAMIC_DIM_FIXED when a symbolic dim of the signature became a number, or two became one;
            DATA_DEPENDENT, UNSUPPORTED_OP or EXPORT_ERROR when no way works, with the reason of the plainest.
    """
    tensors, signature = example(model), model.signature
    # a reader of the program would have to know the types of its outputs (dataclasses, those of transformers)
    module = twin(model.module, lambda forward, inputs: flat(forward(*inputs)))
    program, how = _exported(module, tensors, signature)
    narrowed = _check_dims(program, signature)
    lines = tell_captured(program)
    _forget_sources(program)
    return Captured(program, {**{f"dim {name}": bounds for name, bounds in narrowed.items()}, **how}, lines)


def _exported(
    module: torch.nn.Module, tensors: tuple[torch.Tensor, ...], signature: Signature
) -> tuple[torch.export.ExportedProgram, dict[str, str]]:
    """The program; and how it was had where the plain way failed."""
    with explained():
        try:
            try:
                return _export(module, tensors, _named_dims(signature)), {}
            except (torch._dynamo.exc.UserError, ValueError):  # noqa: SLF001 - export's errors have no public name
                # Dim states the promise and is refused where torch infers less; AUTO infers, promises are checked later
                return _export(module, tensors, _auto_dims(signature)), {}
        except Exception as error:
            if isinstance(error, GuardOnDataDependentSymNode):
                raise
            # following the bytecode understands more of Python (numpy inside forward) than running it does
            try:
                program = _export(module, tensors, _auto_dims(signature), strict=True)
            except Exception:  # noqa: BLE001 - the reason that counts is that of the plain way
                raise error from None
            return program, {"captured": f"strictly, since otherwise {type(error).__name__}: {first(str(error))}"}


def _export(
    module: torch.nn.Module, tensors: tuple[torch.Tensor, ...], dims: Any, *, strict: bool = False
) -> torch.export.ExportedProgram:
    return torch.export.export(module, tensors, dynamic_shapes=(tuple(dims),), strict=strict)


def _named_dims(signature: Signature) -> list[dict[int, Any] | None]:
    return _axes(signature, {dim.name: _promised(dim) for dim in signature.dims})


def _promised(dim: Dim) -> Any:
    """The range as torch states it; multiples are a dim of their own times the step."""
    if dim.step == 1:
        return torch.export.Dim(dim.name, min=dim.min, max=dim.max)
    return dim.step * torch.export.Dim(f"_{dim.name}", min=dim.min // dim.step, max=dim.max // dim.step)


def _auto_dims(signature: Signature) -> list[dict[int, Any] | None]:
    return _axes(signature, dict.fromkeys((dim.name for dim in signature.dims), torch.export.Dim.AUTO))


def _axes(signature: Signature, dims: dict[str, Any]) -> list[dict[int, Any] | None]:
    found = [{axis: dims[d] for axis, d in enumerate(spec.shape) if isinstance(d, str)} for spec in signature.inputs]
    return [axes or None for axes in found]


FREE = "use shapes in forward without int(), item() or a Python loop over them; or declare the dim as a number"


def dim_fixed(name: str, what: str, hint: str = FREE) -> WorkError:
    """The error for a symbolic dim that the exporter did not keep."""
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
                message = f"exporting made it equal to {other}"
                raise dim_fixed(name, message, f"call both {other} in --input if they are always alike")
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
