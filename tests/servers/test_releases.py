"""What goes out for a release loads and answers rightly in that release's onnxruntime: the seed model, for real.

The newest three run with the other tests, all of them in the slow lane; the environments are made once and cached.
"""

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import deploykit
from deploykit import releases
from deploykit.bundle import Bundle
from deploykit.errors import RefusedError
from deploykit.pipeline.handoff import HandoffRequest, handoff
from deploykit.pipeline.judging import Gate
from deploykit.pipeline.preflight import preflight
from deploykit.pipeline.reexport import Shipped
from deploykit.progress import Silent
from deploykit.releases import parse
from deploykit.session import SessionSettings
from tests.servers.environments import onnxruntime

TABLE = json.loads((Path(deploykit.__file__).parent / "releases.json").read_text())
NEWEST = 3
VARIANTS = ("onnx", "onnx-int8-static")
BEYOND = 3
"""Versions above the newest accepted one that have to be refused."""


def in_lanes(values):
    """All of them as parameters, the last few in the usual lane."""
    values = list(values)
    fast = values[-NEWEST:]
    return [pytest.param(value, marks=() if value in fast else pytest.mark.slow, id=str(value)) for value in values]


def engines():
    """The distinct onnxruntime releases inside all releases of Triton, oldest first: one stands for many."""
    found = {}
    for name in releases.names("triton"):
        found[parse(f"triton:{name}").installable] = name
    return list(found.values())


@cache
def python(version):
    return onnxruntime(version) / "python"


@pytest.fixture(scope="session")
def seed(cli, tmp_path_factory):
    """The seed model as `deploykit export` makes it."""
    path = tmp_path_factory.mktemp("seed") / "mlp"
    done = cli("export", "mlp", "-o", path, "--variants", ",".join(VARIANTS), "-q")
    assert done.returncode == 0, done.stderr
    return Bundle(path)


def test_every_release_of_triton_is_tried():
    tried = {parse(f"triton:{name}").installable for name in engines()}
    assert tried == {parse(f"triton:{name}").installable for name in releases.names("triton")}
    assert len(tried) >= 17


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", in_lanes(engines()))
def test_the_handed_over_file_answers_in_its_release(seed, tmp_path, name, variant):
    release = parse(f"triton:{name}")
    engine = python(release.installable)
    request = HandoffRequest(
        seed.path, "triton", tmp_path / "out", release, variant, session="threads=1", preflight=engine
    )
    report = handoff(request, Silent())
    assert report.verdict == "pass"
    assert f"cases pass in onnxruntime {release.installable}, too" in report.reason
    assert ("exported again at opset" in report.reason) == (release.opset < 20)
    (model,) = (tmp_path / "out").rglob("*.onnx")
    head = onnx.load(model)
    assert release.takes(max(entry.version for entry in head.opset_import if not entry.domain), head.ir_version)


@pytest.mark.slow
def test_the_oldest_engine_really_refuses_what_was_not_made_for_it(seed, tmp_path):
    """The reason for the table: opset and IR by the head, and opset 19, which it accepts, for want of kernels."""
    gate = Gate(seed, settings=SessionSettings(threads=1))
    engine = python("1.15.0")
    own = Shipped(seed.manifest.variant("onnx"), {"model.onnx": seed.file_of("onnx")})
    with pytest.raises(RefusedError, match="does not open it"):
        preflight(gate, own, engine, parse("triton:23.05"))
    for opset, reason in ((20, "does not open it"), (19, r"Could not find an implementation for Reshape\(19\)")):
        path = tmp_path / f"{opset}.onnx"
        model = onnx.load(seed.file_of("onnx"))
        model.ir_version, model.opset_import[0].version = 9, opset
        onnx.save(model, path)
        with pytest.raises(RefusedError, match=reason) as caught:
            preflight(gate, Shipped(own.record, {"model.onnx": path}), engine, parse("triton:23.05"))
        assert caught.value.code == "PREFLIGHT_FAILED"


@pytest.mark.slow
def test_what_was_exported_for_a_release_goes_out_as_it_is(cli, tmp_path):
    """`export --target` and `handoff --target --preflight` as a user types them."""
    engine = python("1.15.1")
    bundle, out = tmp_path / "mlp", tmp_path / "out"
    variants = "onnx,onnx-fp16,onnx-int8-dynamic,onnx-int8-static"
    done = cli("export", "mlp", "-o", bundle, "--variants", variants, "--target", "ort:1.15", "--epochs", "5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("opset 18, ir_version 9, target ort:1.15") == 4
    for variant in variants.split(","):
        words = ("--to", "mlserver", "--target", "ort:1.15", "--variant", variant, "--preflight", engine, "-o", out)
        handed = cli("handoff", bundle, *words, "--force")
        assert handed.returncode == 0, handed.stderr
        assert "cases pass in onnxruntime 1.15.1, too" in handed.stdout
        assert "exported again" not in handed.stdout
        (model,) = out.rglob("*.onnx")
        assert model.read_bytes() == (bundle / "variants" / variant / "model.onnx").read_bytes()
        shutil.rmtree(out)


PROBE = """
import json, sys
import onnxruntime
onnxruntime.set_default_logger_severity(4)
found = {"version": onnxruntime.__version__}
for path in sys.argv[1:]:
    try:
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found[path] = ""
    except Exception as error:
        found[path] = str(error)
print(json.dumps(found))
"""


@pytest.mark.parametrize("minor", in_lanes(TABLE["onnxruntime"]))
def test_an_engine_accepts_what_the_table_says_and_nothing_newer(minor, tmp_path):
    row = TABLE["onnxruntime"][minor]
    version = row["published"][-1]
    opsets = {n: relu(tmp_path / f"opset-{n}.onnx", n, 8) for n in range(16, row["accepts"] + 1 + BEYOND)}
    irs = {n: relu(tmp_path / f"ir-{n}.onnx", 16, n) for n in range(7, row["ir"] + 1 + BEYOND)}
    argv = [python(version), "-I", "-c", PROBE, *opsets.values(), *irs.values()]
    said = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert said["version"] == version
    for files, newest, word in ((opsets, row["accepts"], "opset"), (irs, row["ir"], "IR version")):
        assert [n for n, path in files.items() if not said[str(path)]] == list(range(min(files), newest + 1))
        assert all(word in said[str(path)] for n, path in files.items() if n > newest)


def relu(path, opset, ir):
    """A model of one node with this head; the operator is the same in all opsets."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", opset)])
    path.write_bytes(model.SerializeToString())
    return path
