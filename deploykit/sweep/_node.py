"""What a task of the Ray engine does on whichever node it runs: lay out the files, run the half, send what is new."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploykit.sweep._half import THREADS, half
from deploykit.sweep._store import index_of, safe
from deploykit.sweep.interface import Job
from deploykit.sweep_results import Half


@dataclass(frozen=True)
class Sent:
    """What a task gives back, as one object: parts of two attempts are never mixed.

    Attributes:
        index: relative path to digest of every file of the bundle; empty when it stays where it was made.
        blobs: the bytes of those that the driver did not have.
    """

    half: Half
    index: dict[str, str]
    blobs: dict[str, bytes]


def work(job: Job, inputs: Mapping[str, Any], there: Mapping[str, str], known: frozenset[str], cores: float) -> Sent:
    """Run one half of a cell on this node.

    Args:
        job: see Job; its paths are the driver's and mean nothing here.
        inputs: digest to object reference, for the cell's files and those of a bundle made elsewhere.
        there: relative path to digest of a bundle that was made elsewhere; empty where it is made here.
        known: digests that the driver has.
        cores: of this node that are reserved for the task.
    """
    from deploykit.environment import packages

    here = packages()
    if differing := sorted(name for name in job.versions | here if job.versions.get(name) != here.get(name)):
        said = ", ".join(f"{name} {here.get(name)} instead of {job.versions.get(name)}" for name in differing)
        return Sent(Half(4, "OTHER_PACKAGES", f"this node has {said}", "give all nodes the same environment"), {}, {})
    with tempfile.TemporaryDirectory(prefix="deploykit-cell-") as folder:
        root, bundle = Path(folder, "files"), Path(folder, "made", job.bundle.name)
        for file in job.files:
            _write(root / safe(file.there), inputs[file.sha256])
        for name, digest in there.items():
            _write(bundle / safe(name), inputs[digest])
        root.mkdir(exist_ok=True)
        log = Path(folder, "log")
        done = half(replace(job, log=log), bundle, root, lambda: False, _environment())
        done = replace(done, alone=_alone(cores) if job.stage == "measure" else None)
        index = index_of(bundle) if job.bring else {}
        files = {digest: bundle / name for name, digest in index.items() if digest not in known}
        blobs = {digest: path.read_bytes() for digest, path in files.items()}
        blobs[LOG] = log.read_bytes()[-200_000:] if log.exists() else b""
        return Sent(done, index, blobs)


LOG = "log"
"""Key of the commands' output among the blobs, which are otherwise named by digests."""


def _environment() -> dict[str, str]:
    """Without the limit on threads that Ray sets for its own workers: bench decides for itself."""
    return {name: value for name, value in os.environ.items() if name not in THREADS}


def _write(path: Path, reference: Any) -> None:
    import ray

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ray.get(reference))


def _alone(cores: float) -> bool:
    """Whether every core that Ray knows of this machine is reserved for the task: it may hold several nodes."""
    import ray

    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")}
    own = nodes.get(ray.get_runtime_context().get_node_id())
    if own is None:
        return False
    beside = [node for node in nodes.values() if node["NodeManagerHostname"] == own["NodeManagerHostname"]]
    return len(beside) == 1 and bool(own["Resources"]["CPU"] <= cores)
