"""The model as the KServe SDK takes it: a `kserve.Model` over onnxruntime. Copied into the folder as `model.py`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import kserve
import numpy as np
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import InferOutput, InferRequest, InferResponse
from onnx_model import DATATYPES, OnnxModel, Sent, UnfitError

CONFIG = "model.json"


class Version(kserve.Model):  # type: ignore[misc]  # kserve is not installed where types are checked
    """One version of one model, registered as `MODEL@NUMBER`.

    Args:
        folder: `models/MODEL/NUMBER` with `model.json` and the artifact.
    """

    def __init__(self, folder: Path) -> None:
        self.model, self.number = folder.parent.name, folder.name
        super().__init__(f"{self.model}@{self.number}")
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        self._engine = OnnxModel(folder / config["artifact"], config)
        self.ready = True
        print(f"{self.name} is open: {self._engine.opened()}", flush=True)

    def get_input_types(self) -> list[dict[str, Any]]:
        """What goes in, for the model's metadata."""
        return list(self._engine.described("inputs"))

    def get_output_types(self) -> list[dict[str, Any]]:
        """What comes out."""
        return list(self._engine.described("outputs"))

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> InferResponse:  # noqa: ARG002
        """One inference, in a thread: the server goes on answering meanwhile.

        Raises:
            InvalidInput: the request does not fit the model; the SDK answers 400.
        """
        if not isinstance(payload, InferRequest):
            raise InvalidInput("this server speaks the Open Inference Protocol v2: POST /v2/models/NAME/infer")
        wanted = [one.name for one in payload.request_outputs or ()]
        try:
            found = await asyncio.to_thread(self._engine.infer, [_sent(one) for one in payload.inputs], wanted)
        except UnfitError as error:
            raise InvalidInput(str(error)) from error
        return InferResponse(
            payload.id or str(uuid4()),
            self.model,
            [_output(name, array, payload) for name, array in found.items()],
            model_version=self.number,
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


def _output(name: str, array: np.ndarray, payload: InferRequest) -> InferOutput:
    output = InferOutput(name, list(array.shape), DATATYPES[array.dtype.name], data=array)
    if payload.from_grpc:  # the SDK's way to gRPC takes no arrays where the answer is to be bytes
        output.set_data_from_numpy(array, binary_data=payload.use_binary_outputs)
    return output


def _sent(one: Any) -> Sent:
    raw = one._raw_data  # noqa: SLF001 - the SDK's only way to gRPC's bytes that does not trust their number
    return Sent(one.name, one.datatype, tuple(one.shape), bytes(raw) if raw is not None else one.data or [])
