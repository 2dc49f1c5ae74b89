"""The model as a Ray Serve application that speaks the Open Inference Protocol v2. Copied into the folder as `app.py`.

`serve run serve.yaml` imports `app` from here. Every replica opens one session per version, with the settings that
`app.json` holds, and answers

    GET  /v2  /v2/health/live  /v2/health/ready
    GET  /v2/models/MODEL[/versions/N]            what goes in and out
    GET  /v2/models/MODEL[/versions/N]/ready
    POST /v2/models/MODEL[/versions/N]/infer      JSON, or with binary tensors
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from batches import Arrays, rows, together
from oip import JSON_LENGTH, Asked, read, written
from onnx_model import OnnxModel, UnfitError
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

HERE = Path(__file__).resolve().parent
CONFIG = json.loads((HERE / "app.json").read_text(encoding="utf-8"))
MODEL, VERSIONS, BATCH = CONFIG["model"], CONFIG["versions"], CONFIG["batch"]
LATEST = str(max(int(number) for number in VERSIONS))

MAX_BODY = 64 << 20
"""Bytes of the longest request; Ray holds all of it in memory before this file sees it."""

WAIT_S = 0.005
"""How long a request waits for company where requests are batched."""

LOGGER = logging.getLogger("ray.serve")


class Model:
    """One replica."""

    def __init__(self) -> None:
        self._versions = {
            number: OnnxModel(HERE / "models" / number / config["artifact"], config)
            for number, config in VERSIONS.items()
        }
        for number, model in self._versions.items():
            print(f"version {number} is open: {model.opened()}", flush=True)

    async def __call__(self, request: Request) -> Response:
        """The answer to one HTTP request."""
        try:
            return await self._routed(request)
        except UnfitError as error:
            return failed(400, str(error))
        except Exception:  # the engine's exceptions share no base; what it says goes to the log, not to the client
            LOGGER.exception("inference failed")
            return failed(500, "inference failed")

    async def _routed(self, request: Request) -> Response:
        path = request.url.path.strip("/")
        if path in {"v2/health/live", "v2/health/ready"}:
            return fetched(request, {path.rpartition("/")[2]: True})
        if path == "v2":
            about = {"name": "ray-serve", "version": ray.__version__, "extensions": ["binary_tensor_data"]}
            return fetched(request, about)
        words = path.split("/")
        if words[:3] != ["v2", "models", MODEL]:
            return failed(404, f"there is no such path; the model is at /v2/models/{MODEL}")
        number, rest = (words[4], words[5:]) if words[3:4] == ["versions"] and len(words) > 4 else (LATEST, words[3:])
        if number not in self._versions:
            return failed(404, f"there is no version {number[:20]}; there are {', '.join(self._versions)}")
        if not rest:
            return fetched(request, self._metadata(number))
        if rest == ["ready"]:
            return fetched(request, {"name": MODEL, "ready": True})
        if rest == ["infer"]:
            return await self._infer(request, number)
        return failed(404, f"there is no such path below /v2/models/{MODEL}")

    def _metadata(self, number: str) -> dict[str, Any]:
        model = self._versions[number]
        tensors = {side: model.described(side) for side in ("inputs", "outputs")}
        return {"name": MODEL, "versions": list(self._versions), "platform": "onnxruntime_onnx", **tensors}

    async def _infer(self, request: Request, number: str) -> Response:
        if request.method != "POST":
            return failed(405, "ask with POST", Allow="POST")
        body = await request.body()
        if len(body) > MAX_BODY:
            return failed(413, f"a request has at most {MAX_BODY} bytes")
        model, length = self._versions[number], request.headers.get(JSON_LENGTH)
        # in threads: a replica that computes in its event loop answers nothing else meanwhile, its health neither
        if not (BATCH and number == LATEST):
            content, headers = await asyncio.to_thread(answered, model, number, body, length)
        else:
            asked, feeds = await asyncio.to_thread(understood, model, body, length)
            outputs = await self._shared(model, feeds)
            content, headers = await asyncio.to_thread(worded, model, number, asked, outputs)
        return Response(content, headers=headers)

    async def _shared(self, model: OnnxModel, feeds: Arrays) -> Arrays:
        """The outputs, out of a call that may be shared; what is larger than a batch keeps its call to itself."""
        if rows(feeds) > BATCH:
            return await asyncio.to_thread(model.run, feeds, model.outputs)
        found = await self._batched(feeds)
        if isinstance(found, Exception):
            raise found
        return dict(found)

    @serve.batch(  # type: ignore[untyped-decorator]  # Ray is not there when this is checked
        max_batch_size=BATCH or 1, batch_wait_timeout_s=WAIT_S, batch_size_fn=lambda asked: sum(map(rows, asked))
    )
    async def _batched(self, asked: list[Arrays]) -> Sequence[Arrays | Exception]:
        """Requests that came at the same time, as few calls of the engine."""
        model = self._versions[LATEST]
        return await asyncio.to_thread(together, lambda feeds: model.run(feeds, model.outputs), asked)


def understood(model: OnnxModel, body: bytes, json_length: str | None) -> tuple[Asked, Arrays]:
    """A request, and its arrays, held to what the model takes.

    Raises:
        UnfitError: it does not fit.
    """
    asked = read(body, json_length)
    if unknown := [name for name in asked.wanted if name not in model.outputs]:
        raise UnfitError(f"there is no output {unknown[0][:80]!r}; there are {', '.join(model.outputs)}")
    return asked, model.feeds(asked.sent)


def worded(model: OnnxModel, number: str, asked: Asked, outputs: Arrays) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the answer with the outputs that are wanted.

    Raises:
        UnfitError: JSON cannot hold a value.
    """
    names = asked.wanted or model.outputs
    message: tuple[bytes, dict[str, str]] = written({name: outputs[name] for name in names}, MODEL, number, asked)
    return message


def answered(model: OnnxModel, number: str, body: bytes, json_length: str | None) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the answer to one request on its own.

    Raises:
        UnfitError: it does not fit.
    """
    asked, feeds = understood(model, body, json_length)
    return worded(model, number, asked, model.run(feeds, asked.wanted or model.outputs))


def fetched(request: Request, content: dict[str, Any]) -> Response:
    """What is there to be read."""
    return JSONResponse(content) if request.method in {"GET", "HEAD"} else failed(405, "ask with GET", Allow="GET")


def failed(status: int, said: str, **headers: str) -> Response:
    """An error as the protocol words it."""
    return JSONResponse({"error": said}, status, headers)


app = serve.deployment(Model).bind()
