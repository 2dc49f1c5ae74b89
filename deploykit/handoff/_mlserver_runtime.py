"""The model as MLServer takes it: an `mlserver.MLModel` over onnxruntime. Copied along as `onnx_runtime.py`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from mlserver.utils import get_model_uri
from onnx_model import DATATYPES, OnnxModel, Sent, UnfitError


class OnnxRuntime(MLModel):  # type: ignore[misc]  # mlserver is not installed where types are checked
    """One version of the model. `model-settings.json` names its file and holds, in `extra`, what `OnnxModel` reads."""

    async def load(self) -> bool:
        """Open the session."""
        artifact = Path(await get_model_uri(self.settings))
        self._engine = await asyncio.to_thread(OnnxModel, artifact, self.settings.parameters.extra)
        print(f"{self.name} {self.version} is open: {self._engine.opened()}", flush=True)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One inference, in a thread: the server goes on answering meanwhile.

        Raises:
            InferenceError: the request does not fit the model; MLServer answers 400.
        """
        wanted = [one.name for one in payload.outputs or ()]
        try:
            found = await asyncio.to_thread(self._engine.infer, [_sent(one) for one in payload.inputs], wanted)
        except UnfitError as error:
            raise InferenceError(str(error)) from error
        outputs = [
            ResponseOutput(
                name=name,
                shape=list(array.shape),
                datatype=DATATYPES[array.dtype.name],
                data=array.ravel().tolist(),
            )
            for name, array in found.items()
        ]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)


def _sent(one: Any) -> Sent:
    """HTTP's requests are validated models, gRPC's the same classes with plain values inside."""
    datatype = getattr(one.datatype, "value", one.datatype)
    return Sent(one.name, datatype, tuple(one.shape), list(_plain(one.data)))


def _plain(data: Any) -> Any:
    found = getattr(data, "root", data)
    return found if isinstance(found, list | tuple) else [found]
