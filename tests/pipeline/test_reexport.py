"""What goes out to a release that cannot load what is there: a lowered head, the variant made again, or a refusal.

The bundle is the seed model, made for this onnxruntime at opset 20 and IR 10; nothing in here is a stand-in.
"""

import shutil
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploykit.bundle import Bundle
from deploykit.errors import RefusedError, UsageError
from deploykit.model import SourceSpec
from deploykit.pipeline import preflight as preflights
from deploykit.pipeline import reexport
from deploykit.pipeline.export import ExportRequest, export
from deploykit.pipeline.handoff import HandoffRequest, handoff
from deploykit.pipeline.judging import Gate
from deploykit.pipeline.preflight import preflight, recipe
from deploykit.pipeline.reexport import Shipped, shipped
from deploykit.pipeline.train import TrainRequest
from deploykit.progress import Silent
from deploykit.releases import parse
from deploykit.session import SessionSettings

QUICK = TrainRequest(epochs=1)
OLD, OLDEST = parse("ort:1.17"), parse("triton:23.05")


@pytest.fixture(scope="module")
def seed(tmp_path_factory):
    """The seed model, trained for a moment: its weights are not those that a new one would start with."""
    target = tmp_path_factory.mktemp("seed") / "mlp"
    request = ExportRequest(SourceSpec("mlp"), target, "onnx,onnx-int8-static,torchscript", training=QUICK)
    return export(request, Silent()).bundle


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, own_source):
    """A user's model whose samples were drawn."""
    target = tmp_path_factory.mktemp("drawn") / "tiny"
    return export(
        ExportRequest(SourceSpec("python", f"{own_source}:build"), target, "onnx-int8-static"), Silent()
    ).bundle


@pytest.fixture(scope="module")
def own_source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "tiny.py"
    path.write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "def build():\n    torch.manual_seed(3)\n"
        "    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), (torch.randn(2, 6),)\n"
    )
    return path


def found(bundle, name, release, scratch, *, trusted=False):
    return shipped(bundle, bundle.manifest.variant(name), release, scratch, Silent(), trusted=trusted)


