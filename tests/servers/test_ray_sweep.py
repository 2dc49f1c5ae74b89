"""A sweep on a real Ray cluster of several nodes; one is killed in the middle, and nothing is lost."""

import csv
import json
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from tests.servers.environments import ROOT, environment
from tests.servers.running import clean_environment, free_port, running

SCENE = Path(__file__).with_name("sweep_nodes.py")

MODELS = """\
import torch
from torch import nn

from layers.middle import middle


def build(seed, width):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), middle(), nn.Linear(width, 3)), torch.rand(2, 6)


{functions}

def broken():
    raise RuntimeError("no weights for you")
"""
ONE = "def model_{0}():\n    return build({0}, {1})\n\n"
TIMES = {"seconds", "median_ns", "median_ci_ns_low", "median_ci_ns_high", "ratio", "ratio_ci_low", "ratio_ci_high"}
MEASURED = {"peak_rss_bytes"}


def matrix_of(folder, count, more=""):
    """Small models in a file that imports another, and one that cannot be built."""
    folder.mkdir()
    (folder / "layers").mkdir()
    (folder / "layers" / "middle.py").write_text("from torch import nn\n\n\ndef middle():\n    return nn.ReLU()\n")
    functions = "".join(ONE.format(n, 8 + n) for n in range(count))
    (folder / "models.py").write_text(MODELS.format(functions=functions))
    names = ["broken", *(f"model_{n}" for n in range(count))]  # that one ends first
    entries = "".join(f'[[model]]\nname = "{n}"\nsource = "python:models.py:{n}"\n' for n in names)
    defaults = f'[defaults]\nvariants = ["onnx"]\nfiles = ["layers/*.py"]\nbench.quick = true\n{more}'
    (folder / "m.toml").write_text(f"schema = 1\n{defaults}\n{entries}")
    return folder / "m.toml"


def on_a_cluster(tmp_path, matrix, folder, nodes, what, words=(), timeout_s=800):
    """The scene's report; Ray and deploykit share one Python: Ray's environment, and then what is installed here."""
    binaries, home = environment("ray-serve"), Path(tempfile.mkdtemp(prefix="r"))  # Ray's sockets need a short path
    log = tmp_path / "scene.log"
    here = os.pathsep.join((str(ROOT), sysconfig.get_paths()["purelib"]))
    more = {"PYTHONPATH": here, "HOME": str(home), "RAY_TMPDIR": str(home), "TMPDIR": str(home)}
    env = clean_environment(PATH=f"{binaries}{os.pathsep}{os.environ['PATH']}", RAY_USAGE_STATS_ENABLED="0", **more)
    argv = [binaries / "python", SCENE, matrix, folder, nodes, what, *words]

    def ready():
        return log.read_text().rstrip().endswith("}")

    try:
        with running(argv, ready=ready, cwd=tmp_path, log=log, env=env, timeout_s=timeout_s, own_network=[free_port()]):
            return json.loads(log.read_text().splitlines()[-1])
    finally:
        shutil.rmtree(home, ignore_errors=True)
        if (said := folder.parent / "sweep.log").exists():
            print(said.read_text())


def table(folder, without=frozenset()):
    with (folder / "table.csv").open() as stream:
        return [{k: v for k, v in row.items() if k not in without} for row in csv.DictReader(stream)]


def files(folder, record):
    """Digests of all files of a bundle; the manifest also says in which environment it was made."""
    return json.loads((folder / record["bundle"] / "manifest.json").read_text())["files"]


def records(folder):
    return {path.stem: json.loads(path.read_text()) for path in (folder / "cells").glob("*.json")}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the scene needs namespaces")
def test_two_nodes_give_the_table_and_the_bundles_of_one_machine(tmp_path, cli):
    matrix = matrix_of(tmp_path / "given", 2)
    found = on_a_cluster(tmp_path, matrix, tmp_path / "ray", 2, "nothing")
    assert found["exit_code"] == 4  # the broken one
    done = cli("sweep", matrix, "-o", tmp_path / "local")
    assert done.returncode == 4, done.stderr
    assert table(tmp_path / "ray", TIMES | MEASURED) == table(tmp_path / "local", TIMES | MEASURED)
    ours, theirs = records(tmp_path / "local"), records(tmp_path / "ray")
    assert ours.keys() == theirs.keys()
    for key, record in ours.items():
        assert (theirs[key]["bundle"] is None) == (record["bundle"] is None)
        if record["bundle"]:
            assert files(tmp_path / "ray", theirs[key]) == files(tmp_path / "local", record)
            assert record["measure"]["alone"] is True
            assert theirs[key]["measure"]["alone"] is False  # two nodes on one machine: said, not hidden
            checked = cli("verify", tmp_path / "ray" / theirs[key]["bundle"])
            assert checked.returncode == 0, checked.stderr
    assert not (tmp_path / "ray" / "store").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the scene needs namespaces")
def test_a_killed_node_loses_nothing(tmp_path, cli):
    matrix = matrix_of(tmp_path / "given", 4)
    found = on_a_cluster(tmp_path, matrix, tmp_path / "ray", 3, "lose", ["--no-bench"])
    print(found)
    assert found["exit_code"] == 4
    assert 0 < found["done_before"] < 5  # in the middle, with a cell running on the node that was killed
    assert found["left_behind"] == []
    cells = records(tmp_path / "ray")
    assert len(cells) == 5
    assert sorted(record["prove"]["code"] for record in cells.values()) == ["", "", "", "", "SOURCE_ERROR"]
    done = cli("sweep", matrix, "-o", tmp_path / "local", "--no-bench")
    assert done.returncode == 4, done.stderr
    assert table(tmp_path / "ray", TIMES) == table(tmp_path / "local", TIMES)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the scene needs namespaces")
def test_ctrl_c_cancels_the_tasks_and_the_next_run_goes_on_elsewhere(tmp_path, cli):
    matrix = matrix_of(tmp_path / "given", 2)
    found = on_a_cluster(tmp_path, matrix, tmp_path / "out", 2, "interrupt", ["--no-bench"])
    assert (found["exit_code"], found["left_behind"]) == (-2, [])
    assert len(records(tmp_path / "out")) == found["done_before"] > 0
    done = cli("sweep", matrix, "-o", tmp_path / "out", "--no-bench")
    assert f"{3 - found['done_before']} run now, {found['done_before']} from earlier" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the scene needs namespaces")
def test_what_no_node_is_large_enough_for_is_given_up(tmp_path):
    matrix = matrix_of(tmp_path / "given", 0, "task.gpus = 1\n")
    assert on_a_cluster(tmp_path, matrix, tmp_path / "out", 1, "nothing")["exit_code"] == 4
    (record,) = records(tmp_path / "out").values()
    assert record["prove"]["code"] == "NO_RESOURCES"
    assert "1 CPUs, 1 GPUs" in record["prove"]["reason"]
