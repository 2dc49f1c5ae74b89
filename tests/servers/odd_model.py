"""A web folder made by hand around a model of every kind of number: what the seed model does not have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from deploykit.bundle import VariantRecord
from deploykit.handed import RECORD, Handed, HandedCase, HandedVersion
from deploykit.handoff import _layout, web
from deploykit.handoff.interface import Given, Version
from deploykit.signature import Dim, Signature, TensorSpec

SIGNATURE = Signature(
    (
        TensorSpec("a", "int64", ("N", "T")),
        TensorSpec("b", "float16", ("N", "T")),
        TensorSpec("m", "bool", ("N", "T")),
        TensorSpec("s", "float64", ()),
        TensorSpec("u", "uint8", ("T",)),
    ),
    (
        TensorSpec("sum", "int64", ("N", "T")),
        TensorSpec("half", "float16", ("N", "T")),
        TensorSpec("no", "bool", ("N", "T")),
        TensorSpec("double", "float64", ("N", "T")),
    ),
    (Dim("N", 1, 8), Dim("T", 2, 9)),
)
LIMITS = {"sum": None, "half": 0.0, "no": None, "double": 1e-15}


def odd(place: Path) -> Path:
    """The folder: int64, bool, float16 and float64 in and out, a scalar, a symbolic inner dim, external data.

    Args:
        place: existing; gets `source/` and the folder `odd/`.
    """
    _save(place / "source")
    record = VariantRecord(
        name="odd", status="ready", made_by="x", precision="fp32", runtime="onnxruntime", file="variants/odd/model.onnx"
    )
    version = Version(1, record, {name: place / "source" / name for name in ("model.onnx", "model.onnx.data")})
    tree = web.Target().files(Given("odd", SIGNATURE, (version,)))
    stage = place / "odd"
    _layout.lay(tree, stage)
    cases = tuple(_case(place / "source/model.onnx", stage, shape) for shape in ((1, 2), (3, 4)))
    version_there = HandedVersion(
        number=1, variant=record, bundle="0" * 64, verdict="unverified", reason="made by hand",
        files=_layout.places(tree, version), cases=cases,
    )  # fmt: skip
    names = tuple(spec.name for spec in SIGNATURE.inputs)
    full = Handed(
        target="web", model="odd", speaks="", signature=SIGNATURE, inputs=names, fixed_last=dict.fromkeys(names, False),
        versions=(version_there,), files=_layout.digests(stage), deploykit="0",
    )  # fmt: skip
    (stage / RECORD).write_text(full.to_json())
    return stage


def _save(source: Path) -> None:
    kinds = {
        name: getattr(TensorProto, name.upper().replace("FLOAT64", "DOUBLE"))
        for name in ("int64", "float16", "bool", "float64", "uint8")
    }
    inputs, outputs = (
        [helper.make_tensor_value_info(spec.name, kinds[spec.dtype], spec.shape) for spec in side]
        for side in (SIGNATURE.inputs, SIGNATURE.outputs)
    )
    nodes = [
        helper.make_node("Cast", ["u"], ["u64"], to=TensorProto.INT64),
        helper.make_node("Add", ["a", "u64"], ["sum"]),
        helper.make_node("Add", ["b", "b"], ["half"]),
        helper.make_node("Not", ["m"], ["no"]),
        helper.make_node("Cast", ["b"], ["b64"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["b64", "s"], ["scaled"]),
        helper.make_node("Where", ["m", "scaled", "w"], ["double"]),
    ]
    weight = helper.make_tensor("w", TensorProto.DOUBLE, [1], np.array([np.pi]).tobytes(), raw=True)
    graph = helper.make_graph(nodes, "odd", inputs, outputs, [weight])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    source.mkdir()
    onnx.save(model, source / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)


def _case(model: Path, stage: Path, shape: tuple[int, int]) -> HandedCase:
    """A case whose integers need all 64 bits, with onnxruntime's own answers."""
    random = np.random.default_rng(shape[0])
    feeds = {
        "a": random.integers(-(2**62), 2**62, shape) | 1,
        "b": random.standard_normal(shape).astype(np.float16),
        "m": random.random(shape) < 0.5,
        "s": np.array(0.1),
        "u": random.integers(0, 256, shape[1:], np.uint8),
    }
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    answer = dict(zip((one.name for one in session.get_outputs()), session.run(None, feeds), strict=True))
    answer["half"] = answer["half"].astype(np.float64)  # as a reference holds floats
    arrays = {f"inputs/{name}": array for name, array in feeds.items()}
    arrays |= {f"expected/{name}": array for name, array in answer.items()}
    file = f"reference/1/rows-{shape[0]}.npz"
    (stage / file).parent.mkdir(parents=True, exist_ok=True)
    np.savez(stage / file, **arrays)
    return HandedCase(id=f"rows-{shape[0]}", file=file, limits=LIMITS)