def tensors(path):
    return {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


def opset(path):
    return {entry.domain: entry.version for entry in onnx.load(path).opset_import}


def gate_of(bundle):
    return Gate(bundle, settings=SessionSettings(threads=1))


@pytest.mark.parametrize("release", [None, parse("triton:26.07")], ids=["none", "newest"])
def test_what_loads_goes_out_as_it_is(seed, tmp_path, release):
    one = found(seed, "onnx-int8-static", release, tmp_path)
    assert one.artifact == seed.file_of("onnx-int8-static")
    assert (one.record.facts["opset"], one.record.facts["ir_version"]) == (20, 10)  # the manifest does not say
    assert one.note == ""
    assert not any(tmp_path.iterdir())


def test_a_new_head_on_an_old_graph_is_lowered_in_a_copy(seed, tmp_path):
    one = found(seed, "onnx", OLD, tmp_path)
    before, after = onnx.load(seed.file_of("onnx")), onnx.load(one.artifact)
    assert (before.ir_version, after.ir_version) == (10, 9)
    assert after.graph == before.graph
    assert one.record.facts == {"opset": 20, "ir_version": 9, "target": "ort:1.17"}
    assert one.note == "its IR version lowered from 10 to 9 for ort:1.17"
    seed.check()


@pytest.fixture(scope="module")
def again(seed, tmp_path_factory):
    """The quantized variant made again for the oldest release, and where that was done."""
    scratch = tmp_path_factory.mktemp("again")
    return found(seed, "onnx-int8-static", OLDEST, scratch), scratch


def test_an_opset_that_is_too_new_means_exporting_again(seed, again):
    one, scratch = again
    for path in (one.artifact, scratch / "again" / "onnx" / "model.onnx"):
        assert opset(path) == {"": 18}
        assert onnx.load(path).ir_version == 9
    assert one.record.facts["opset"] == 18
    assert one.note == "exported again at opset 18 instead of 20 for triton:23.05"
    before, after = tensors(seed.file_of("onnx")), tensors(scratch / "again" / "onnx" / "model.onnx")
    weights = [name for name in before if name.endswith("weight")]
    assert len(weights) == 2
    for name in weights:  # the bundle's own weights, not those that its source starts with
        np.testing.assert_array_equal(after[name], before[name])
    seed.check()


def test_a_quantized_variant_is_calibrated_as_it_was(seed, again):
    """The same samples in the same batches: every scale and zero point comes out the same."""
    one, _ = again
    assert sorted_values(one.artifact) == sorted_values(seed.file_of("onnx-int8-static"))
    assert one.record.facts["calibration_rows"] == seed.manifest.variant("onnx-int8-static").facts["calibration_rows"]


def sorted_values(path):
    """Bytes of scales and zero points, whatever the tensors are called."""
    return sorted(array.tobytes() for name, array in tensors(path).items() if "scale" in name or "zero_point" in name)


def test_drawn_calibration_is_drawn_again(drawn, tmp_path, own_source, monkeypatch):
    monkeypatch.chdir(own_source.parent)  # the manifest keeps no path, only the file's name
    one = found(drawn, "onnx-int8-static", OLDEST, tmp_path)
    assert sorted_values(one.artifact) == sorted_values(drawn.file_of("onnx-int8-static"))
    assert one.note == "exported again at opset 18 instead of 20 for triton:23.05"


def test_a_source_that_is_not_at_hand_is_a_refusal_with_the_numbers(drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RefusedError) as caught:
        found(drawn, "onnx", OLDEST, tmp_path)
    assert caught.value.code == "TARGET_CANNOT_LOAD"
    assert "asks for opset 20 and IR 10; onnxruntime 1.15.0 takes opset 18 and IR 9" in caught.value.message
    assert "tiny.py" in caught.value.message
    assert caught.value.hint == "export again with --target triton:23.05"


def test_code_of_a_bundle_from_elsewhere_is_not_run(drawn, tmp_path, own_source, monkeypatch):
    marker = tmp_path / "ran"
    (tmp_path / "tiny.py").write_text(f"open({str(marker)!r}, 'w').close()\n" + own_source.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reexport, "made_here", lambda bundle: False)
    with pytest.raises(RefusedError, match="can run code, and this machine did not make") as caught:
        found(drawn, "onnx", OLDEST, tmp_path)
    assert caught.value.code == "TARGET_CANNOT_LOAD"
    assert not marker.exists()
    assert opset(found(drawn, "onnx", OLDEST, tmp_path, trusted=True).artifact) == {"": 18}
    assert marker.exists()


def test_samples_that_stayed_with_the_user_are_missed(seed, tmp_path):
    given = seed.manifest.reference.model_copy(update={"samples": "given"})
    bundle = Bundle(seed.path)
    bundle.manifest = seed.manifest.model_copy(update={"reference": given})
    with pytest.raises(RefusedError, match=r"samples \(given\) is not at hand") as caught:
        found(bundle, "onnx-int8-static", OLDEST, tmp_path)
    assert caught.value.code == "TARGET_CANNOT_LOAD"


def test_a_live_module_is_gone(seed, tmp_path):
    source = seed.manifest.source.model_copy(update={"spec": SourceSpec("live", "Net")})
    bundle = Bundle(seed.path)
    bundle.manifest = seed.manifest.model_copy(update={"source": source})
    with pytest.raises(RefusedError, match="a live module of a Python program is not at hand"):
        found(bundle, "onnx", OLDEST, tmp_path)


def test_other_engines_have_no_opset(seed, tmp_path):
    one = found(seed, "torchscript", OLDEST, tmp_path)
    assert one.artifact == seed.file_of("torchscript")
    assert one.record == seed.manifest.variant("torchscript")


def test_the_handoff_says_what_went_out(seed, tmp_path):
    request = HandoffRequest(seed.path, "mlserver", tmp_path / "out", parse("ort:1.15"), "onnx")
    report = handoff(request, Silent())  # it passes the gate, or nothing is written
    readme = (tmp_path / "out" / "README.md").read_text()
    assert report.release == "ort:1.15"
    assert "exported again at opset 18 instead of 20 for ort:1.15" in report.reason
    assert "exported again at opset 18" in readme
    assert "made for onnxruntime 1.15, and the pinned requirements hold a newer one" in readme
    models = list((tmp_path / "out").rglob("*.onnx"))
    assert len(models) == 1
    assert opset(models[0]) == {"": 18}


def test_a_refused_handoff_writes_nothing(drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RefusedError):
        handoff(HandoffRequest(drawn.path, "mlserver", tmp_path / "out", parse("ort:1.15"), "onnx"), Silent())
    assert not (tmp_path / "out").exists()


def test_export_makes_what_the_target_takes(own_source, tmp_path):
    spec = SourceSpec("python", f"{own_source}:build")
    bundle = export(ExportRequest(spec, tmp_path / "b", "onnx-fp16,onnx-int8-static", release=OLDEST), Silent()).bundle
    for record in bundle.manifest.variants:
        assert record.status == "ready", record.reason
        assert (record.facts["opset"], record.facts["ir_version"], record.facts["target"]) == (18, 9, "triton:23.05")
        assert set(opset(bundle.file_of(record.name))) == {""}


def test_a_variant_that_came_out_too_new_is_failed(own_source, tmp_path):
    spec = SourceSpec("python", f"{own_source}:build")
    options = {"onnx": {"opset": 21}}
    outcome = export(ExportRequest(spec, tmp_path / "b", "onnx-fp16", options=options, release=OLDEST), Silent())
    codes = {record.name: (record.status, record.code) for record in outcome.bundle.manifest.variants}
    assert codes == {"onnx": ("failed", "TARGET_TOO_OLD"), "onnx-fp16": ("failed", "TARGET_TOO_OLD")}
    reason = outcome.bundle.manifest.variant("onnx").reason
    assert reason.startswith("asks for opset 21 and IR 9; onnxruntime 1.15.0 takes opset 18")
    assert outcome.exit_code == 4


HERE = Path(sys.executable)


def test_the_preflight_asks_the_other_engine(seed, tmp_path):
    import onnxruntime

    one = found(seed, "onnx", None, tmp_path)
    asked = [case for case in seed.manifest.reference.cases if case.gate != "outside" and not case.layout]
    said = preflight(gate_of(seed), one, HERE, None)
    assert said == f"{len(asked)} cases pass in onnxruntime {onnxruntime.__version__}, too"


def test_the_preflight_fails_on_a_changed_weight(seed, tmp_path):
    path = tmp_path / "model.onnx"
    model = onnx.load(seed.file_of("onnx"))
    weight = next(one for one in model.graph.initializer if one.name.endswith("weight"))
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 1.0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)
    with pytest.raises(RefusedError, match="it is fail") as caught:
        preflight(gate_of(seed), Shipped(seed.manifest.variant("onnx"), {"model.onnx": path}), HERE, None)
    assert caught.value.code == "PREFLIGHT_FAILED"


