"""`onnx:FILE` through the command line: a file made by hand, without torch, from export to handoff, and elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.bundle import Bundle

RNG = np.random.default_rng(0)
VARIANTS = ("torchscript", "torch-export", "onnx", "onnx-fp16", "onnx-int8-dynamic", "onnx-int8-static")


def tabular(batch="rows"):
    """Twelve features, scaled, a hidden layer of 64, probabilities of four classes and the likeliest one; opset 13."""

    def weight(name, *shape):
        return numpy_helper.from_array((RNG.standard_normal(shape) / np.sqrt(shape[0])).astype("f4"), name)

    nodes = [
        helper.make_node("Sub", ["features", "mean"], ["centred"], name="centre"),
        helper.make_node("Gemm", ["centred", "w1", "b1"], ["h"], name="hidden"),
        helper.make_node("Relu", ["h"], ["a"], name="relu"),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["scores"], name="head"),
        helper.make_node("Softmax", ["scores"], ["probabilities"], name="softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tabular",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [batch, 12])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 4])],
        [weight("mean", 12), weight("w1", 12, 64), weight("b1", 64), weight("w2", 64, 4), weight("b2", 4)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7, producer_name="hand")


def deploykit(*words):
    command = [sys.executable, "-P", "-m", "deploykit", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self):
        return self.stdout + self.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx-source")


@pytest.fixture(scope="module")
def file(folder):
    path = folder / "mine" / "tabular.v2.onnx"
    path.parent.mkdir()
    onnx.save(tabular(), str(path))
    return path


@pytest.fixture(scope="module")
def bundle(file, folder):
    """The bundle, in another folder than it was made in, with the file that it was made from gone."""
    content = file.read_bytes()
    done = deploykit("export", f"onnx:{file}", "-o", folder / "here", "--quiet")
    assert done.exit_code == 0, done.output
    file.unlink()
    shutil.move(folder / "here", folder / "elsewhere")
    found = Bundle(folder / "elsewhere")
    found.check()
    assert (found.path / "variants/onnx/model.onnx").read_bytes() == content
    assert found.manifest.source.digest == sha256(content).hexdigest()
    return found


def test_what_is_made_and_what_is_not(bundle):
    records = {record.name: record for record in bundle.manifest.variants}
    assert tuple(records) == VARIANTS
    assert [r.status for r in records.values()] == ["unavailable"] * 2 + ["ready"] * 4
    assert records["torchscript"].code == records["torch-export"].code == "SOURCE_FINISHED"
    assert records["onnx"].facts == {"opset": 13, "ir_version": 7, "origin": "the file, byte for byte"}
    assert bundle.manifest.reference.float64 == "reference"
    assert bundle.manifest.reference.largest is not None
    assert str(bundle.manifest.signature.inputs[0]) == "features:float32[rows,12]"


def test_no_path_of_this_machine_is_in_it(bundle, folder):
    assert bundle.manifest.source.spec.target == "tabular.v2.onnx"
    for path in (path for path in bundle.path.rglob("*") if path.is_file()):
        assert os.fsencode(folder) not in path.read_bytes(), path.name


def test_the_weights_are_the_files_initializers(bundle):
    from safetensors.numpy import load_file

    stored = load_file(bundle.path / "source" / "weights.safetensors")
    model = onnx.load(str(bundle.path / "variants/onnx/model.onnx"))
    assert stored.keys() == {tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        assert np.array_equal(stored[tensor.name], numpy_helper.to_array(tensor))


def test_it_verifies_elsewhere_without_the_file(bundle):
    done = deploykit("verify", bundle.path, "--quiet", "--json", "-", "--variants", "onnx,onnx-fp16", "--self-check")
    report = json.loads(done.stdout)
    assert done.exit_code == 0, done.output
    assert report["reference"] == "the ONNX file itself (called eager here)"
    assert not report["weak_reference"]
    assert [one["verdict"] for one in report["variants"]] == ["pass", "pass"]
    assert {one["verdict"] for one in report["self_check"]} == {"pass"}


def test_an_edited_weight_is_found_and_named(bundle, tmp_path):
    model = onnx.load(str(bundle.path / "variants/onnx/model.onnx"))
    tensor = next(one for one in model.graph.initializer if one.name == "w2")
    changed = numpy_helper.to_array(tensor).copy()
    changed[3, 1] += 0.01
    tensor.CopyFrom(numpy_helper.from_array(changed, "w2"))
    onnx.save(model, str(tmp_path / "edited.onnx"))
    done = deploykit("verify", bundle.path, "--artifact", tmp_path / "edited.onnx", "--quiet")
    assert done.exit_code == 1
    assert "weight w2[3, 1] is not the source's" in done.output
    assert "first_bad=scores (Gemm)" in done.output


def test_the_table_has_no_eager_and_says_so(bundle):
    done = deploykit("bench", bundle.path, "--quick", "--quiet", "--variants", "onnx,onnx-fp16")
    assert done.exit_code == 0, done.output
    assert "eager not there: the source is a file, onnx is the base line" in done.output
    (base,) = [line for line in done.output.splitlines() if line.rstrip().endswith("  base")]
    assert base.split()[0] == "onnx"


def test_triton_gets_the_file_itself(bundle, tmp_path):
    done = deploykit("handoff", bundle.path, "--to", "triton", "--variant", "onnx", "-o", tmp_path / "t", "--quiet")
    assert done.exit_code == 0, done.output
    (model,) = (tmp_path / "t").rglob("model.onnx")
    assert model.read_bytes() == (bundle.path / "variants/onnx/model.onnx").read_bytes()


def test_an_older_release_gets_it_converted_from_the_bundle(folder, tmp_path):
    model = tabular()
    model.opset_import[0].version, model.ir_version = 21, 10
    onnx.save(model, str(tmp_path / "new.onnx"))
    made = deploykit("export", f"onnx:{tmp_path}/new.onnx", "-o", tmp_path / "b", "--quiet", "--variants", "onnx")
    assert made.exit_code == 0, made.output
    (tmp_path / "new.onnx").unlink()
    words = ("handoff", tmp_path / "b", "--to", "triton", "--variant", "onnx", "--target", "ort:1.15", "--quiet")
    done = deploykit(*words, "-o", tmp_path / "t")
    assert done.exit_code == 0, done.output
    assert "exported again at opset 18 instead of 21 for ort:1.15" in done.output
    (path,) = (tmp_path / "t").rglob("model.onnx")
    assert onnx.load(str(path)).opset_import[0].version == 18


@pytest.mark.slow
def test_the_same_file_again_is_reused(tmp_path):
    onnx.save(tabular(8), str(tmp_path / "m.onnx"))
    words = ("export", f"onnx:{tmp_path}/m.onnx", "-o", tmp_path / "b", "--variants", "onnx,onnx-fp16", "--force")
    assert deploykit(*words).exit_code == 0
    again = deploykit(*words)
    assert "onnx: reused" in again.output
    assert "onnx-fp16: reused" in again.output
    model = onnx.load(str(tmp_path / "m.onnx"))
    model.graph.node[4].attribute[0].i = -1
    onnx.save(model, str(tmp_path / "m.onnx"))
    assert "reused" not in deploykit(*words).output  # other bytes, the same weights and answers


def test_a_quantized_file_is_judged_as_such_and_not_quantized_again(bundle, tmp_path):
    quantized = tmp_path / "quantized.onnx"
    shutil.copy(bundle.path / "variants/onnx-int8-static/model.onnx", quantized)
    done = deploykit("export", f"onnx:{quantized}", "-o", tmp_path / "b", "--quiet")
    assert done.exit_code == 0, done.output
    records = {record.name: record for record in Bundle(tmp_path / "b").manifest.variants}
    assert records["onnx"].precision == "int8-static"
    assert {records[name].code for name in VARIANTS[3:]} == {"ALREADY_REDUCED"}
    assert {records[name].status for name in VARIANTS[3:]} == {"unavailable"}
    done = deploykit("verify", tmp_path / "b", "--quiet", "--variants", "onnx")
    assert done.exit_code == 0, done.output
    assert "8-bit weights and calibrated activations" in done.output
    assert "weak reference" not in done.output


def test_a_float16_file_is_judged_as_such(bundle, tmp_path):
    from onnxruntime.transformers import float16

    model = float16.convert_float_to_float16(onnx.load(str(bundle.path / "variants/onnx/model.onnx")))
    onnx.save(model, str(tmp_path / "half.onnx"))
    done = deploykit("export", f"onnx:{tmp_path}/half.onnx", "-o", tmp_path / "b", "--quiet")
    assert done.exit_code == 0, done.output
    found = Bundle(tmp_path / "b").manifest
    assert str(found.signature.inputs[0]) == "features:float16[rows,12]"
    assert found.variant("onnx").precision == "fp16"
    assert {found.variant(name).code for name in VARIANTS[3:]} == {"ALREADY_REDUCED"}
    assert deploykit("verify", tmp_path / "b", "--quiet", "--variants", "onnx").exit_code == 0


@pytest.mark.parametrize(
    ("change", "code", "exit_code"),
    [
        (lambda model: model.graph.node[2].MergeFrom(onnx.NodeProto(domain="my.ops")), "UNSUPPORTED_OP", 4),
        (lambda model: model.graph.node[0].input.__setitem__(0, "scores"), "MALFORMED", 5),
        (lambda model: model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(
            helper.make_tensor_type_proto(TensorProto.FLOAT, None))), "BAD_OUTPUT", 2),
    ],
)  # fmt: skip
def test_what_cannot_be_a_source_is_one_line(tmp_path, change, code, exit_code):
    model = tabular()
    change(model)
    onnx.save(model, str(tmp_path / "m.onnx"))
    done = deploykit("export", f"onnx:{tmp_path}/m.onnx", "-o", tmp_path / "b", "--quiet")
    assert done.exit_code == exit_code, done.output
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error[{code}]: ")
    assert str(tmp_path) not in line
    assert not (tmp_path / "b").exists()


def test_preprocessing_cannot_be_fused_into_a_file(tmp_path):
    node = helper.make_node("GlobalAveragePool", ["image"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.save(model, str(tmp_path / "m.onnx"))
    done = deploykit("export", f"onnx:{tmp_path}/m.onnx", "-o", tmp_path / "b", "--preprocess", "imagenet,size=32")
    assert done.exit_code == 2
    assert "the source is a file, nothing can be fused into it" in done.output
