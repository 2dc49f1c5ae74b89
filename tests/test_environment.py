import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit import environment
from deploykit.environment import cgroup_cores, fingerprint, usable_cores


def test_the_fingerprint_is_json_and_names_nobody(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("ORT_LOGGING", "/somewhere/secret/log")
    monkeypatch.setenv("UNRELATED", "x")
    found = fingerprint()
    text = json.dumps(found, allow_nan=False)
    assert found["variables"]["OMP_NUM_THREADS"] == "3"
    assert "secret" not in text
    assert "UNRELATED" not in text
    assert str(Path.home()) + "/" not in text
    assert found["python"] == platform.python_version()
    assert found["packages"]["numpy"]
    assert found["cores"]["usable"] == usable_cores() >= 1
    if len(platform.node()) > 3:
        assert platform.node() not in text


def test_it_imports_no_package_that_it_names():
    code = (
        "import sys; from deploykit.environment import fingerprint; fingerprint();"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_the_system_does_not_tell_is_none(monkeypatch):
    monkeypatch.setattr(environment, "_text", lambda path: None)
    monkeypatch.setattr(environment.os, "getloadavg", lambda: (_ for _ in ()).throw(OSError))
    monkeypatch.delattr(environment.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    found = fingerprint()
    assert found["hypervisor"] is found["governor"] is found["load_average"] is found["gpu"] is None
    assert found["cpu_flags"] == []
    assert found["cores"] == {"affinity": None, "quota": None, "usable": os.cpu_count()}


@pytest.fixture
def groups(tmp_path):
    def write(line, **files):
        (tmp_path / "proc").write_text(line)
        for name, text in files.items():
            path = tmp_path / "fs" / name.replace("__", "/").replace("_max", ".max").replace("cfs_", "cpu.cfs_")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return cgroup_cores(tmp_path / "proc", tmp_path / "fs")

    return write


def test_quota_of_version_2(groups):
    assert groups("0::/pod/app", pod__cpu_max="150000 100000", pod__app__cpu_max="max 100000") == 1.5


def test_quota_of_version_1(groups):
    line = "5:cpu,cpuacct:/job\n4:memory:/other\n"
    files = {"cpu__job__cfs_quota_us": "50000", "cpu__job__cfs_period_us": "100000"}
    assert groups(line, **files, cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000") == 0.5


def test_no_quota(groups):
    assert groups("0::/", cpu_max="max 100000") is None
    assert groups("0::/missing") is None


@pytest.mark.parametrize(("affinity", "quota", "cores"), [(8, None, 8), (8, 1.5, 2), (2, 6.0, 2), (4, 0.1, 1)])
def test_usable_cores(monkeypatch, affinity, quota, cores):
    monkeypatch.setattr(environment, "_affinity", lambda: affinity)
    monkeypatch.setattr(environment, "cgroup_cores", lambda: quota)
    assert usable_cores() == cores


def test_a_gpu_is_named(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 570.1, 143771 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setattr(environment.shutil, "which", lambda name: str(tool))
    assert fingerprint()["gpu"] == [{"name": "NVIDIA H200", "driver": "570.1", "memory": "143771 MiB"}]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert fingerprint()["gpu"] is None
