"""Three Ray nodes, one of them lost under load: at most the requests in flight on it fail."""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tests.servers.environments import environment
from tests.servers.running import clean_environment, free_port, running
from tests.servers.three_nodes import NODES, ONGOING

SCENE = Path(__file__).with_name("three_nodes.py")
SECONDS, RATE = 20, 8


def reason() -> str:
    """Why three networks cannot be made here; empty when they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a bridge between network namespaces needs root"
    missing = [tool for tool in ("ip", "unshare", "nsenter") if shutil.which(tool) is None]
    return f"there is no {missing[0]} on this machine" if missing else ""


def table(found):
    """What became of the requests, as it goes into the test's output."""
    rows = [
        ("asked for", found["asked"]),
        ("answered", found["answered"]),
        ("failed", len(found["failed"])),
        ("in flight, all nodes", found["in_flight"]),
        ("in flight on the lost node, at most", ONGOING),
        ("asked for after the loss", found["asked_after"]),
        ("median before and after, ms", " and ".join(map(str, found["median_ms"]))),
        ("longest before and after, ms", " and ".join(map(str, found["longest_ms"]))),
        ("until Ray gave the node up, s", found["noticed_s"]),
    ]
    return "\n".join(f"{name:38} {value}" for name, value in rows)


@pytest.mark.slow
@pytest.mark.skipif(bool(reason()), reason=reason() or "everything is there")
def test_a_lost_node_takes_at_most_its_own_requests_along(tiny_bundle, cli, tmp_path):
    folder, log = tmp_path / "folder", tmp_path / "log"
    done = cli("handoff", tiny_bundle, "--to", "ray-serve", "-o", folder, "--session", "threads=1")
    assert done.returncode == 0, done.stderr
    binaries, home = environment("ray-serve"), Path(tempfile.mkdtemp(prefix="r"))  # Ray's sockets need a short path
    (home / "t").mkdir()
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    env = clean_environment(PATH=path, HOME=str(home), RAY_TMPDIR=str(home / "t"))
    argv = [binaries / "python", SCENE, folder, SECONDS, RATE]

    def ready():
        return log.read_text().rstrip().endswith("}")

    try:
        with running(argv, ready=ready, cwd=folder, log=log, env=env, timeout_s=480, own_network=[free_port()]):
            found = json.loads(log.read_text().splitlines()[-1])
    finally:
        shutil.rmtree(home)
    print(table(found))
    assert found["asked"] == SECONDS * RATE + NODES * ONGOING
    assert found["asked_after"] > SECONDS * RATE / 3
    assert found["in_flight"] > ONGOING  # every node had something to do
    assert len(found["failed"]) <= ONGOING
    assert all(began <= 0 for began, _, _ in found["failed"])  # seconds after the loss: none that came later
    assert found["answered"] == found["asked"] - len(found["failed"])
