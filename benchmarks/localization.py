"""How often the search names the node that was really broken, and how long it takes.

    python benchmarks/localization.py [--quick]

Four networks are exported for real: an MLP, ten layers of tanh and relu, a CNN with residuals and batch-norms, a small
transformer. In each one node after another of the ONNX file is broken (a weight moved, an attribute changed, an
operator swapped, a relu taken out), once inside the bundle (the reference is the captured program) and once in a
foreign copy (the reference is the bundle's own file); every fault that the gate fails is searched. A hit names the
broken node. Healthy files are measured first: how far sound operators are from the reference, in units of its noise, is
what the threshold `localization.search.BAD` keeps away from.

Prints a table, and JSON that belongs in benchmarks/results/localization.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from localization_nets import NAMES
from onnx import helper, numpy_helper

from deploykit.bundle import Bundle, VariantRecord
from deploykit.environment import fingerprint
from deploykit.isolation import Pool
from deploykit.lines import LINES, Lines
from deploykit.localization.born import Tried
from deploykit.localization.graph import Graph
from deploykit.localization.search import BAD
from deploykit.localization.stored import Stored
from deploykit.parity.judge import conclude
from deploykit.pipeline.judging import Gate
from deploykit.pipeline.locating import locate
from deploykit.reference import save_arrays

HERE = Path(__file__).parent
SWAPS = {
    "Relu": "Abs", "Tanh": "Sigmoid", "Add": "Sub", "Softmax": "LogSoftmax", "Gelu": "Relu", "Mul": "Add", "Div": "Mul",
    "ReduceMean": "ReduceMax",
}  # fmt: skip
"""Operators with the same form of inputs and outputs."""

Edit = Callable[[onnx.ModelProto], None]


def faults(path: Path) -> Iterator[tuple[str, str, Edit]]:
    """Kind, value of the broken node, and the edit, for every node that can be broken in some way."""
    model = onnx.load(path)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for node in model.graph.node:
        value = node.output[0]
        if node.op_type in SWAPS:
            yield "operator", value, _swap(value, SWAPS[node.op_type])
        if node.op_type == "Relu" and value not in {output.name for output in model.graph.output}:
            yield "gone", value, _drop(value)
        if node.op_type == "LayerNormalization":
            yield "epsilon", value, _attribute(value, "epsilon", 0.05)
        if node.op_type == "Resize":
            yield "mode", value, _attribute(value, "mode", "nearest")
        weights = [name for name in node.input if name in stored and readers[name] == 1]
        if node.op_type in {"Conv", "Gemm", "MatMul"} and weights:
            yield "weight", value, _scale(weights[0])


def _swap(value: str, other: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        node = _node(model, value)
        node.op_type = other
        if other in {"Relu", "LogSoftmax"}:
            kept = [entry for entry in node.attribute if entry.name == "axis"]
            del node.attribute[:]
            node.attribute.extend(kept)

    return edit


def _drop(value: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        gone = _node(model, value)
        for reader in model.graph.node:
            for position, name in enumerate(reader.input):
                if name == value:
                    reader.input[position] = gone.input[0]
        model.graph.node.remove(gone)

    return edit


def _attribute(value: str, key: str, wanted: Any) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        node = _node(model, value)
        kept = [entry for entry in node.attribute if entry.name != key]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(key, wanted)])

    return edit


def _scale(name: str) -> Edit:
    """One tenth of the elements, 20 % larger."""

    def edit(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        array = numpy_helper.to_array(tensor).copy()
        array.reshape(-1)[::10] *= 1.2
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return edit


def _node(model: onnx.ModelProto, value: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if value in node.output)


def broken(sound: Path, edit: Edit, folder: Path, *, inside: bool) -> tuple[Bundle, VariantRecord, Path]:
    """A bundle whose own file is broken, or a sound one with a broken copy beside it."""
    model = onnx.load(sound / "variants/onnx/model.onnx")
    edit(model)
    if not inside:
        (folder / "edited.onnx").write_bytes(model.SerializeToString())
        record = VariantRecord(
            name="edited", status="ready", made_by="elsewhere", precision="fp32", runtime="onnxruntime"
        )
        return Bundle(sound), record, folder / "edited.onnx"
    target = folder / "bundle"
    shutil.copytree(sound, target)
    (target / "variants/onnx/model.onnx").write_bytes(model.SerializeToString())
    manifest = json.loads((target / "manifest.json").read_text())
    for record in manifest["files"]:
        raw = (target / record["path"]).read_bytes()
        record["sha256"], record["size"] = hashlib.sha256(raw).hexdigest(), len(raw)
    (target / "manifest.json").write_text(json.dumps(manifest))
    bundle = Bundle(target)
    return bundle, bundle.manifest.variant("onnx"), bundle.file_of("onnx")


def search(sound: Path, kind: str, value: str, edit: Edit, pool: Pool, *, inside: bool) -> dict[str, Any]:
    """Judge one broken file and locate the fault."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, record, artifact = broken(sound, edit, folder, inside=inside)
        gate = Gate(bundle)
        (folder / "answers").mkdir()
        answers = gate.answers(record, artifact, pool, folder / "answers")
        report = conclude(record.name, answers.provider, gate.judged(record, answers))
        row = {"kind": kind, "value": value, "inside": inside, "verdict": report.verdict}
        if report.verdict not in {"fail", "error"}:
            return row
        started = time.perf_counter()
        place = locate(gate, record, artifact, pool, report, trusted=True, reproduce=folder / "reproduce")
        row["seconds"] = time.perf_counter() - started
        assert place is not None
        row |= {
            "found": place.value,
            "stage": place.stage,
            "evidence": place.evidence,
            "hit": _hit(bundle, place, value),
        }
        if place.reproducer:
            argv = [sys.executable, "-I", f"{place.reproducer}/reproduce.py"]
            done = subprocess.run(argv, capture_output=True, check=False)
            row["reproducer"] = done.returncode
        return row


