"""The model behind the server: a session, what goes into it and comes out, and who has to wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deploykit.errors import DeploykitError, UsageError, WorkError
from deploykit.serve.head import HttpFault
from deploykit.serve.metrics import Metrics
from deploykit.session import Session
from deploykit.signature import Feeds, Signature, TensorSpec
from deploykit.wire import Message, parse_request, response
from deploykit.wire_tensors import DATATYPES

VERSION = "1"
"""A bundle has one version of its model."""

PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "torchscript": "pytorch_libtorch"}
"""The protocol's own words for what runs a model; other engines go by their plugin's name."""


@dataclass(frozen=True)
class About:
    """What is served."""

    name: str
    variant: str
    runtime: str
    signature: Signature

    @property
    def metadata(self) -> dict[str, Any]:
        """The protocol's description of the model."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": PLATFORMS.get(self.runtime, f"deploykit_{self.runtime}"),
            "inputs": [_described(spec) for spec in self.signature.inputs],
            "outputs": [_described(spec) for spec in self.signature.outputs],
        }


class Model:
    """Answers requests, `concurrency` at a time.

    Args:
        about: what it is.
        session: opened.
        concurrency: runs at a time.
        queue_s: seconds that a request waits for its turn.
        metrics: counts the runs.
        tell: gets a line about a run that failed.
    """

    def __init__(
        self,
        about: About,
        session: Session,
        concurrency: int,
        queue_s: float,
        metrics: Metrics,
        tell: Callable[[str], None],
    ) -> None:
        self.about = about
        self._session, self._metrics, self._tell, self._queue_s = session, metrics, tell, queue_s
        self._turns = threading.Semaphore(concurrency)
        self._inputs = [spec.name for spec in about.signature.inputs]
        self._outputs = [spec.name for spec in about.signature.outputs]

    def infer(self, headers: dict[str, str], body: bytearray) -> Message:
        """One request to one answer.

        Raises:
            HttpFault: 400, 500, 503.
        """
        try:
            asked = parse_request(headers, body, self.about.signature)
        except UsageError as error:
            raise refused(error) from error
        if unknown := [name for name in asked.outputs if name not in self._outputs]:
            raise HttpFault(400, f"there is no output {unknown[0][:80]}", "MALFORMED_REQUEST")
        answer = self._run({name: asked.feeds[name] for name in self._inputs})
        wanted = {name: answer[name] for name in (asked.outputs or self._outputs)}
        try:
            return response(wanted, self.about.name, VERSION, binary=asked.binary_outputs, id=asked.id)
        except UsageError as error:
            raise refused(error) from error

    def _run(self, feeds: Feeds) -> Feeds:
        if not self._turns.acquire(timeout=self._queue_s):
            raise HttpFault(503, "too many requests are waiting", "BUSY", extra=(("Retry-After", "1"),))
        try:
            began = time.perf_counter()
            answer = self._session.run(feeds)
            self._metrics.ran(time.perf_counter() - began)
        except DeploykitError as error:
            raise self._failed(error) from error
        finally:
            self._turns.release()
        if set(answer) != set(self._outputs):
            hint = "verify the bundle: deploykit verify BUNDLE"
            raise self._failed(WorkError("answer", "its outputs are not those of the signature", hint, "OUTPUT_NAMES"))
        return answer

    def _failed(self, error: DeploykitError) -> HttpFault:
        """What the engine says may name files of this machine: it goes to the log, not to the client."""
        self._tell(str(error))
        return HttpFault(500, f"the engine could not run this request ({error.code})", error.code)


def refused(error: UsageError) -> HttpFault:
    """The answer to a request that is the client's own fault."""
    return HttpFault(400, f"{error.subject[:120]}: {error.message[:300]}; {error.hint[:200]}", error.code)


def _described(spec: TensorSpec) -> dict[str, Any]:
    shape = [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": shape}
