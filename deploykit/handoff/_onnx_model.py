"""One version of a model, open in onnxruntime: what does not fit is refused before the engine sees it.

This file is copied into handoff folders as `onnx_model.py`; beside numpy and onnxruntime it needs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

NUMPY = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64"} | {
    f"{sign}INT{bits}": f"{sign.lower()}int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)
}
"""Datatypes of the Open Inference Protocol to numpy's."""

DATATYPES = {dtype: datatype for datatype, dtype in NUMPY.items()}

KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "fiu"}
"""Kind of a dtype to the kinds of JSON numbers that it takes: no fraction is dropped, no text is read as a number."""

LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}

LOGGED = 3
"""Severity from which onnxruntime logs: errors."""


class UnfitError(ValueError):
    """A request that does not fit the model: the client's mistake, a 400."""


@dataclass(frozen=True)
class Sent:
    """A tensor as a request holds it: `data` is a list, flat or nested, or the bytes, little-endian and row-major."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Sequence[Any] | bytes


class OnnxModel:
    """A version of the model. Several threads may call `infer` at once: onnxruntime's sessions allow that.

    Args:
        artifact: the ONNX file.
        config: `settings` of the session; `inputs` and `outputs`, each `{"name", "datatype", "shape"}` with a name for
            a symbolic dim; `dims`, name to its smallest and largest size.

    Raises:
        RuntimeError: onnxruntime opens the model on another execution provider than asked for.
    """

    def __init__(self, artifact: Path, config: Mapping[str, Any]) -> None:
        self.config = config
        self.inputs = {one["name"]: one for one in config["inputs"]}
        self.outputs = [one["name"] for one in config["outputs"]]
        ort.disable_telemetry_events()
        ort.set_default_logger_severity(LOGGED)
        provider = config["settings"]["provider"]
        self._session = ort.InferenceSession(str(artifact), session_options(config["settings"]), providers=[provider])
        if self._session.get_providers()[0] != provider:
            raise RuntimeError(f"{artifact.name} opened on {self._session.get_providers()[0]}, not on {provider}")

    def opened(self) -> str:
        """How the session is open, read back from the engine."""
        options = self._session.get_session_options()
        words = {
            "provider": self._session.get_providers()[0],
            "threads": options.intra_op_num_threads or "default",
            "graph_level": options.graph_optimization_level.name,
            "spinning": options.get_session_config_entry("session.intra_op.allow_spinning"),
            "arena": int(options.enable_cpu_mem_arena),
        }
        return " ".join(f"{name}={value}" for name, value in words.items())

    def described(self, side: str) -> list[dict[str, Any]]:
        """The `inputs` or the `outputs` as the protocol's metadata has them: a symbolic dim is -1."""
        return [
            {**one, "shape": [dim if isinstance(dim, int) else -1 for dim in one["shape"]]} for one in self.config[side]
        ]

    def infer(self, sent: Iterable[Sent], wanted: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """The outputs by name; all where none is wanted.

        Raises:
            UnfitError: names, datatypes, shapes or values do not fit.
        """
        feeds = self.feeds(list(sent))
        names = list(dict.fromkeys(wanted)) or self.outputs
        if unknown := [name for name in names if name not in self.outputs]:
            raise UnfitError(f"there is no output {unknown[0][:80]!r}; there are {', '.join(self.outputs)}")
        return self.run(feeds, names)

    def run(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
        """The outputs `names` for arrays that `feeds` gave."""
        return dict(zip(names, self._session.run(list(names), dict(feeds)), strict=True))

    def feeds(self, sent: Sequence[Sent]) -> dict[str, np.ndarray]:
        """The arrays by name.

        Raises:
            UnfitError: see `infer`.
        """
        names = [one.name for one in sent]
        if sorted(names) != sorted(self.inputs):
            given = ", ".join(name[:80] for name in names[:8]) or "none"
            raise UnfitError(f"the inputs are {', '.join(self.inputs)}, each once; sent were {given}")
        sizes: dict[str, int] = {}
        for one in sent:
            self._check(one, sizes)
        return {one.name: array_of(one) for one in sent}

    def _check(self, sent: Sent, sizes: dict[str, int]) -> None:
        """Hold one tensor to what was declared; `sizes` gathers the symbolic dims of the whole request."""
        spec = self.inputs[sent.name]
        if sent.datatype != spec["datatype"]:
            raise UnfitError(f"input {sent.name} is {spec['datatype']}, not {sent.datatype[:20]}")
        wanted = f"input {sent.name} has the shape [{', '.join(map(str, spec['shape']))}]"
        if len(sent.shape) != len(spec["shape"]):
            raise UnfitError(f"{wanted}, not {list(sent.shape[:16])}")
        for dim, size in zip(spec["shape"], sent.shape, strict=True):
            if isinstance(dim, int):
                if size != dim:
                    raise UnfitError(f"{wanted}, not {list(sent.shape)}")
                continue
            low, high = self.config["dims"].get(dim, (0, 2**31 - 1))
            if not low <= size <= high or sizes.setdefault(dim, size) != size:
                raise UnfitError(f"{wanted}, not {list(sent.shape)}: {dim} is one size from {low} to {high}")


def session_options(settings: Mapping[str, Any]) -> ort.SessionOptions:
    """What a session opens with, as it was when the model was verified."""
    options = ort.SessionOptions()
    options.log_severity_level = LOGGED
    options.inter_op_num_threads = 1
    if settings["threads"] is not None:
        options.intra_op_num_threads = settings["threads"]
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[settings["graph_level"]])
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings["spinning"] else "0")
    options.enable_cpu_mem_arena = options.enable_mem_pattern = settings["arena"]
    return options