def _hit(bundle: Bundle, place: Any, value: str) -> bool:
    """The broken node's value, or the captured operator that the node is a part of (a product before its bias)."""
    lines = Lines.load(bundle.path / LINES)
    return place.value == value or lines.values.get(place.value) == lines.parts.get(value, "-")


def healthy(sound: Path, pool: Pool) -> dict[str, float]:
    """The largest local error of a sound file by operator, in units of the noise, over a few cases."""
    bundle = Bundle(sound)
    lines, graph, worst = Lines.load(sound / LINES), Graph.load(bundle.file_of("onnx")), {}
    for record in [item for item in bundle.manifest.reference.cases if item.gate == "full"][:6]:
        with tempfile.TemporaryDirectory() as name:
            case = bundle.case(record)
            feeds = {key: array[:4] for key, array in case.inputs.items()}
            save_arrays(feeds, Path(name) / "feeds.safetensors")
            known = pool.worker("torch").call(
                "localizing:reference",
                artifact=str(bundle.file_of("torch-export")),
                feeds=f"{name}/feeds.safetensors",
                input_names=list(feeds),
                wanted=sorted(set(lines.values.values())),
                folder=name,
            )
            tried = Tried(graph, feeds, Stored(Path(name), known["index"], lines.values))
            for entry in tried.deviations():
                kind = graph.producer[entry.value].op_type
                worst[kind] = max(worst.get(kind, 0.0), entry.local)
    return worst


def main() -> None:
    """Export, break, search, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every fourth fault")
    step = 4 if parser.parse_args().quick else 1
    result: dict[str, Any] = {"environment": fingerprint(), "threshold": BAD, "healthy": {}, "searches": []}
    with tempfile.TemporaryDirectory() as name, Pool() as pool:
        for net in NAMES:
            sound = Path(name) / net
            source = f"python:{HERE / 'localization_nets.py'}:{net}"
            argv = [sys.executable, "-m", "deploykit", "export", source, "-o", str(sound), "--quiet"]
            subprocess.run([*argv, "--variants", "torch-export,onnx"], check=True, stdout=subprocess.DEVNULL)
            result["healthy"][net] = healthy(sound, pool)
            todo = list(faults(sound / "variants/onnx/model.onnx"))[::step]
            for kind, value, edit in todo:
                for inside in (True, False):
                    row = {"net": net, **search(sound, kind, value, edit, pool, inside=inside)}
                    result["searches"].append(row)
                    print(json.dumps(row), file=sys.stderr)
    result["children_cpu_s"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    summarize(result)
    print(json.dumps(result))


def summarize(result: dict[str, Any]) -> None:
    """The table."""
    print(f"{'net':12} {'reference':18} {'faults':>6} {'failed':>6} {'located':>8} {'reproduced':>10} {'median s':>8}")
    for net in NAMES:
        for inside, reference in ((True, "captured program"), (False, "the bundle's onnx")):
            rows = [row for row in result["searches"] if row["net"] == net and row["inside"] == inside]
            failed = [row for row in rows if row["verdict"] in {"fail", "error"}]
            hits, again = sum(row["hit"] for row in failed), sum(row.get("reproducer") == 1 for row in failed)
            middle = float(np.median([row["seconds"] for row in failed])) if failed else 0.0
            print(f"{net:12} {reference:18} {len(rows):6} {len(failed):6} {hits:8} {again:10} {middle:8.2f}")
        print(f"{net:12} sound operators: at most {max(result['healthy'][net].values()):.2f} times the noise")


if __name__ == "__main__":
    main()