def test_the_preflight_fails_on_what_does_not_open(seed, tmp_path):
    path = tmp_path / "model.onnx"
    model = onnx.load(seed.file_of("onnx"))
    model.opset_import[0].version = 99
    onnx.save(model, path)
    with pytest.raises(RefusedError, match="does not open it") as caught:
        preflight(gate_of(seed), Shipped(seed.manifest.variant("onnx"), {"model.onnx": path}), HERE, None)
    assert caught.value.code == "PREFLIGHT_FAILED"


def test_the_preflight_wants_the_releases_own_engine(seed, tmp_path):
    with pytest.raises(UsageError, match=r"is onnxruntime 1\.17") as caught:
        preflight(gate_of(seed), found(seed, "onnx", OLD, tmp_path), HERE, OLD)
    assert caught.value.code == "BAD_PREFLIGHT"
    assert "pip install onnxruntime==1.17.0 'numpy<2'" in caught.value.hint


def stand_in(path, text):
    """A program where a Python was named."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_python_without_the_packages_is_said(seed, tmp_path):
    bare = stand_in(tmp_path / "bare", f'exec {sys.executable} -S "$@"')
    with pytest.raises(UsageError, match="has not the packages") as caught:
        preflight(gate_of(seed), found(seed, "onnx", None, tmp_path), bare, None)
    assert caught.value.code == "BAD_PREFLIGHT"
    with pytest.raises(UsageError) as caught:
        preflight(gate_of(seed), found(seed, "onnx", None, tmp_path), tmp_path / "none", None)
    assert caught.value.code == "NOT_FOUND"


def test_a_python_that_ends_or_hangs_is_a_failure(seed, tmp_path, monkeypatch):
    one = found(seed, "onnx", None, tmp_path)
    dies = 'touch "$(dirname "$3")/started"; echo out of luck >&2; exit 9'  # the engine was there, and then it was not
    with pytest.raises(RefusedError, match="ended with status 9: out of luck"):
        preflight(gate_of(seed), one, stand_in(tmp_path / "ends", dies), None)
    monkeypatch.setattr(preflights, "ANSWER_SECONDS", 0.5)
    hangs = stand_in(tmp_path / "hangs", f"echo $$ > {tmp_path}/pid; sleep 60 & wait")
    started = time.monotonic()
    with pytest.raises(RefusedError, match=r"no answer within 0\.5 s"):
        preflight(gate_of(seed), one, hangs, None)
    assert time.monotonic() - started < 20
    pid = int((tmp_path / "pid").read_text())
    assert not running_in(pid)


def test_a_program_that_is_no_python_is_said(seed, tmp_path):
    ls = Path(shutil.which("ls"))
    with pytest.raises(UsageError, match="is no Python with numpy and onnxruntime: it ended with status") as caught:
        preflight(gate_of(seed), found(seed, "onnx", None, tmp_path), ls, None)
    assert (caught.value.code, caught.value.exit_code) == ("BAD_PREFLIGHT", 2)
    assert "python -m venv" in caught.value.hint


def running_in(session):
    """Processes of a session that still run."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if psutil.os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def test_only_onnx_files_have_a_preflight(seed, tmp_path):
    with pytest.raises(UsageError, match="torchscript is torchscript"):
        preflight(gate_of(seed), found(seed, "torchscript", None, tmp_path), HERE, None)


