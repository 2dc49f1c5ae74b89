"""Ray Serve: an application that speaks the Open Inference Protocol, its configuration, and every version of the model.

Sources: Ray 2.60, `ray/serve/schema.py` (the keys of `serve.yaml`; it takes unknown ones without a word) and
`ray/_private/authentication/` (tokens).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from deploykit.handoff import _onnx_config
from deploykit.handoff._yaml import yaml
from deploykit.handoff.interface import Commands, Given, Speaks, Tree

_HERE = Path(__file__).parent

PORT = 8000

COPIED = {
    "app.py": "_ray_serve_app.py",
    "oip.py": "_ray_serve_oip.py",
    "batches.py": "_ray_serve_batches.py",
    "onnx_model.py": "_onnx_model.py",
}
"""File in the folder to the module that it is a copy of."""

ONGOING = 2
"""Requests that a replica takes at once: one is computed while the next one is read."""

QUEUED = 256
"""Requests that wait for a replica before further ones get a 503; Ray's own default is any number."""


@dataclass(frozen=True)
class Target:
    """`serve run` on one machine, the same folder on the nodes of a cluster."""

    runtimes: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    speaks: ClassVar[Speaks] = "oip"
    stack: ClassVar[str] = "ray-serve"
    leaves: ClassVar[tuple[str, ...]] = ("serve.local.yaml",)
    summary: ClassVar[str] = "Ray Serve: an application over onnxruntime, and its configuration"
    proof: ClassVar[str] = (
        "For this target real Ray Serve on one node, on the CPU, answered a model's reference within its limits over "
        "JSON and binary tensors; in the slow tests three nodes in network namespaces lose one under load. Not tried: "
        "GPUs, Kubernetes with KubeRay, nodes on several machines."
    )

    def check(self, given: Given) -> None:
        """Refuse GPU settings and dtypes that are not in the protocol.

        Raises:
            RefusedError: TARGET_CANNOT_SERVE.
        """
        _onnx_config.check(given, "ray-serve")

    def files(self, given: Given) -> Tree:
        """The application, its configuration, and every version in `models/N`."""
        tree: Tree = {name: _HERE / source for name, source in COPIED.items()}
        tree["app.json"] = json.dumps(app(given), indent=2) + "\n"
        tree["serve.yaml"] = yaml(configuration(given))
        for version in given.versions:
            tree |= {f"models/{version.number}/{name}": path for name, path in version.files.items()}
        return tree

    def commands(self, given: Given) -> Commands:
        """`serve run`, on a local Ray that it starts itself."""
        return Commands(
            install=("python -m pip install --require-hashes -r requirements.txt",),
            start=(
                f'sed "s/port: {PORT}/port: ${{PORT:-{PORT}}}/" serve.yaml > serve.local.yaml\n'
                'PYTHONPATH="$PWD" RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 serve run serve.local.yaml'
            ),
            url=f"http://127.0.0.1:${{PORT:-{PORT}}}",
            notes=_notes(given),
        )


def app(given: Given) -> dict[str, Any]:
    """What `app.py` reads: the model, every version's settings and tensors, and how many samples share a call."""
    versions = {
        str(one.number): {"artifact": one.artifact, **_onnx_config.config(given, one)} for one in given.versions
    }
    return {"model": given.model, "batch": batch(given), "versions": versions}


def batch(given: Given) -> int | None:
    """Samples that requests of several clients may share a call with; None keeps every request to itself.

    Only where settings were tuned for throughput, and where the batch dim leads every input and output.
    """
    wanted, dim = given.latest.batch, given.signature.batch_dim
    # an output that has the dim twice, or not in front, mixes samples and cannot be taken apart again
    leads = all(spec.shape[:1] == (dim,) and dim not in spec.shape[1:] for spec in given.signature.outputs)
    most = max((one.max for one in given.signature.dims if one.name == dim), default=wanted or 0)
    if wanted is None or wanted < 2 or dim is None or not leads or most < 2:
        return None
    return min(wanted, most)


def configuration(given: Given) -> dict[str, Any]:
    """What `serve run` and `serve deploy` read: a fixed number of replicas, each with a CPU per thread."""
    samples = batch(given)
    deployment = {
        "name": "Model",
        "num_replicas": 1,
        # a full batch has to be waiting while the one before it is computed
        "max_ongoing_requests": ONGOING if samples is None else 2 * samples,
        "max_queued_requests": QUEUED,
        "ray_actor_options": {"num_cpus": cpus(given)},
    }
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": PORT},
        # a line per request, once from the proxy and once from the replica, costs more than a small model
        "logging_config": {"enable_access_log": False},
        "applications": [
            {
                "name": given.model,
                "route_prefix": "/",
                "import_path": "app:app",
                "deployments": [deployment],
            }
        ],
    }


def cpus(given: Given) -> int:
    """CPUs that Ray sets aside for a replica: the threads of its widest session, 1 where nothing was said."""
    return max(one.settings.threads or 1 for one in given.versions)


def _notes(given: Given) -> tuple[str, ...]:
    samples = batch(given)
    shared = (
        f" Requests of up to {samples} samples that come within 5 ms share a call of the engine, so answers may differ "
        "in their last bits from those to a request alone; the limits hold. Only requests to the latest version share."
        if samples
        else ""
    )
    notes = [
        "The model answers on 127.0.0.1 only. **Ray's own ports are open on all interfaces**, and who may use them may "
        "run code: `RAY_AUTH_MODE=token` keeps out who has no token. Ray makes one in `~/.ray/auth_token` when it "
        "starts on this machine for the first time; `RAY_AUTH_TOKEN_PATH` names another file. Every node of a cluster "
        "and every `serve` or `ray` command needs the same token. `ctrl-c` ends the server and the Ray that it "
        "started; `ray stop` ends every Ray of this user.",
        f"A replica takes {cpus(given)} of Ray's CPUs and stays pending while they are not free. `num_replicas` in "
        "`serve.yaml` says how many there are; autoscaling is off. Sessions without `threads` take as many as the "
        f"machine has cores: with several replicas on one machine set it.{shared}",
        "On a cluster: the folder at the same path on every node and `PYTHONPATH` set to it when `ray start` runs "
        "there, `proxy_location: EveryNode` and a `host` that clients reach, then `serve deploy serve.yaml`.",
        *_onnx_config.notes(given),
    ]
    return tuple(notes)
