"""An ONNX file on its way into a bundle: byte for byte where it can be, and without what tells of another machine."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit import onnx_file, onnx_versions
from deploykit.errors import WorkError
from deploykit.foreign import brief
from deploykit.sources._onnx_file import OnnxFile, graphs

if TYPE_CHECKING:
    from onnx import ModelProto

_PLACE = re.compile(r"(?:^|[\s\"'(\[=,:])(?:/|[A-Za-z]:[\\/])[\w.+@~ -]+[\\/][\w.+@~-]")
"""An absolute path of two parts or more, as stack traces have them."""

_PLAIN = re.compile(r"[\w.-]+")


def write(file: OnnxFile, target: Path, opset: int | None) -> dict[str, str | int]:
    """Write the file to `target`: the same bytes, its external data beside it under the same name.

    It is written anew, with the same graph and weights, where documentation in it names paths of a machine (those
    fields are left out), where its external data lies in folders or several files, or where an older opset is asked
    for.

    Raises:
        WorkError: TARGET_TOO_OLD, onnx's converter cannot make it so old.
    """
    notes = _notes(file.model)
    older = opset is not None and file.opset > opset
    plain = not file.beside or (
        len(file.beside) == 1 and _PLAIN.fullmatch(file.beside[0]) and file.beside[0] != target.name
    )
    facts: dict[str, str | int] = {}
    if plain and not notes and not older:
        shutil.copyfile(file.path, target)
        for name in file.beside:
            shutil.copyfile(file.path.parent / name, target.parent / name)
        return {"opset": file.opset, "ir_version": int(file.model.ir_version), "origin": "the file, byte for byte"}
    model = onnx_file.load(file.path)
    if notes:
        for message, key in _notes(model):
            message.ClearField(key) if isinstance(key, str) else message.metadata_props.remove(key)
        facts["origin"] = f"the file without {len(notes)} notes that name paths"
    else:
        facts["origin"] = "the file, written anew"
    if older:
        model = _converted(model, file, int(opset or 0))
        facts["origin"] = f"the file, converted from opset {file.opset}"
    onnx_file.save(model, target, None, keep_notes=True)
    return {"opset": onnx_versions.opset(model), "ir_version": int(model.ir_version), **facts}


def _converted(model: ModelProto, file: OnnxFile, opset: int) -> ModelProto:
    from onnx import version_converter

    try:
        found: ModelProto = version_converter.convert_version(model, opset)
    except Exception as error:  # the edge to onnx, whose errors share no base
        message = f"onnx cannot convert opset {file.opset} to {opset}: {brief(str(error))}"
        hint = "choose a newer --target, or export the model for it"
        raise WorkError(file.path.name, message, hint, "TARGET_TOO_OLD") from error
    return found


def _notes(model: ModelProto) -> list[tuple[Any, Any]]:
    """Documentation fields and metadata entries with an absolute path, each with the message that holds it."""
    found: list[tuple[Any, Any]] = []
    for holder in _holders(model):
        if _PLACE.search(getattr(holder, "doc_string", "")):
            found.append((holder, "doc_string"))
        found += [(holder, entry) for entry in getattr(holder, "metadata_props", ()) if _PLACE.search(entry.value)]
    return found


def _holders(model: ModelProto) -> list[Any]:
    """Every message that can hold documentation; tensors by hand, so that no weights are copied."""
    found: list[Any] = [model]
    for graph in graphs(model):
        found.append(graph)
        for name in ("initializer", "input", "output", "value_info"):
            held = getattr(graph, name, ())
            found += [one for one in held if not isinstance(one, str)]
        for node in graph.node:
            found.append(node)
            found += node.attribute
            found += [entry.t for entry in node.attribute if entry.HasField("t")]
    return found
