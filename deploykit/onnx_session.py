"""onnxruntime's view of a graph in memory: a session on the CPU at any level, or what its optimizers make of the graph.

For looking into graphs, whatever their size. An artifact that is judged or measured is opened by `runtimes/`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploykit import onnx_file
from deploykit.errors import WorkError
from deploykit.signature import Feeds

if TYPE_CHECKING:
    from onnx import ModelProto

LITERAL, DEPLOYED = "ORT_DISABLE_ALL", "ORT_ENABLE_ALL"
"""Graph levels: every node as it stands in the file, and what a session does when it is not told otherwise."""

_INLINE = 1_500_000_000
"""Bytes of weights up to which a model is handed over in memory: protobuf ends at 2 GiB."""

_BESIDE_FROM = "1024"
"""Bytes of a tensor from which an optimized model has it beside itself, for the same reason; smaller ones stay."""

_FATAL = 4
"""What fails is raised, and a search tries things that fail: nothing else needs to be logged."""


def open_session(model: ModelProto | Path, level: str, threads: int = 0, disabled: Sequence[str] = ()) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU.

    Args:
        model: an ONNX model with its external data inside, or the path of one.
        level: name of an onnxruntime GraphOptimizationLevel.
        threads: for one operator; 0 takes all cores.
        disabled: names of optimizers not to use.

    Raises:
        WorkError: RUN_ERROR, onnxruntime refuses the model.
    """
    # a file for the engine is gone once it is open: what it maps stays
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        return _opened(model, Path(folder), _options(level, threads), disabled)


def run(session: Any, feeds: Feeds, wanted: Sequence[str] = ()) -> Feeds:
    """Outputs of a session by name.

    Args:
        session: of `open_session`.
        feeds: at least its inputs; others are left out.
        wanted: outputs, all where none is named.

    Raises:
        WorkError: RUN_ERROR, onnxruntime fails on them, or an input is missing.
    """
    names = list(wanted) or [value.name for value in session.get_outputs()]
    try:
        taken = {value.name: np.asarray(feeds[value.name], order="C") for value in session.get_inputs()}
        return dict(zip(names, session.run(names, taken), strict=True))
    except Exception as error:  # the edge to onnxruntime, whose exceptions share no base
        raise _run_error(error) from error


def optimized(
    model: ModelProto | Path, level: str, disabled: Sequence[str] = (), *, external: bool = True
) -> ModelProto:
    """The model that onnxruntime would run.

    Args:
        model: as for `open_session`.
        level: as for `open_session`.
        disabled: as for `open_session`.
        external: with its large tensors; without them only the nodes are of use.

    Raises:
        WorkError: RUN_ERROR, onnxruntime refuses the model.
    """
    options = _options(level, 0)
    with tempfile.TemporaryDirectory(prefix="deploykit-") as folder:
        target = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(target)
        beside = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{beside}_file_name", "optimized.data")
        options.add_session_config_entry(f"{beside}_min_size_in_bytes", _BESIDE_FROM)
        _opened(model, Path(folder), options, disabled)
        return onnx_file.load(target, external=external)


def _options(level: str, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    return options


def _opened(model: ModelProto | Path, folder: Path, options: Any, disabled: Sequence[str]) -> Any:
    import onnxruntime as ort

    extra: dict[str, Any] = {"disabled_optimizers": list(disabled)} if disabled else {}
    try:
        return ort.InferenceSession(_handed(model, folder), options, providers=["CPUExecutionProvider"], **extra)
    except Exception as error:  # the edge to onnxruntime, whose exceptions share no base
        raise _run_error(error) from error


def _handed(model: ModelProto | Path, folder: Path) -> bytes | str:
    """What onnxruntime opens: the model in memory, or a path, in `folder` where it is too large for memory."""
    if isinstance(model, Path):
        return str(model)
    if onnx_file.weight_bytes(model) <= _INLINE:
        return bytes(model.SerializeToString())
    copy = type(model)()
    copy.CopyFrom(model)
    onnx_file.save(copy, folder / "part.onnx", 0)
    return str(folder / "part.onnx")


def _run_error(error: Exception) -> WorkError:
    text = " ".join(str(error).split())[:300]
    return WorkError("ONNX graph", text or type(error).__name__, "see --debug", "RUN_ERROR")
