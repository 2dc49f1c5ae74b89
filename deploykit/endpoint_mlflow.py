"""MLflow's own scoring protocol: POST /invocations, JSON in and out, no dtypes and no metadata.

Source: MLflow's documentation, "Local inference server specification".
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from deploykit.endpoint import ModelFacts, ServerFacts, shown
from deploykit.endpoint_http import poll
from deploykit.errors import UsageError, WorkError
from deploykit.http_client import Answer, HttpClient, checked, place_of
from deploykit.signature import Feeds, TensorSpec
from deploykit.wire import finite


class MlflowEndpoint:
    """See `deploykit.endpoint.Endpoint`.

    Args:
        url: `mlflow+http://HOST:PORT`.
        model: only a name for reports; such a server has one model.
        outputs: names and dtypes of what it predicts, in order; without them integers come as int64, others as
            float64, and a single unnamed prediction is called `predictions`.
        timeout_s: wall time for one answer.
        headers: sent with every request.
        max_answer: bytes.
    """

    def __init__(
        self,
        url: str,
        model: str,
        outputs: tuple[TensorSpec, ...],
        timeout_s: float,
        headers: dict[str, str],
        max_answer: int,
    ) -> None:
        self.url, self.model, self._outputs = url, model, outputs
        place = place_of(url, ("mlflow+http", "mlflow+https"))
        self._client = HttpClient(
            place._replace(scheme=place.scheme.removeprefix("mlflow+")), timeout_s, headers, max_answer
        )

    def ready(self, timeout_s: float, reach_s: float | None = None) -> bool:
        """Wait until the server answers /ping; False when it does not by then. 0 asks once."""
        return poll(self._is_ready, timeout_s, reach_s)

    def server(self) -> ServerFacts:
        """Its version is all that such a server tells."""
        answer = checked(self._client.send("GET", "/version"), self.url)
        return ServerFacts("mlflow", shown(answer.body[:1000].decode("utf-8", "replace").strip()))

    def model_facts(self) -> ModelFacts:
        """What was given: such a server does not describe its model."""
        return ModelFacts(self.model, outputs=self._outputs)

    def infer(self, feeds: Feeds) -> Feeds:
        """All outputs of the model for `feeds`, by name."""
        if not finite(feeds):
            raise UsageError("inputs", "JSON has no NaN and no infinity", "MLflow takes nothing else", "NOT_IN_JSON")
        body = json.dumps({"inputs": {name: array.tolist() for name, array in feeds.items()}}, allow_nan=False)
        answer = checked(self.raw(body.encode(), {"Content-Type": "application/json"}), self.url)
        try:
            told = json.loads(answer.body)["predictions"]
            return {name: self._array(name, values) for name, values in self._named(told).items()}
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            message = f"its predictions are not what was expected: {type(error).__name__} {error}"
            raise WorkError(self.url, message, "see what the server logs", "BAD_ANSWER") from error

    def raw(self, body: bytes, headers: dict[str, str]) -> Answer:
        """Send these bytes to /invocations, and give whatever comes back."""
        return self._client.send("POST", "/invocations", body, headers)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _is_ready(self, timeout_s: float) -> bool:
        return checked(self._client.send("GET", "/ping", timeout_s=timeout_s), self.url).status == 200

    def _named(self, told: Any) -> dict[str, Any]:
        """The predictions by name: an object of arrays, a list of rows by name, or one array without a name."""
        if isinstance(told, dict):
            return told
        if isinstance(told, list) and told and all(isinstance(row, dict) for row in told):
            return {name: [row[name] for row in told] for name in told[0]}
        return {self._outputs[0].name if self._outputs else "predictions": told}

    def _array(self, name: str, values: Any) -> np.ndarray[Any, Any]:
        """The values in the dtype they should have.

        Raises:
            ValueError: they are not exact in it.
        """
        array = np.array(values)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} is no array of numbers")
        dtype = next((spec.dtype for spec in self._outputs if spec.name == name), array.dtype.name)
        with np.errstate(over="ignore"):
            cast = array.astype(dtype)
        if np.dtype(dtype).kind != "f" and not np.array_equal(cast, array):
            raise ValueError(f"{name} holds values that are not {dtype}")
        return cast
