"""A folder that shows one fault again: minimal graph, inputs, right answer, and a script that fails while it lasts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from deploykit import onnx_file
from deploykit.errors import UsageError, from_os_error
from deploykit.results import REPRODUCE
from deploykit.signature import Feeds

_SCRIPT = '''\
"""Exits 1 while {title} is wrong; needs only numpy and onnxruntime."""
import sys; from pathlib import Path; import numpy as np; import onnxruntime as ort
here, options = Path(__file__).parent, ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.{level}
session = ort.InferenceSession(str(here / "model.onnx"), options, providers=["CPUExecutionProvider"])
feeds = {{spec.name: np.load(here / f"input_{{i}}.npy") for i, spec in enumerate(session.get_inputs())}}
actual, expected = np.asarray(session.run(None, feeds)[0]), np.load(here / "expected.npy")
same = actual.shape == expected.shape and np.array_equal(np.isfinite(actual), np.isfinite(expected))
both = np.isfinite(expected)
error = np.sqrt(np.mean((actual[both].astype("f8") - expected[both]) ** 2)) if same and both.any() else 0.0
print(f"RMSE {{error:.3g}}, allowed {limit!r}" if same else "another shape or non-finite pattern")
sys.exit(0 if same and error <= {limit!r} else 1)
'''


@dataclass(frozen=True)
class Fault:
    """What a reproducer shows.

    Attributes:
        title: value and variant, for the script's first line and the README.
        model: the smallest graph that still fails, its wrong value the only output.
        feeds: its inputs by name.
        expected: the reference's value.
        limit: RMSE up to which the answer is right.
        level: onnxruntime GraphOptimizationLevel at which it fails.
        why: one line for the README.
    """

    title: str
    model: onnx.ModelProto
    feeds: Feeds
    expected: np.ndarray[tuple[int, ...], np.dtype[np.generic]]
    limit: float
    level: str
    why: str


def write(fault: Fault, folder: Path) -> Path:
    """Write the fault to `folder`, replacing a reproducer that is there.

    Raises:
        UsageError: EXISTS, something else is there.
        DeploykitError: the folder cannot be written.
    """
    if folder.exists() and not (folder / REPRODUCE).is_file():
        hint = "choose another --reproducers DIR"
        raise UsageError(str(folder), "is there and no reproducer of ours", hint, "EXISTS")
    plain = "".join(c for c in fault.title if c.isprintable() and c not in "\"'\\{}")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        onnx_file.save(fault.model, folder / "model.onnx")
        for index, value in enumerate(fault.model.graph.input):
            np.save(folder / f"input_{index}.npy", fault.feeds[value.name])
        np.save(folder / "expected.npy", fault.expected)
        script = _SCRIPT.format(title=plain, level=fault.level, limit=float(fault.limit))
        (folder / REPRODUCE).write_text(script, encoding="utf-8")
        (folder / "README.md").write_text(
            f"{plain}: {fault.why}. `python {REPRODUCE}` exits 1 while the fault is there.\n", encoding="utf-8"
        )
    except OSError as error:
        raise from_os_error(error, folder.name) from error
    return folder
