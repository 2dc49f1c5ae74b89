"""Where a variant starts to differ: really broken files, judged by the real gate, located, and reproduced."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.bundle import Bundle, CaseRecord, Manifest, ReferenceRecord, SourceRecord, VariantRecord
from deploykit.isolation import Pool
from deploykit.model import SourceSpec
from deploykit.parity.judge import conclude
from deploykit.pipeline.judging import Gate
from deploykit.pipeline.locating import locate
from deploykit.publish import publish, staging
from deploykit.reference import Case, Noise, save_case
from deploykit.signature import Dim, Signature, TensorSpec

LAYERS = 10


@pytest.fixture(scope="module")
def pool():
    with Pool() as found:
        yield found


def deep() -> onnx.ModelProto:
    """Ten layers, tanh and relu in turn, with a LayerNormalization after the fifth; then (1 / x) · y as second output.

    onnxruntime rewrites the last to y / x, which differs where 1 / x overflows.
    """
    random, nodes, stored, last = np.random.default_rng(11), [], [], "x"
    for index in range(LAYERS):
        stored.append(numpy_helper.from_array(random.standard_normal((6, 6)).astype(np.float32) / 2, f"{index}.weight"))
        stored.append(numpy_helper.from_array(random.standard_normal(6).astype(np.float32) / 4, f"{index}.bias"))
        nodes.append(helper.make_node("Gemm", [last, f"{index}.weight", f"{index}.bias"], [f"linear_{index}"]))
        nodes.append(helper.make_node("Relu" if index % 2 else "Tanh", [f"linear_{index}"], [f"act_{index}"]))
        last = f"act_{index}"
        if index == 5:
            stored.append(numpy_helper.from_array(np.ones(6, np.float32), "scale"))
            nodes.append(helper.make_node("LayerNormalization", [last, "scale"], ["norm"], epsilon=1e-5))
            last = "norm"
    stored.append(numpy_helper.from_array(np.float32(1), "one"))
    nodes += [
        helper.make_node("Div", ["one", "d"], ["inverse"]),
        helper.make_node("Mul", ["inverse", "x"], ["quotient"]),
        helper.make_node("Add", [last, "one"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 6]) for name in ("x", "d", "y", "quotient")]
    graph = helper.make_graph(nodes, "net", values[:2], values[2:], stored)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def case(name: str, rows: int, divisor: float) -> Case:
    from onnx.reference import ReferenceEvaluator

    random = np.random.default_rng(rows)
    feeds = {
        "x": random.standard_normal((rows, 6)).astype(np.float32),
        "d": np.full((rows, 6), divisor, np.float32),
    }
    with np.errstate(over="ignore"):
        y, quotient = ReferenceEvaluator(deep()).run(None, feeds)
    exact = {"y": y.astype(np.float64), "quotient": quotient.astype(np.float64)}
    noise = {"y": Noise(2e-7), "quotient": Noise(2e-7)}
    return Case(name, "real", "full", rows, 0, feeds, {"y": y, "quotient": quotient}, exact, noise)


def bundle_with(target: Path, *cases: Case) -> Bundle:
    """A bundle with the `onnx` variant only."""
    with staging(target, force=False) as stage:
        (stage / "reference").mkdir()
        (stage / "variants/onnx").mkdir(parents=True)
        (stage / "variants/onnx/model.onnx").write_bytes(deep().SerializeToString())
        records = []
        for item in cases:
            file = f"reference/{item.id}.safetensors"
            save_case(item, stage / file)
            kept = {"input_class": "real", "gate": "full", "rows": item.rows, "seed": 0, "noise": item.noise}
            records.append(CaseRecord(id=item.id, file=file, **kept))
        specs = {name: TensorSpec(name, "float32", ("N", 6)) for name in ("x", "d", "y", "quotient")}
        manifest = Manifest(
            name="deep",
            source=SourceRecord(spec=SourceSpec("mlp"), digest="0" * 64, parameters=15),
            signature=Signature((specs["x"], specs["d"]), (specs["y"], specs["quotient"]), (Dim("N"),)),
            reference=ReferenceRecord(float64="double", samples="drawn", cases=tuple(records)),
            variants=(
                VariantRecord(
                    name="onnx", status="ready", made_by="onnx", precision="fp32", runtime="onnxruntime",
                    file="variants/onnx/model.onnx",
                ),
            ),
            versions={},
        )  # fmt: skip
        return publish(stage, manifest, target)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Bundle:
    return bundle_with(tmp_path_factory.mktemp("deep") / "deep", case("many", 20, 2.0), case("few", 3, 0.5))


def located(bundle: Bundle, record: VariantRecord, artifact: Path, pool: Pool, reproduce: Path, *, trusted=True):
    """The gate's report, which has to be a failure, and the location."""
    gate = Gate(bundle)
    with tempfile.TemporaryDirectory() as folder:
        answers = gate.answers(record, artifact, pool, Path(folder))
        report = conclude(record.name, answers.provider, gate.judged(record, answers))
    assert report.verdict == "fail"
    return locate(gate, record, artifact, pool, report, trusted=trusted, reproduce=reproduce)


