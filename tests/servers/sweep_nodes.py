"""A real Ray cluster on this machine, a sweep on it, and a node that is killed in the middle.

    sweep_nodes.py MATRIX FOLDER NODES WHAT WORDS...

Started by a test inside namespaces of its own. The first node has no cores: the sweep starts there, as a user's would,
and its cells run on NODES others with one core each. When the first cell is done and another one runs, WHAT happens:
`lose` kills that one's node, `interrupt` stops the sweep, `nothing` lets it run. Prints what became of it as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil


def until(what: str, seconds: float, done: Callable[[], Any]) -> Any:
    """The first true answer of `done`."""
    deadline = time.monotonic() + seconds
    while not (answer := done()):
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)
    return answer


def below(node: Any) -> list[psutil.Process]:
    """All processes of a node, its raylet's descendants."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [raylet, *raylet.children(recursive=True)]


def busy(nodes: list[Any]) -> Any:
    """A node that runs a command of a cell just now."""
    for node in nodes:
        for process in below(node):
            words = process.cmdline() if process.is_running() and process.status() != psutil.STATUS_ZOMBIE else []
            if "deploykit" in words and "--recipe" in words:
                return node, process.pid
    return None


def main(matrix: Path, folder: Path, count: int, what: str, words: list[str]) -> None:
    """See the module."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(count)]
    cluster.wait_for_nodes()
    print("cluster is up", cluster.address, file=sys.stderr, flush=True)
    argv = ["sweep", matrix, "-o", folder, "--engine", "ray", "--address", cluster.address]
    with (folder.parent / "sweep.log").open("wb") as log:
        clock = time.monotonic()
        command = [sys.executable, "-P", "-m", "deploykit", *map(str, [*argv, *words])]
        sweep = subprocess.Popen(command, stdout=log, stderr=log, cwd=matrix.parent)
        found: dict[str, Any] = {}
        if what != "nothing":
            until("a first cell", 600, lambda: list((folder / "cells").glob("*.json")) or sweep.poll() is not None)
            node, child = until("a busy node", 120, lambda: busy(nodes))
            found["done_before"] = len(list((folder / "cells").glob("*.json")))
            gone = below(node) if what == "lose" else [psutil.Process(child)]
            if what == "lose":
                cluster.remove_node(node, allow_graceful=False)
            else:
                sweep.send_signal(signal.SIGINT)
            psutil.wait_procs(gone, timeout=20)
            found["left_behind"] = [process.pid for process in gone if process.is_running()]
        found["exit_code"] = sweep.wait(600)
        found["seconds"] = round(time.monotonic() - clock, 1)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:])
