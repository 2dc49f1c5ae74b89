"""A running server as a session: what the benchmark times in the place of an opened artifact."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from deploykit.endpoint import Endpoint, Wire, connect
from deploykit.remote.naming import Naming
from deploykit.session import Phases
from deploykit.signature import Feeds, TensorSpec


@dataclass(frozen=True)
class Connection:
    """Which server, and how it is asked. It is written for a worker by its parent and never comes from a bundle.

    Attributes:
        outputs: dtypes and names for protocols whose answers do not declare them.
        naming: of the model's tensors on the server.
        told: what reports call the server.
        headers: sent with every request; they may hold a secret.
    """

    url: str
    model: str
    version: str
    wire: Wire
    timeout_s: float
    outputs: tuple[TensorSpec, ...]
    naming: Naming
    told: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    def save(self, path: Path) -> None:
        """Write a new file that only its owner can read."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(asdict(self), stream)

    @classmethod
    def load(cls, path: Path) -> Connection:
        """Read what `save` wrote."""
        known = json.loads(path.read_text(encoding="utf-8"))
        known["outputs"] = tuple(TensorSpec(**{**one, "shape": tuple(one["shape"])}) for one in known["outputs"])
        known["naming"] = Naming(**known["naming"])
        return cls(**known)

    def open(self) -> RemoteSession:
        """A session with a connection of its own; nothing is sent yet.

        Raises:
            UsageError: BAD_URL, PACKAGE_MISSING.
        """
        endpoint = connect(
            self.url,
            self.model,
            version=self.version,
            wire=self.wire,
            timeout_s=self.timeout_s,
            headers=self.headers,
            outputs=self.outputs,
        )
        return RemoteSession(endpoint, self.naming, self.told)


class RemoteSession:
    """See `deploykit.session.Session`; for one thread at a time. A call encodes, asks, waits and decodes.

    Args:
        endpoint: of the model.
        naming: of its tensors there.
        told: what is given as the provider: who really computes, the server does not tell.
    """

    threads: int | None = None

    def __init__(self, endpoint: Endpoint, naming: Naming, told: str) -> None:
        self.provider = told
        self._endpoint, self._naming = endpoint, naming

    def run(self, feeds: Feeds) -> Feeds:
        """The outputs under the signature's names.

        Raises:
            DeploykitError: as `Endpoint.infer`.
        """
        return self._naming.received(self._endpoint.infer(self._naming.sent(feeds)))

    def prepare(self, feeds: Feeds) -> Callable[[], object]:
        """One request with `feeds`, from arrays to arrays."""
        return partial(self._endpoint.infer, self._naming.sent(feeds))

    def phases(self, feeds: Feeds) -> Phases | None:
        """A client sees none."""
        del feeds
        return None

    def close(self) -> None:
        """Close the connection."""
        self._endpoint.close()
