"""Three Ray nodes on one machine as if they were three: a network, processes and files of their own for each.

    three_nodes.py FOLDER SECONDS RATE

Started by a test as root, inside namespaces of its own: the bridge and everything on it ends with this process. It
deploys the handed-over FOLDER with one replica per node and a proxy on the first, asks RATE times a second for SECONDS
seconds whether answers come or not, kills the third node in the middle, and prints what became of the requests as JSON.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

NODES = 3
LOST = 3
PORT = 8000
ONGOING = 2
"""Requests that a replica takes at once, as the folder's configuration says."""

ROWS = 8000
"""Rows in a request: enough for some tens of milliseconds."""

BURST_S = 0.04
"""From the burst to the loss: long enough to reach the replicas, too short to be answered."""

SETUP = """
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up
ip addr add 10.99.0.{number}/24 dev eth0
ip link set eth0 up
mount -t tmpfs tmpfs "$RAY_TMPDIR"
mount -t tmpfs tmpfs /dev/shm
exec ray start {role} --node-ip-address=10.99.0.{number} --num-cpus=2 --object-store-memory=100000000 --block
"""


@dataclass
class Asked:
    """One request: when it began, when it ended, and how; 0 is no answer at all."""

    began: float
    ended: float = 0.0
    status: int | None = None
    said: str = ""


@dataclass
class Load:
    """Requests that begin at their time, whether earlier ones were answered or not."""

    body: bytes
    path: str
    requests: list[Asked] = field(default_factory=list)

    def one(self) -> Asked:
        asked = Asked(time.monotonic())
        self.requests.append(asked)
        try:
            client = http.client.HTTPConnection("10.99.0.1", PORT, timeout=60)
            with contextlib.closing(client):
                client.request("POST", self.path, self.body, {"Content-Type": "application/json"})
                answer = client.getresponse()
                asked.said = answer.read()[:200].decode(errors="replace")
                asked.status = answer.status
        except (OSError, http.client.HTTPException) as error:
            asked.status, asked.said = 0, repr(error)
        asked.ended = time.monotonic()
        return asked

    def run(self, seconds: float, rate: float) -> list[threading.Thread]:
        began, threads = time.monotonic(), []
        for number in range(int(seconds * rate)):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            threads.append(threading.Thread(target=self.one))
            threads[-1].start()
        return threads


def sh(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, stdout=sys.stderr)


def node(number: int) -> subprocess.Popen[bytes]:
    """Start a node in namespaces of its own, and plug it into the bridge."""
    role = "--head --port=6379 --include-dashboard=false" if number == 1 else "--address=10.99.0.1:6379"
    script = SETUP.format(number=number, role=role)
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    own = Path("/proc/self/ns/net").readlink()
    process = subprocess.Popen([*unshare, "bash", "-euc", script], stdout=sys.stderr)
    while Path(f"/proc/{process.pid}/ns/net").readlink() == own:
        time.sleep(0.02)
    sh("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", process.pid)
    sh("ip", "link", "set", f"v{number}", "master", "br0", "up")
    return process


