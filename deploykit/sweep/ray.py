"""A Ray cluster: each half of a cell is a task with its resources; Ray schedules it, and retries it when a node dies.

The cluster is somebody's already; this connects to it and starts none. Its nodes have deploykit and the same packages
installed. Files travel through Ray's object store under the sha256 of their bytes: a file that many cells read is put
there once, and the driver is not sent what it has.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deploykit.errors import DeploykitError, UsageError, WorkError, escape
from deploykit.sweep import _node
from deploykit.sweep._store import Store, index_of
from deploykit.sweep.interface import Heard, Job
from deploykit.sweep_results import Half

USUAL_PORT = 6379
"""Of `ray start --head`."""

CONNECT_SECONDS = 5.0
PATIENCE_SECONDS = 60.0
"""How long the cluster may lack a node that is large enough, before a job is given up: one may be coming back."""

_POLL_SECONDS = 2.0
_LOST = ("WorkerCrashedError", "NodeDiedError", "ObjectLostError", "OwnerDiedError", "LocalRayletDiedError")


@dataclass(frozen=True)
class Engine:
    """Tasks on a Ray cluster.

    Attributes:
        jobs: tasks at once; 0 is as many as the cluster has room for.
        address: of the cluster, HOST:PORT; empty is RAY_ADDRESS, else the one that runs on this machine.
    """

    jobs: int = 0
    address: str = ""

    def unavailable(self) -> str | None:
        """Why there is no Ray here, in one line; None when there is."""
        return None if find_spec("ray") else "ray is not installed"

    @contextmanager
    def opened(self, folder: Path) -> Iterator[_Session]:
        """Connected to the cluster, until the end of the block.

        Raises:
            UsageError: BAD_ADDRESS, of another kind.
            WorkError: NO_CLUSTER.
        """
        address = self.address or os.environ.get("RAY_ADDRESS", "") or "auto"
        _check(address)
        ray = _connected(address)
        try:
            yield _Session(ray, Store(folder / "store"), self.jobs)
        finally:
            ray.shutdown()


def _check(address: str) -> None:
    """That something listens there, before Ray waits for it for minutes.

    Raises:
        UsageError: BAD_ADDRESS.
        WorkError: NO_CLUSTER.
    """
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    host, port = (host, port) if colon else (address, str(USUAL_PORT))
    if "://" in address or address == "local" or not port.isdecimal() or not 0 < int(port) < 65536:
        hint = "give HOST:PORT of the cluster, and run the sweep on one of its machines"
        raise UsageError(f"--address {address}", "not the address of a cluster", hint, "BAD_ADDRESS")
    try:
        with socket.create_connection((host, int(port)), CONNECT_SECONDS) as connection:
            answers = "RAY_USE_TLS" in os.environ or _speaks_http2(connection)
    except OSError as error:
        raise _no_cluster(address, (error.strerror or str(error)).lower()) from error
    if not answers:
        raise _no_cluster(address, "something else listens there")


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether a gRPC server is there, as Ray's is: it greets with a SETTINGS frame (RFC 9113, 3.4 and 6.5)."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
    greeting = connection.recv(9, socket.MSG_WAITALL)
    return len(greeting) == 9 and greeting[3] == 4


def _no_cluster(address: str, reason: str) -> WorkError:
    hint = "start one with: ray start --head; or run here: --engine local"
    return WorkError(f"--address {address}", f"no Ray cluster answers: {reason}", hint, "NO_CLUSTER")


def _connected(address: str) -> Any:
    import logging

    import ray

    handler = signal.getsignal(signal.SIGTERM)  # Ray puts its own in its place
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        raise _no_cluster(address, escape(str(error).strip().split("\n")[0], 160) or type(error).__name__) from error
    finally:
        signal.signal(signal.SIGTERM, handler)
    return ray


@dataclass
class _Session:
    """Connected; `held` are the files in the object store by digest, `needed` what each running task reads of them."""

    ray: Any
    store: Store
    jobs: int
    held: dict[str, Any] = field(default_factory=dict)
    needed: dict[Any, frozenset[str]] = field(default_factory=dict)
    lacking_since: float | None = None

    def run(self, jobs: Sequence[Job], heard: Heard) -> None:
        """See `interface.Session`."""
        waiting = list(jobs)
        running: dict[Any, Job] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self._room():
                    job = waiting.pop(0)
                    try:
                        running[self._submit(job)] = job
                    except (_ChangedError, OSError) as error:
                        hint = "run the sweep again: the cell is another one now"
                        heard(job, Half(6, "CHANGED", f"changed while the sweep was running: {error}", hint))
                if not running:
                    continue
                ready, _ = self.ray.wait(list(running), timeout=_POLL_SECONDS)
                for reference in ready:
                    job = running.pop(reference)
                    heard(job, self._ended(job, reference))
                    self._let_go(reference, waiting)
                self._give_up(running, heard)
        except BaseException:
            for reference in running:
                self.ray.cancel(reference, force=True)
            raise

    def _room(self) -> int:
        """Tasks that wait in the cluster besides those that run, so that no core idles, and files wait with them."""
        return self.jobs or max(2, int(2 * sum(node.get("CPU", 0.0) for node in self._nodes())))

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _submit(self, job: Job) -> Any:
        there = index_of(job.bundle) if job.stage == "measure" else {}
        cores = self._cores(job)
        inputs = {file.sha256: self._put(file.sha256, file.here) for file in job.files}
        inputs |= {digest: self._put(digest, job.bundle / name) for name, digest in there.items()}
        task = self.ray.remote(_node.work).options(
            name=f"{job.stage} {job.label}",
            num_cpus=cores,
            num_gpus=job.task.gpus,
            memory=int(job.task.memory_gb * (1 << 30)) if job.task.memory_gb else None,
            max_retries=job.task.retries,
            retry_exceptions=[OSError],  # a node whose disk is full, say
            scheduling_strategy="SPREAD",
        )
        reference = task.remote(job, inputs, there, self.store.known() | frozenset(there.values()), cores)
        self.needed[reference] = frozenset(inputs)
        return reference

    def _cores(self, job: Job) -> float:
        """What is asked for; to measure, all of a node, so that nothing else of Ray's runs there meanwhile."""
        whole = [node.get("CPU", 0.0) for node in self._nodes() if node.get("GPU", 0.0) >= job.task.gpus]
        whole = [cores for cores in whole if cores >= job.task.cpus]
        return min(whole, default=float(job.task.cpus)) if job.stage == "measure" else float(job.task.cpus)

    def _put(self, digest: str, path: Path) -> Any:
        if digest not in self.held:
            data = path.read_bytes()
            if sha256(data).hexdigest() != digest:
                raise _ChangedError(path.name)
            self.held[digest] = self.ray.put(data)
        return self.held[digest]

    def _let_go(self, reference: Any, waiting: Sequence[Job]) -> None:
        """Free what no job needs any more."""
        del self.needed[reference]
        needed = {file.sha256 for job in waiting for file in job.files}.union(*self.needed.values())
        self.held = {digest: kept for digest, kept in self.held.items() if digest in needed}

    def _ended(self, job: Job, reference: Any) -> Half:
        try:
            sent: _node.Sent = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            return _lost(error)
        with job.log.open("ab") as log:
            log.write(sent.blobs.pop(_node.LOG, b""))
        for digest, blob in sent.blobs.items():
            self.store.put(digest, blob)
        if sent.index:
            self.store.lay_out(sent.index, job.bundle)
        return sent.half

    def _give_up(self, running: dict[Any, Job], heard: Heard) -> None:
        """Jobs that no node of the cluster is large enough for, when that has been so for a while."""
        nodes = self._nodes()
        lacking = {reference: job for reference, job in running.items() if not _fits(job, nodes)}
        if not lacking:
            self.lacking_since = None
            return
        self.lacking_since = self.lacking_since or time.monotonic()
        if time.monotonic() - self.lacking_since < PATIENCE_SECONDS:
            return
        for reference, job in lacking.items():
            self.ray.cancel(reference, force=True)
            del running[reference], self.needed[reference]
            task = job.task
            asked = f"{task.cpus} CPUs, {task.gpus:g} GPUs and {task.memory_gb or 0:g} GB"
            hint = "lower task.cpus, task.gpus or task.memory_gb, or add a node"
            heard(job, Half(4, "NO_RESOURCES", f"no node of the cluster has {asked}", hint))


class _ChangedError(Exception):
    """A file is not the one any more that the cell was planned with; named by the text."""


def _fits(job: Job, nodes: Sequence[dict[str, float]]) -> bool:
    task = job.task
    asked = {"CPU": task.cpus, "GPU": task.gpus, "memory": (task.memory_gb or 0.0) * (1 << 30)}
    return any(all(node.get(name, 0.0) >= much for name, much in asked.items()) for node in nodes)


def _lost(error: Exception) -> Half:
    """What became of a task that Ray gave up."""
    if isinstance(cause := getattr(error, "cause", None), DeploykitError):
        return Half(cause.exit_code, cause.code, f"{cause.subject}: {cause.message}", cause.hint)
    name, said = type(error).__name__, escape(str(error).strip().split("\n")[-1], 200)
    if "No module named" in str(error):
        return Half(4, "PACKAGE_MISSING", f"a node cannot import deploykit: {said}", "install it on every node")
    if any(sign in name for sign in _LOST):
        return Half(
            4, "WORKER_LOST", f"its workers were lost more often than it is retried: {said}", "raise task.retries"
        )
    return Half(4, "WORKER_LOST", f"{name}: {said}", "see the logs of the cluster")