def array_of(sent: Sent) -> np.ndarray:
    """The array of a tensor whose datatype and shape were checked.

    Raises:
        UnfitError: too few or too many values, or one that is not of the datatype.
    """
    dtype = np.dtype(NUMPY[sent.datatype])
    if isinstance(sent.data, bytes):
        if len(sent.data) != prod(sent.shape) * dtype.itemsize:
            message = f"{len(sent.data)} bytes for the shape {list(sent.shape)} of {sent.datatype}"
            raise UnfitError(f"input {sent.name}: {message}")
        return np.frombuffer(sent.data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(sent.shape)
    try:
        found = np.array(sent.data)
    except (ValueError, OverflowError) as error:
        raise UnfitError(f"input {sent.name}: its data is no list of numbers") from error
    if found.size != prod(sent.shape) or (found.ndim > 1 and found.shape != sent.shape):
        raise UnfitError(f"input {sent.name}: {found.size} values, nested {found.ndim} deep, for {list(sent.shape)}")
    return _cast(sent, found, dtype).reshape(sent.shape)


def _cast(sent: Sent, found: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Numbers as JSON has them in the dtype that was declared, rounded where that is a float, never wrapped."""
    if not found.size:
        return found.astype(dtype)
    if dtype.kind in "iu" and found.dtype.kind in "fO":
        found = _whole(sent, found)
    if found.dtype.kind not in KINDS[dtype.kind]:
        raise UnfitError(f"input {sent.name}: not all of its data are {sent.datatype}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise UnfitError(f"input {sent.name}: a value is outside {sent.datatype}")
    try:
        with np.errstate(over="raise"):
            return found.astype(dtype)
    except FloatingPointError as error:
        raise UnfitError(f"input {sent.name}: a value is too large for {sent.datatype}") from error


def _whole(sent: Sent, found: np.ndarray) -> np.ndarray:
    """Numbers that numpy took for something else, since no integer dtype of its holds them all: [0, 2**64 - 1]."""
    exact = np.array(sent.data, dtype=object)
    whole = exact.size == found.size and all(type(one) is int for one in exact.flat)
    unsigned = whole and min(exact.flat) >= 0 and max(exact.flat) < 2**64
    return exact.astype("uint64") if unsigned else found
