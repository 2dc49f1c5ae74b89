"""benchmarks/false_alarms.py: records, limits and resuming; no long runs."""

from __future__ import annotations

import json
import subprocess
import sys

import psutil
import pytest
import torch


@pytest.fixture
def script():
    import false_alarms

    return false_alarms


@pytest.fixture
def results(script, tmp_path, monkeypatch):
    path = tmp_path / "false_alarms.json"
    monkeypatch.setattr(script, "RESULTS", path)
    return path


def test_arguments(script):
    given = script.parsed(["alexnet,resnet18", "--seconds", "5", "--again"])
    assert (given.names, given.seconds, given.again, given.report, given.inside) == (
        "alexnet,resnet18",
        5,
        True,
        False,
        None,
    )


def test_the_smallest_image_that_is_taken_is_found(script):
    class Picky(torch.nn.Module):
        def forward(self, x):
            if x.shape[-1] < 96:
                raise RuntimeError("too small")
            return x

    assert script.smallest(Picky()).shape == (2, 3, 96, 96)
    with pytest.raises(ValueError, match="takes none of"):
        script.smallest(torch.nn.Linear(7, 7))


def test_an_informative_head_answers_with_unit_deviation(script):
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(8 * 30 * 30, 10)
    ).eval()
    assert script.informative(module, torch.zeros(2, 3, 32, 32)) == ("batch-norm calibrated", "head rescaled")
    with torch.no_grad():
        spread = module(torch.randn(64, 3, 32, 32)).std(dim=0)
    assert 0.5 < float(spread.mean()) < 2.0


def test_records_accumulate_and_the_summary_names_the_rest(script, results):
    script.keep("b", {"verdict": "pass"})
    script.keep("a", {"verdict": "refused", "code": "NAN_REFERENCE", "reason": "eager answers NaN"})
    script.keep(
        "c", {"verdict": "fail", "variants": {"onnx": {"verdict": "fail", "code": "SQNR_LOW", "reason": "far"}}}
    )
    stored = json.loads(results.read_text())
    assert list(stored["models"]) == ["a", "b", "c"]
    assert "cpu" in stored["environment"]
    lines = script.summary(stored["models"]).splitlines()
    assert lines == [
        "1 of 3 models pass",
        "  a: refused: NAN_REFERENCE eager answers NaN",
        "  c: fail: onnx fail SQNR_LOW: far",
    ]


def test_a_model_over_its_time_or_memory_is_ended_with_its_children(script):
    inner = "import time; time.sleep(60)"
    sleeper = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {inner!r}]).pid, flush=True); {inner}"
    )
    process = subprocess.Popen([sys.executable, "-c", sleeper], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(process.stdout.readline()))
    over, _ = script.watched(process, 1.0, 2**40)
    assert (over, process.returncode) == ("over 1 s", -9)
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    process.stdout.close()
    hog = subprocess.Popen([sys.executable, "-c", "x = bytearray(200 << 20); import time; time.sleep(60)"])
    over, peak = script.watched(hog, 60.0, 100 << 20)
    assert over.startswith("over 0 GiB")
    assert peak > 100 << 20


def test_stored_models_are_passed_over(script, results, monkeypatch, capsys):
    monkeypatch.setattr(script, "classifiers", lambda: ["a", "b"])
    asked = []
    monkeypatch.setattr(script, "one", lambda name, *_: asked.append(name) or {"verdict": "pass"})
    script.keep("a", {"verdict": "pass"})
    monkeypatch.setattr(sys, "argv", ["false_alarms.py"])
    script.main()
    assert asked == ["b"]
    assert "2 of 2 models pass" in capsys.readouterr().out
    assert "b" in json.loads(results.read_text())["models"]