def inside(process: subprocess.Popen[bytes]) -> int:
    """The first process of a node's namespace: when it is killed, the kernel ends all of the node."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def entered(process: subprocess.Popen[bytes], *words: object) -> subprocess.CompletedProcess[str]:
    """Run a command on a node."""
    argv = ["nsenter", "-t", inside(process), "-n", "-m", "-p", *words]
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=False)


def until(what: str, seconds: float, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {seconds:g} s")
        time.sleep(0.5)


PLACES = """
import json, ray
ray.init(address="10.99.0.1:6379", log_to_driver=False)
from ray._private.state import actors
nodes = {one["NodeID"]: one["NodeManagerAddress"] for one in ray.nodes() if one["Alive"]}
found = [one for one in actors().values() if one["State"] == "ALIVE" and "ServeReplica" in one["ActorClassName"]]
print(json.dumps([len(nodes), sorted(one["Address"]["IPAddress"] for one in found)]))
"""


def places(head: subprocess.Popen[bytes]) -> tuple[int, list[str]]:
    """How many nodes are alive, and the addresses of those that have a replica."""
    done = entered(head, "python", "-c", PLACES)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return 0, []
    count, addresses = json.loads(done.stdout.splitlines()[-1])
    return count, addresses


def configuration(folder: Path) -> Path:
    """The folder's own, for three nodes: a replica on each, the proxy on the first, reachable from the bridge."""
    text = (folder / "serve.yaml").read_text()
    for old, new in (
        ('host: "127.0.0.1"', 'host: "0.0.0.0"'),
        ("num_replicas: 1", f"num_replicas: {NODES}\n        max_replicas_per_node: 1"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "serve.nodes.yaml"
    path.write_text(text)
    return path


def main(folder: Path, seconds: float, rate: float) -> None:
    """See the module."""
    token = Path(os.environ["HOME"]) / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"PYTHONPATH": str(folder)}
    sh("ip", "link", "add", "br0", "type", "bridge")
    sh("ip", "addr", "add", "10.99.0.254/24", "dev", "br0")
    sh("ip", "link", "set", "br0", "up")
    nodes = {1: node(1)}
    until("the first node", 90, lambda: places(nodes[1])[0] == 1)
    nodes |= {number: node(number) for number in range(2, NODES + 1)}
    until("all nodes", 90, lambda: places(nodes[1])[0] == NODES)
    deployed = entered(nodes[1], "serve", "run", "--non-blocking", "--address=10.99.0.1:6379", configuration(folder))
    print(deployed.stdout, deployed.stderr, deployed.returncode, file=sys.stderr)
    until("a replica on each node", 120, lambda: len(set(places(nodes[1])[1])) == NODES)
    model = json.loads((folder / "app.json").read_text())["model"]
    tensor = {"name": "x", "datatype": "FP32", "shape": [ROWS, 6], "data": [0.5] * (ROWS * 6)}
    load = Load(json.dumps({"inputs": [tensor]}).encode(), f"/v2/models/{model}/infer")
    until("the first answer", 60, lambda: load.one().status == 200)
    for _ in range(20):  # each replica's first answers
        load.one()
    load.requests.clear()
    threads: list[threading.Thread] = []
    clock = threading.Thread(target=lambda: threads.extend(load.run(seconds, rate)))
    clock.start()
    time.sleep(seconds / 2)
    burst = [threading.Thread(target=load.one) for _ in range(NODES * ONGOING)]
    for thread in burst:  # every replica has its hands full when the node goes
        thread.start()
    time.sleep(BURST_S)
    lost_at = time.monotonic()
    os.kill(inside(nodes[LOST]), signal.SIGKILL)
    nodes[LOST].wait(10)
    clock.join()
    for thread in [*threads, *burst]:
        thread.join()
    until("Ray notices", 60, lambda: places(nodes[1]) == (NODES - 1, ["10.99.0.1", "10.99.0.2"]))
    flying = [one for one in load.requests if one.began <= lost_at <= one.ended]
    failed = [one for one in load.requests if one.status != 200]
    after = sorted(one.ended - one.began for one in load.requests if one.began > lost_at)
    before = sorted(one.ended - one.began for one in load.requests if one.ended < lost_at)
    print(
        json.dumps(
            {
                "asked": len(load.requests),
                "answered": len(load.requests) - len(failed),
                "failed": [[round(one.began - lost_at, 4), one.status, one.said] for one in failed],
                "in_flight": len(flying),
                "asked_after": len(after),
                "median_ms": [round(1e3 * part[len(part) // 2], 1) for part in (before, after)],
                "longest_ms": [round(1e3 * part[-1], 1) for part in (before, after)],
                "noticed_s": round(time.monotonic() - lost_at, 1),
            }
        ),
        flush=True,
    )
    signal.pause()  # until the test has read it and ends everything


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
