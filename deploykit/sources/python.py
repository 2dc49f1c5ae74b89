"""`python:package.module:callable` and `python:path/to/file.py:callable`: the user's own code builds the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from deploykit.errors import UsageError
from deploykit.model import LoadedModel, SourceSpec

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Source:
    """A callable without arguments that returns an `nn.Module`, `(module, inputs)` or `(module, inputs, kwargs)`."""

    runs_user_code: ClassVar[bool] = True
    example: ClassVar[str] = "python:path/to/file.py:build"

    def unavailable(self) -> str | None:
        """Why this source cannot be used here, in one line; None when it can."""
        return None if find_spec("torch") else "torch is not installed"

    def load(self, spec: SourceSpec) -> LoadedModel:
        """The user's module in eval mode; its inputs from `spec.inputs`, else from the example inputs.

        Raises:
            UsageError: no such file, module or callable, no module came back, or nothing says what the inputs are.
            RefusedError: the checkpoint is malformed, does not fit, or carries code.
            WorkError: SOURCE_ERROR, the user's code raised.
        """
        import torch
        from torch.nn.parameter import is_lazy

        from deploykit.sources._compiled import taken_off
        from deploykit.sources._forward import describe
        from deploykit.sources._usercode import call_target
        from deploykit.sources._weights import load_weights

        torch.manual_seed(spec.seed)
        module, examples, kwargs = _take_apart(call_target(spec.target), spec.target)
        module, notes = taken_off(module)
        model = describe(module, examples, spec.inputs, spec.seed, kwargs)
        notes |= {"preprocessing": "whatever the module does itself", "weights": f"from the code (seed {spec.seed})"}
        if any(part.training for part in module.modules()):
            notes["train_mode"] = "was in train mode; switched to eval"
        module.eval()
        model.module.eval()
        if any(is_lazy(parameter) for parameter in module.parameters()):
            with torch.no_grad():
                model.module(*map(torch.from_numpy, model.example.values()))
            notes["lazy"] = "the shapes of its weights were taken from the example"
        if spec.checkpoint is not None:
            load_weights(module, spec.checkpoint)
            notes["weights"] = "checkpoint"
        return replace(model, notes={**notes, **model.notes})


def _take_apart(value: Any, target: str) -> tuple[nn.Module, Any, Mapping[str, Any] | None]:
    from torch import nn

    module, examples, kwargs = value, None, None
    if isinstance(value, tuple) and len(value) in {2, 3}:
        module, examples, kwargs = (*value, None)[:3]
    if not isinstance(module, nn.Module) or not (kwargs is None or isinstance(kwargs, Mapping)):
        hint = "return an nn.Module, (module, example_inputs), or (module, args, kwargs)"
        raise UsageError(f"python:{target}", f"returned {_kind(value)}, not a module", hint, "NOT_A_MODULE")
    return module, examples, kwargs


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {', '.join(type(item).__name__ for item in value) or 'nothing'}"
    return f"a {type(value).__name__}"
