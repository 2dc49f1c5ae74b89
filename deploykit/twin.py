"""A module that is called another way: same weights, same names, same class, and the original as it was."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

Around = Callable[[Callable[..., Any], "tuple[Any, ...]"], Any]
"""What is called instead of forward: gets forward itself and the arguments of the call."""


def twin(module: nn.Module, around: Around) -> nn.Module:
    """A module that calls `around(forward, arguments)` and otherwise is `module`, whose tensors and parts it shares.

    Modules of torch's own making (TorchScript, graphs) have no forward that can be replaced: they become its `program`,
    and so do modules with hooks of their own.
    """
    import torch

    # hooks of the module itself are for the arguments of its own forward, and so is a forward borrowed from another
    hooks = vars(module).get("_forward_hooks") or vars(module).get("_forward_pre_hooks")
    borrowed = getattr(vars(module).get("forward"), "__self__", module) is not module
    if hooks or borrowed or isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
        return _held(module, around)
    other: nn.Module = object.__new__(type(module))
    vars(other).update(vars(module))
    vars(other).pop("_compiled_call_impl", None)  # of `module.compile()`: it would call the original
    own = vars(module).get("forward", type(module).forward)
    of_instance = "forward" in vars(module) and not isinstance(own, types.MethodType)
    of_instance = of_instance or isinstance(inspect.getattr_static(type(module), "forward"), staticmethod)
    function = own.__func__ if isinstance(own, types.MethodType) else own

    def forward(self: nn.Module, *inputs: Any) -> Any:
        return around(function if of_instance else partial(function, self), inputs)

    # of the instance, so that the class stays the user's, and bound, so that a deep copy calls itself
    vars(other)["forward"] = types.MethodType(forward, other)
    return other


def _held(program: nn.Module, around: Around) -> nn.Module:
    from torch import nn

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = program
            self.training = program.training

        def forward(self, *inputs: Any) -> Any:
            return around(self.program, inputs)

    return Holder()
