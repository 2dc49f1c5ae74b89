"""`torchscript:FILE.pt`: a program that `torch.jit.save` wrote. Opening one can run code: `--trust-code`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from deploykit.errors import UsageError
from deploykit.model import LoadedModel, SourceSpec
from deploykit.signature import Signature, TensorSpec, parse_dims, parse_input

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Source:
    """One TorchScript program; it names its inputs, and `--input` says their dtypes and dims."""

    runs_user_code: ClassVar[bool] = True
    example: ClassVar[str] = "torchscript:path/to/model.pt"

    def unavailable(self) -> str | None:
        """Why this source cannot be used here, in one line; None when it can."""
        return None if find_spec("torch") else "torch is not installed"

    def load(self, spec: SourceSpec) -> LoadedModel:
        """The program in eval mode, its inputs in the order of its forward.

        Raises:
            UsageError: there is no such file; NO_INPUTS, INPUT_NAMES, `--input` is missing or does not fit.
            RefusedError: UNTRUSTED_CODE; MALFORMED; the checkpoint does not fit.
        """
        import torch

        from deploykit.sources._example import dims_of, draw
        from deploykit.sources._saved import checked, unreadable
        from deploykit.sources._weights import load_weights

        file = checked(spec)
        try:
            module = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever a reader meets in a file from elsewhere
            raise unreadable(spec, error) from error
        inputs = _inputs(module, spec)
        if getattr(module, "training", False):  # a frozen program has no such switch
            module.eval()
        if spec.checkpoint is not None:
            load_weights(module, spec.checkpoint)
        dims = dims_of(inputs, parse_dims(spec.inputs))
        notes = {"weights": "checkpoint" if spec.checkpoint else "from the file", "preprocessing": "none"}
        return LoadedModel(module, Signature(inputs, dims=dims), draw(inputs, spec.seed, dims), notes, drawn=True)


def _inputs(module: torch.jit.ScriptModule, spec: SourceSpec) -> tuple[TensorSpec, ...]:
    """What `--input` says of forward's tensors, in forward's order."""
    forward: Any = module.forward
    _, *arguments = forward.schema.arguments  # the first is the module, whatever it is called
    others = [one for one in arguments if str(one.type) != "Tensor" and not one.has_default_value()]
    subject = f"torchscript:{spec.target}"
    if others:
        message = f"forward takes {others[0].name} as {others[0].type}"
        raise UsageError(subject, message, "save a program that takes tensors one by one", "NO_INPUTS")
    given = {one.name: one for one in map(parse_input, spec.inputs)}
    needed = [one.name for one in arguments if str(one.type) == "Tensor" and not one.has_default_value()]
    names = [one.name for one in arguments if one.name in given]
    if not given:
        hint = f"add --input NAME:DTYPE[dims] for NAME in {', '.join(needed)}"
        raise UsageError(subject, "the file does not say what the inputs are like", hint, "NO_INPUTS")
    # by position: what is left out may only be at the end
    if set(given) != set(names) or names != [one.name for one in arguments[: len(names)]] or set(needed) - set(names):
        message = f"forward takes {', '.join(one.name for one in arguments)}; given were {', '.join(given)}"
        raise UsageError("--input", message, f"name {', '.join(needed)}, each once", "INPUT_NAMES")
    return tuple(given[name] for name in names)