def foreign(bundle: Bundle, change, pool: Pool, tmp_path: Path, *, name: str = "edited.onnx"):
    """The location of a fault in an edited copy of the bundle's own file."""
    model = onnx.load(bundle.file_of("onnx"))
    change(model)
    artifact = tmp_path / name
    artifact.write_bytes(model.SerializeToString())
    record = VariantRecord(name=name, status="ready", made_by="elsewhere", precision="fp32", runtime="onnxruntime")
    return located(bundle, record, artifact, pool, tmp_path / "reproduce")


def reproduced(place) -> int:
    """Exit status of the reproducer."""
    script = Path(place.reproducer) / "reproduce.py"
    done = subprocess.run([sys.executable, "-I", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.returncode


def node(model: onnx.ModelProto, value: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if value in node.output)


def weight(name: str, element: int = 0, factor: float = 1.5):
    def change(model):
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        array = numpy_helper.to_array(tensor).copy()
        array.reshape(-1)[element] *= factor
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return change


def operator(value: str, other: str):
    def change(model):
        node(model, value).op_type = other

    return change


def epsilon(model):
    node(model, "norm").attribute[0].f = 1e-1


def without(value: str):
    def change(model):
        gone = node(model, value)
        for reader in model.graph.node:
            for position, name in enumerate(reader.input):
                if name == value:
                    reader.input[position] = gone.input[0]
        model.graph.node.remove(gone)

    return change


FAULTS = [
    ("a weight", weight("3.weight", 7), "linear_3", "Gemm", "3.weight[1, 1] is"),
    ("a bias", weight("8.bias"), "linear_8", "Gemm", "8.bias[0] is"),
    ("an operator in the fifth of ten layers", operator("act_4", "Sigmoid"), "act_4", "Sigmoid", "has Tanh"),
    ("epsilon", epsilon, "norm", "LayerNormalization", "epsilon is 0.1"),
    ("a relu that is gone", without("act_5"), "act_5", "Relu", "norm reads past it"),
    ("the last operator", operator("y", "Sub"), "y", "Sub", "has Add"),
]


@pytest.mark.parametrize(("fault", "change", "value", "kind", "said"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_a_fault_in_an_edited_copy_is_born_at_its_node(fault, change, value, kind, said, sound, pool, tmp_path):
    place = foreign(sound, change, pool, tmp_path)
    assert (place.stage, place.value, place.operator, place.born) == ("CONVERSION", value, kind, True)
    assert said in place.evidence
    assert "put right, the outputs' relative error falls from" in place.evidence
    assert Path(place.reproducer) == tmp_path / "reproduce" / "edited.onnx"
    assert reproduced(place) == 1
    small = onnx.load(f"{place.reproducer}/model.onnx")
    assert len(small.graph.node) <= 2


def test_a_reproducer_passes_once_the_fault_is_mended(sound, pool, tmp_path):
    place = foreign(sound, weight("3.weight", 7), pool, tmp_path)
    path = Path(place.reproducer) / "model.onnx"
    model = onnx.load(path)
    weight("3.weight", 7, 1 / 1.5)(model)
    onnx.save(model, path)
    assert reproduced(place) == 0


def test_of_two_faults_the_one_that_explains_the_outputs_is_told_and_the_other_named(sound, pool, tmp_path):
    def both(model):
        operator("act_6", "Sigmoid")(model)
        operator("act_9", "Tanh")(model)

    place = foreign(sound, both, pool, tmp_path)
    assert (place.value, place.born) == ("act_9", True)
    assert "bad on their own, too: act_6" in place.evidence


def test_a_file_with_names_of_its_own_has_a_stage_and_says_why_no_more(sound, pool, tmp_path):
    def rename(model):
        weight("3.weight")(model)
        kept = {value.name for value in (*model.graph.input, *model.graph.output, *model.graph.initializer)}
        for entry in model.graph.node:
            for names in (entry.input, entry.output):
                for position, name in enumerate(names):
                    names[position] = name if name in kept else f"{name}_theirs"

    place = foreign(sound, rename, pool, tmp_path)
    assert (place.stage, place.value, place.born) == ("CONVERSION", "y", True)
    assert "linear_" not in place.evidence


def test_what_only_the_deployed_graph_gets_wrong_is_the_runtimes(pool, tmp_path):
    bundle = bundle_with(tmp_path / "deep", case("tiny", 3, 1e-39), case("few", 4, 2.0))
    place = located(bundle, bundle.manifest.variant("onnx"), bundle.file_of("onnx"), pool, tmp_path / "reproduce")
    assert (place.stage, place.value, place.operator, place.born) == ("RUNTIME", "quotient", "Div", True)
    assert "from level basic; right without DivMulFusion" in place.evidence
    assert reproduced(place) == 1


def rewritten(bundle: Path, change) -> Bundle:
    """The bundle with another `onnx` file, as if the exporter had written it so."""
    path = bundle / "variants/onnx/model.onnx"
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    manifest = json.loads((bundle / "manifest.json").read_text())
    for record in manifest["files"]:
        raw = (bundle / record["path"]).read_bytes()
        record["sha256"], record["size"] = hashlib.sha256(raw).hexdigest(), len(raw)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    found = Bundle(bundle)
    found.check()
    return found


TORCH_FAULTS = [
    ("a weight", weight("first.weight", 3), "first (Linear)", "Gemm", "first.weight[0, 3] is"),
    ("an operator", operator("relu", "Neg"), "Tiny", "Neg", "value by value"),
    ("a relu that is gone", without("relu"), "Tiny", "relu", "reads past it"),
    ("the last weight", weight("second.bias", 1), "second (Linear)", "Gemm", "second.bias[1] is"),
]


@pytest.mark.parametrize(("fault", "change", "module", "kind", "said"), TORCH_FAULTS, ids=[f[0] for f in TORCH_FAULTS])
def test_a_wrong_conversion_is_found_against_the_captured_program(
    fault, change, module, kind, said, tiny_bundle, pool, tmp_path
):
    shutil.copytree(tiny_bundle, tmp_path / "tiny")
    bundle = rewritten(tmp_path / "tiny", change)
    place = located(bundle, bundle.manifest.variant("onnx"), bundle.file_of("onnx"), pool, tmp_path / "reproduce")
    assert (place.stage, place.operator, place.born) == ("CONVERSION", kind, True)
    assert module in place.module
    assert place.source == "tiny.py:11"
    assert said in place.evidence
    assert reproduced(place) == 1


def test_without_trust_capture_and_conversion_cannot_be_told_apart(tiny_bundle, pool, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "tiny")
    bundle = rewritten(tmp_path / "tiny", weight("first.weight", 3))
    place = located(
        bundle, bundle.manifest.variant("onnx"), bundle.file_of("onnx"), pool, tmp_path / "reproduce", trusted=False
    )
    assert (place.stage, place.value, place.reproducer) == ("CONVERSION", "", None)
    assert "cannot be told apart without torch-export (it may run code)" in place.evidence


def test_a_bundle_without_lines_still_has_a_stage(tiny_bundle, pool, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "tiny")
    (tmp_path / "tiny/source/lines.json").unlink()
    manifest = json.loads((tmp_path / "tiny/manifest.json").read_text())
    manifest["files"] = [record for record in manifest["files"] if record["path"] != "source/lines.json"]
    (tmp_path / "tiny/manifest.json").write_text(json.dumps(manifest))
    bundle = rewritten(tmp_path / "tiny", weight("first.weight", 3))
    place = located(bundle, bundle.manifest.variant("onnx"), bundle.file_of("onnx"), pool, tmp_path / "reproduce")
    assert (place.stage, place.value, place.source) == ("CONVERSION", "", "")
    assert "no value of the graph has a name known here" in place.evidence


def test_a_search_that_breaks_says_so_and_the_verdict_stands(sound, pool, tmp_path):
    class Broken(Pool):
        def worker(self, stack):
            from deploykit.errors import WorkError

            raise WorkError(stack, "no process could be started", "wait", "WORKER_CRASHED")

    record = VariantRecord(name="x", status="ready", made_by="elsewhere", precision="fp32", runtime="onnxruntime")
    gate = Gate(sound)
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "x.onnx"
        model = onnx.load(sound.file_of("onnx"))
        weight("3.weight")(model)
        artifact.write_bytes(model.SerializeToString())
        answers = gate.answers(record, artifact, pool, Path(folder))
        report = conclude("x", answers.provider, gate.judged(record, answers))
        place = locate(gate, record, artifact, Broken(), report, trusted=True, reproduce=None)
    assert (place.stage, place.value) == ("CONVERSION", "")
    assert "the search failed on few: no process could be started" in place.evidence


def quantized(bundle: Bundle, target: Path) -> None:
    """The bundle's onnx with 8-bit weights and activations."""
    from deploykit import registry

    feeds = [bundle.case(record).inputs for record in bundle.manifest.reference.cases]
    registry.load("transforms", "int8-static")().apply(bundle.file_of("onnx"), target, feeds)


def test_a_broken_scale_is_where_the_signal_drowns(sound, pool, tmp_path):
    artifact = tmp_path / "model.onnx"
    quantized(sound, artifact)
    model = onnx.load(artifact)
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "4.weight_scale")
    array = numpy_helper.to_array(scale)
    scale.CopyFrom(numpy_helper.from_array(array * np.float32(9), scale.name))
    artifact.write_bytes(model.SerializeToString())
    record = VariantRecord(
        name="theirs", status="ready", made_by="elsewhere", precision="int8-static", runtime="onnxruntime"
    )
    place = located(sound, record, artifact, pool, tmp_path / "reproduce")
    assert (place.stage, place.value, place.operator, place.born) == ("QUANTIZATION", "linear_4", "Gemm", True)
    assert "is under 15 dB; on the inputs of onnx alone" in place.evidence
    assert place.reproducer is None


def test_a_branch_that_tracing_took_is_at_its_line(cli, pool, tmp_path):
    (tmp_path / "branch.py").write_text(
        "import torch\n"
        "from torch import nn\n\n\n"
        "class Branch(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(6, 3)\n\n"
        "    def forward(self, x):\n"
        "        y = self.layer(x)\n"
        "        return torch.relu(y) if x.sum() > 0 else y\n\n\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    return Branch(), torch.rand(2, 6)\n"
    )
    source = f"python:{tmp_path}/branch.py:build"
    done = cli("export", source, "-o", tmp_path / "branch", "--variants", "torchscript")
    assert done.returncode == 0, done.stderr
    bundle = Bundle(tmp_path / "branch")
    record = bundle.manifest.variant("torchscript")
    place = located(bundle, record, bundle.file_of("torchscript"), pool, tmp_path / "reproduce")
    assert (place.stage, place.operator, place.source) == ("CAPTURE", "bool", "branch.py:12")


def test_a_captured_program_with_a_wrong_weight_is_a_capture_fault(tiny_bundle, pool, tmp_path):
    import torch

    artifact = tmp_path / "model.pt2"
    program = torch.export.load(str(tiny_bundle / "variants/torch-export/model.pt2"))
    with torch.no_grad():
        program.state_dict["second.weight"][2, 5] += 0.5
    torch.export.save(program, str(artifact))
    bundle = Bundle(tiny_bundle)
    record = bundle.manifest.variant("torch-export")
    place = located(bundle, record, artifact, pool, tmp_path / "reproduce")
    assert (place.stage, place.operator, place.module) == ("CAPTURE", "linear", "second (Linear)")
    assert (place.source, place.born) == ("tiny.py:11", True)
    assert "second.weight[2, 5] is" in place.evidence
