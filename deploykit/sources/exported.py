"""`exported:FILE.pt2`: a program that `torch.export.save` wrote. Opening one can run code: `--trust-code`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from deploykit.errors import UsageError
from deploykit.model import LoadedModel, SourceSpec
from deploykit.signature import MAX_DIM, Dim, Feeds, Signature, TensorSpec, parse_dims, parse_input

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram


@dataclass(frozen=True)
class Source:
    """One exported program: its own dims and ranges, its own example inputs."""

    runs_user_code: ClassVar[bool] = True
    example: ClassVar[str] = "exported:path/to/model.pt2"

    def unavailable(self) -> str | None:
        """Why this source cannot be used here, in one line; None when it can."""
        return None if find_spec("torch") else "torch is not installed"

    def load(self, spec: SourceSpec) -> LoadedModel:
        """The program as a module, its inputs named as in its graph.

        Dims are symbolic where the program has them so: `N` where all inputs share the first, `D1`, `D2`, … elsewhere.

        Raises:
            UsageError: there is no such file, or `--input` does not fit the program.
            RefusedError: UNTRUSTED_CODE; MALFORMED; the checkpoint does not fit.
        """
        import torch

        from deploykit.sources._saved import checked, unreadable
        from deploykit.sources._weights import load_weights

        file = checked(spec)
        try:
            program = torch.export.load(str(file))
        except Exception as error:  # whatever a serializer meets in a file from elsewhere
            raise unreadable(spec, error) from error
        graph = program.module(check_guards=False)
        if spec.checkpoint is not None:
            load_weights(graph, spec.checkpoint)
        module = _called_by_place(program, graph)
        signature, feeds, drawn = _inputs(program, spec)
        notes = {"weights": "checkpoint" if spec.checkpoint else "from the file", "preprocessing": "none"}
        return LoadedModel(module, signature, feeds, notes, drawn=drawn)


def _called_by_place(program: ExportedProgram, module: torch.nn.Module) -> torch.nn.Module:
    """A module that takes the program's tensors in order; constants of the call are put back in their places."""
    from torch.export.graph_signature import ConstantArgument, InputKind
    from torch.utils import _pytree as pytree

    from deploykit.twin import twin

    # its check of sizes is no part of the model: a trace cannot follow it, and the dims say the same
    module._forward_pre_hooks.clear()  # noqa: SLF001 - torch offers no program without it
    for part in module.modules():
        vars(part)["training"] = False
    vars(module)["train"] = lambda mode=True: module  # noqa: ARG005 - the graph is what it is; torch's own raises
    arguments = [one.arg for one in program.graph_signature.input_specs if one.kind is InputKind.USER_INPUT]
    tree = program.call_spec.in_spec

    def around(forward: Any, inputs: tuple[Any, ...]) -> Any:
        given = iter(inputs)
        leaves = [one.value if isinstance(one, ConstantArgument) else next(given) for one in arguments]
        args, kwargs = pytree.tree_unflatten(leaves, tree)
        return forward(*args, **kwargs)

    return twin(module, around)


def _inputs(program: ExportedProgram, spec: SourceSpec) -> tuple[Signature, Feeds, bool]:
    """Names, dtypes and dims of the program's tensors, one set of feeds, and whether its values are made up."""
    from deploykit.sources._example import dims_of, draw, example_sizes, resized

    own, ranges = _specs(program)
    given = {text_spec.name: text_spec for text_spec in map(parse_input, spec.inputs)}
    for name, described in given.items():
        one = next((one for one in own if one.name == name), None)
        if one is None:
            hint = f"it takes {', '.join(map(str, own))}"
            raise UsageError("--input", f"no input is called {name}", hint, "INPUT_NAMES")
        if described.dtype != one.dtype or not _fits(described, one):
            raise UsageError("--input", f"{described} does not fit the program", f"it takes {one}", "BAD_INPUT")
    specs = tuple(given.get(one.name, one) for one in own)
    stated = {dim.name: dim for dim in (*ranges, *parse_dims(spec.inputs)) if dim.stated}
    signature = Signature(specs, dims=dims_of(specs, stated.values()))
    stored = _stored(program, specs)
    if stored is None:
        return signature, draw(specs, spec.seed, signature.dims), True
    sizes = example_sizes(specs, signature.dims)
    return signature, {one.name: resized(stored[one.name], one.concrete(sizes)) for one in specs}, False


def _fits(described: TensorSpec, one: TensorSpec) -> bool:
    """Whether every dim is as the program has it; a symbolic one may be fixed or named otherwise."""
    pairs = zip(described.shape, one.shape, strict=False)
    return len(described.shape) == len(one.shape) and all(isinstance(dim, str) or dim == size for size, dim in pairs)


def _specs(program: ExportedProgram) -> tuple[tuple[TensorSpec, ...], tuple[Dim, ...]]:
    """The tensors that the program takes, and the ranges of their symbolic dims.

    A dim that is computed from another (`2*s0`) becomes the number that it had when the program was captured, and so
    does the other: deploykit varies dims one by one.
    """
    import torch

    user = set(map(str, program.graph_signature.user_inputs))
    values = {
        node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in user
    }
    tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
    shapes: list[list[Any]] = [list(tensor.shape) for tensor in tensors.values()]
    symbols = [size.node.expr for shape in shapes for size in shape if isinstance(size, torch.SymInt)]
    frozen = {free for expr in symbols if not expr.is_Symbol for free in expr.free_symbols}
    leading = {shape[0].node.expr if shape and isinstance(shape[0], torch.SymInt) else None for shape in shapes}
    batch = leading.pop() if len(leading) == 1 else None
    dims: dict[Any, Dim] = {}
    found = []
    for name, tensor in tensors.items():
        shape: list[int | str] = []
        for size in list[Any](tensor.shape):
            if isinstance(size, int) or size.node.expr.free_symbols & frozen or size.node.expr.is_number:
                shape.append(int(size))
                continue
            symbol = size.node.expr
            if symbol not in dims:
                named = "N" if symbol == batch else f"D{len(dims.keys() - {batch}) + 1}"
                dims[symbol] = _dim(named, program.range_constraints.get(symbol))
            shape.append(dims[symbol].name)
        found.append(TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(shape)))
    return tuple(found), tuple(dims.values())


def _dim(name: str, bounds: Any) -> Dim:
    """The range that the program promises; torch infers 2 where it means "any size but a special one"."""
    low, high = (1, MAX_DIM) if bounds is None else (_whole(bounds.lower, 1), _whole(bounds.upper, MAX_DIM))
    return Dim(name, 1 if low <= 2 else low, min(high, MAX_DIM))


def _whole(bound: Any, otherwise: int) -> int:
    """A bound as a number; `otherwise` where there is none (sympy's and torch's own infinities are no numbers)."""
    return int(bound) if getattr(bound, "is_Integer", isinstance(bound, int)) else otherwise


def _stored(program: ExportedProgram, specs: tuple[TensorSpec, ...]) -> Feeds | None:
    """The example inputs in the file, by name; None where it holds none."""
    import torch
    from torch.utils import _pytree as pytree

    from deploykit.sources._forward import array_of

    if program.example_inputs is None:
        return None
    tensors = [leaf for leaf in pytree.tree_leaves(program.example_inputs) if isinstance(leaf, torch.Tensor)]
    if len(tensors) != len(specs):
        return None
    return {spec.name: array_of(spec.name, tensor) for spec, tensor in zip(specs, tensors, strict=True)}
