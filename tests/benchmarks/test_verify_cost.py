"""benchmarks/verify_cost.py: what is watched, selected, rendered and stored."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest


@pytest.fixture
def script():
    import verify_cost

    return verify_cost


def run(script, seconds, tree):
    return {
        "seconds": seconds,
        "exit_code": 0,
        "parent_bytes": 10 << 20,
        "child_bytes": 20 << 20,
        "tree_bytes": tree,
        "children": 1,
    }


def test_the_large_one_runs_only_by_name(script):
    assert "large" not in script.parsed([]).names
    assert script.parsed(["large", "seed"]).names == ["large", "seed"]
    with pytest.raises(SystemExit):
        script.parsed(["nonsense"])


def test_memory_of_parent_and_child_is_seen(script):
    inner = "import time; x = bytearray(120 << 20); time.sleep(1.5)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    process = subprocess.Popen([sys.executable, "-c", outer])
    peaks, stop = script.Peaks(process.pid), threading.Event()
    watcher = threading.Thread(target=peaks.watch, args=(stop,))
    watcher.start()
    process.wait()
    stop.set()
    watcher.join()
    assert peaks.child > 120 << 20
    assert 0 < peaks.parent < peaks.child < peaks.tree
    assert len(peaks.seen) == 1


def test_a_command_is_timed_with_its_exit_code(script):
    done = script.deploykit("verify", "/no/such/bundle")
    assert done.exit_code == 2
    assert "NOT_FOUND" in done.said
    assert done.seconds > 0


def test_the_table_shows_medians_and_the_largest_memory(script):
    runs = [run(script, 3.0, 30 << 20), run(script, 1.0, 50 << 20), run(script, 2.0, 40 << 20)]
    text = script.table({"x": {"what": "a thing", "model_bytes": 10 << 20, "runs": runs}})
    assert text.splitlines()[-1] == "| a thing | 2.0 [1.0, 3.0] | 10 MiB | 20 MiB | 50 MiB | 5.0 |"


def test_results_replace_their_own_and_leave_others(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "RESULTS", tmp_path / "verify_cost.json")
    script.write({"a": {"what": "old"}, "b": {"what": "kept"}})
    script.write({"a": {"what": "new"}})
    stored = json.loads(script.RESULTS.read_text())
    assert stored["measurements"] == {"a": {"what": "new"}, "b": {"what": "kept"}}
    assert stored["environment"]["python"]


def test_the_broken_resnet_differs_in_one_filter_bank(script, tmp_path, monkeypatch):
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    def save(path):
        path.parent.mkdir(parents=True)
        weights = [
            numpy_helper.from_array(np.ones((2, 2, 3, 3), np.float32), "layer2.1.conv1.weight"),
            numpy_helper.from_array(np.ones((2, 2, 3, 3), np.float32), "layer2.1.conv2.weight"),
        ]
        onnx.save(helper.make_model(helper.make_graph([], "g", [], [], weights)), path)

    monkeypatch.setattr(script, "_resnet", lambda folder: folder / "resnet18")
    save(tmp_path / "resnet18" / "variants" / "onnx" / "model.onnx")
    arguments, size = script.broken(tmp_path)
    target = tmp_path / "resnet18-broken" / "model.onnx"
    assert arguments == ["verify", str(tmp_path / "resnet18"), "--artifact", str(target)]
    assert size == target.stat().st_size
    one, two = (numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer)
    assert np.allclose(one, 1.01)
    assert np.array_equal(two, np.ones_like(two))


def test_the_large_model_is_square_layers_in_eval_mode(script, monkeypatch):
    monkeypatch.setattr(script, "WIDTH", 16)
    monkeypatch.setattr(script, "DEPTH", 3)
    module = script.large_model()
    assert [tuple(p.shape) for p in module.parameters()] == [(16, 16), (16,)] * 3
    assert not module.training