def test_the_recipe_is_one_line():
    assert recipe(parse("triton:24.10")) == "python -m venv ort && ort/bin/pip install onnxruntime==1.19.2 numpy"
    assert recipe(None) == "python -m venv ort && ort/bin/pip install onnxruntime numpy"


def test_a_refused_preflight_writes_nothing(seed, tmp_path):
    request = HandoffRequest(seed.path, "mlserver", tmp_path / "out", OLD, "onnx", preflight=HERE)
    with pytest.raises(UsageError):
        handoff(request, Silent())
    assert not (tmp_path / "out").exists()
    report = handoff(replace(request, release=None), Silent())
    assert "too" in report.reason
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("command", [("export", "mlp"), ("handoff", "nowhere", "--to", "mlserver"), ("run", "mlp")])
def test_an_unknown_release_is_said_before_anything_starts(cli, tmp_path, command):
    done = cli(*command, "--target", "triton:24.13", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error[UNKNOWN_TARGET]: triton:24.13: ")
    assert "triton:24.12" in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("command", [("export", "mlp"), ("handoff", "nowhere", "--to", "mlserver"), ("run", "mlp")])
def test_an_empty_release_is_none(cli, tmp_path, command):
    done = cli(*command, "--target", "", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error[UNKNOWN_TARGET]: --target: ")


def test_another_servers_release_is_refused_before_the_bundle_is_read(tmp_path):
    with pytest.raises(UsageError) as caught:
        handoff(HandoffRequest(tmp_path / "none", "mlserver", tmp_path / "out", OLDEST), Silent())
    assert caught.value.code == "UNKNOWN_TARGET"
    assert caught.value.hint == "name the engine: --target ort:1.15.0"


def test_no_preflight_is_skipped_in_silence(seed, tmp_path):
    """Not even where the gate is not asked."""
    request = HandoffRequest(seed.path, "mlserver", tmp_path / "out", None, "onnx", allow_unverified=True)
    report = handoff(replace(request, preflight=HERE), Silent())
    assert report.verdict == "unverified"
    assert "cases pass in onnxruntime" in report.reason
