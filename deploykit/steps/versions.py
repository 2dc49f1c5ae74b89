"""Step: the versions that an ONNX file asks for, read or lowered; nothing is run."""

from __future__ import annotations

from pathlib import Path

from deploykit import onnx_file, onnx_versions
from deploykit.errors import from_os_error


def read(artifact: str) -> dict[str, int]:
    """`opset` and `ir_version` of the file.

    Raises:
        RefusedError: it is no ONNX model.
    """
    model = onnx_file.load(Path(artifact), external=False)
    return {"opset": onnx_versions.opset(model), "ir_version": int(model.ir_version)}


def fit(artifact: str, ir: int) -> dict[str, int]:
    """Lower the IR version to `ir` where the model allows it and drop operator sets it does not use; then as `read`.

    The file is changed in place; data beside it stays as it is, and so does the order of everything that is kept.

    Raises:
        RefusedError: it is no ONNX model.
        StorageError: it cannot be written.
    """
    path = Path(artifact)
    model = onnx_file.load(path, external=False)
    before = model.SerializeToString(deterministic=True)
    onnx_versions.lower(model, ir)
    after = model.SerializeToString(deterministic=True)
    if after != before:
        try:
            path.write_bytes(after)
        except OSError as error:
            raise from_os_error(error, path.name) from error
    return {"opset": onnx_versions.opset(model), "ir_version": int(model.ir_version)}
