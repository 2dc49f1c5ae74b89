"""An ONNX file as a module: onnxruntime answers in float32, onnx's own reference implementation in float64."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from deploykit import onnx_session
from deploykit.errors import RefusedError, WorkError
from deploykit.finished import SOURCES, Finished
from deploykit.onnx_graph import Array
from deploykit.sources._onnx_exact import Clock, Evaluator
from deploykit.sources._onnx_file import OnnxFile
from deploykit.sources._onnx_writing import write

LITERAL = (onnx_session.LITERAL, 1)
"""How the reference is computed: every node as it stands in the file, one thread."""

OTHERS = (("ORT_ENABLE_BASIC", 1), (onnx_session.LITERAL, 2))
"""As legitimate: constants folded and what is redundant left out; sums split between two threads. The fusions of the
levels above are what verify puts to the test: they have no part in the noise that it is held to."""

LARGE = 500 << 20
"""Bytes of weights above which no other evaluations are made: each session holds them once more."""


COSTLY_S = 0.5
"""CPU seconds of the last answer, the example's, above which it is not computed once more in each of these ways."""


class OnnxModule(Finished, nn.Module):
    """Takes the graph's inputs by position and gives its outputs as a tuple.

    The initializers are its parameters, by the file's names; they are what `to(torch.float64)` computes with, while
    onnxruntime reads the file.

    Args:
        file: checked.
        input_names: the order of forward's arguments.
        output_names: the order of its answer.

    Raises:
        RefusedError: MALFORMED, onnx's checker finds the graph broken.
        WorkError: LOAD_ERROR, onnxruntime does not open it.
    """

    variant = SOURCES["onnx"]
    float64 = "reference"

    def __init__(self, file: OnnxFile, input_names: tuple[str, ...], output_names: tuple[str, ...]) -> None:
        super().__init__()
        self.input_names, self.output_names = input_names, output_names
        self.precision, self.digest = file.precision, file.digest
        self.constants = _scalars(file)
        self._file = file
        self._clock = Clock()
        self._sessions: dict[tuple[str, int], Any] = {LITERAL: _opened(file)}
        self._how: tuple[str, int] | str = LITERAL
        self._see: Callable[[str, Any], None] | None = None
        self._evaluator: Evaluator | None = None
        # not register_parameter: a name with a dot is a name here, and no path
        self._parameters.update({name: _parameter(array) for name, array in file.weights.items()})

    @property
    def weak(self) -> str:
        """Why there is no float64 answer."""
        return self._clock.reason

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs in the file's order, from inputs in its order.

        Raises:
            RuntimeError: onnxruntime, or the reference implementation, refuses these inputs.
        """
        feeds = {name: tensor.numpy() for name, tensor in zip(self.input_names, inputs, strict=True)}
        if self._how == "half":
            raise RuntimeError("a graph has the precision that it was written in")
        if self._evaluator is not None:
            weights = {name: parameter.numpy() for name, parameter in self.named_parameters()}
            return self._evaluator.run(feeds, weights, self._clock, self._see)
        since = time.thread_time()
        try:
            answer = onnx_session.run(self._session(), feeds, self.output_names)
        except WorkError as error:  # what refuses an input is asked for as of any module
            raise RuntimeError(error.message) from error
        self._clock.narrow_s = time.thread_time() - since
        return tuple(torch.from_numpy(np.array(answer[name])) for name in self.output_names)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As of every module; in float64 onnx's reference implementation answers, in float16 nothing does."""
        if args and args[0] == torch.float64:
            self._evaluator = self._evaluator or Evaluator(self._file, self.input_names, self.output_names)
        elif args and args[0] == torch.float16:
            self._how = "half"
            return self
        super().to(*args, **kwargs)
        return self

    def others(self) -> Iterator[OnnxModule]:
        """The same file by sessions that evaluate it in another order."""
        size = sum(parameter.nbytes for parameter in self.parameters())
        if size > LARGE or self._clock.narrow_s > COSTLY_S:
            return
        for how in OTHERS:
            other = self.__deepcopy__({})
            other._how = how  # noqa: SLF001 - it is of this class
            yield other

    @contextmanager
    def watched(self, see: Callable[[str, Any], None]) -> Iterator[None]:
        """While open, the float64 run shows its values."""
        self._see = see
        try:
            yield
        finally:
            self._see = None

    def write(self, target: Path, opset: int | None) -> dict[str, str | int]:
        """See `Finished`."""
        return write(self._file, target, opset)

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002 - torch's face
        """Checks only: the weights are those of the file.

        Raises:
            RuntimeError: they are others.
        """
        for name, parameter in self.named_parameters():
            if not torch.equal(state_dict[name].to(parameter.dtype), parameter):
                raise RuntimeError(f"{name} is not what the ONNX file holds")

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxModule:
        """A copy whose parameters can be converted; file and sessions are shared."""
        other = OnnxModule.__new__(OnnxModule)
        nn.Module.__init__(other)
        memo[id(self)] = other
        vars(other).update({key: value for key, value in vars(self).items() if key != "_parameters"})
        vars(other)["_parameters"] = {
            name: nn.Parameter(parameter.detach(), requires_grad=False) for name, parameter in self.named_parameters()
        }
        return other

    def _session(self) -> Any:
        assert isinstance(self._how, tuple)
        if self._how not in self._sessions:
            level, threads = self._how
            self._sessions[self._how] = onnx_session.open_session(self._file.path, level, threads)
        return self._sessions[self._how]


def _opened(file: OnnxFile) -> Any:
    """The session of the reference; where there is none onnx's checker may know better why."""
    try:
        return onnx_session.open_session(file.path, *LITERAL)
    except WorkError as error:
        if problem := _broken(file):
            raise RefusedError(file.path.name, f"a broken graph: {problem}", "export the model again") from error
        hint = "use a newer onnxruntime, or export the model for this one"
        message = error.message.replace(str(file.path), file.path.name)
        raise WorkError(file.path.name, message, hint, "LOAD_ERROR") from error


def _broken(file: OnnxFile) -> str:
    import onnx

    from deploykit.foreign import brief

    try:
        onnx.checker.check_model(str(file.path))
    except Exception as error:  # noqa: BLE001 - onnx's errors share no base; the session's own is told otherwise
        return brief(str(error)).replace(str(file.path.parent), "")
    return ""


def _parameter(array: Array) -> nn.Parameter:
    """The same bytes as torch has them; numpy knows the short floats by the types of ml_dtypes."""
    plain = array if array.flags.writeable and array.flags.c_contiguous else array.copy(order="C")
    if plain.dtype.kind == "V" or plain.dtype.name not in _NUMPYS:
        kind = getattr(torch, _TORCHS.get(plain.dtype.name, plain.dtype.name))
        tensor = torch.from_numpy(plain.view(f"u{plain.dtype.itemsize}")).view(kind)
    else:
        tensor = torch.from_numpy(plain)
    return nn.Parameter(tensor, requires_grad=False)


_NUMPYS = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "complex64", "complex128",
}  # fmt: skip
_TORCHS = {"bfloat16": "bfloat16"}


def _scalars(file: OnnxFile) -> frozenset[float]:
    """Values of constants with one float element."""
    found = set()
    for name, tensor in file.graph.tensors.items():
        if file.graph.kind(name) in {"float", "float16", "double"} and file.graph.size(name) == 1:
            found.add(float(file.graph.array(tensor.name or name).reshape(())))
    return frozenset(found)
