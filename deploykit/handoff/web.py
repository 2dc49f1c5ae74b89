"""A page that runs the model in the browser, and the same in Node: ONNX Runtime's JavaScript packages, no server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from deploykit.errors import RefusedError
from deploykit.handoff.interface import Commands, Given, Speaks, Tree, Version
from deploykit.session import CPU, SessionSettings

_HERE = Path(__file__).parent
_PAGE = _HERE / "_web"
"""What goes into every folder as it lies here; the modules import each other by these names."""

_PINS = _HERE / "requirements" / "web"

CONFIG = "web.json"
"""Where the folder's JavaScript finds the model files and the session options of every version."""

MAX_BYTES = 2**31 - 1
"""Largest model, external data included. A page's WebAssembly memory ends at 4 GiB, and opening takes a second copy."""

_LEVELS = {"disable": "disabled", "basic": "basic", "extended": "extended", "all": "all"}
"""`SessionSettings.graph_level` in the words of `InferenceSession.SessionOptions.graphOptimizationLevel`."""

_ERROR = 3
"""`logSeverityLevel` from which the engine logs, as everywhere in deploykit."""


@dataclass(frozen=True)
class Target:
    """onnxruntime-web in a page, onnxruntime-node in a script: pinned, loaded from the folder, never from elsewhere."""

    runtimes: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    speaks: ClassVar[Speaks] = ""
    stack: ClassVar[str] = "web"
    leaves: ClassVar[tuple[str, ...]] = ("node_modules",)
    summary: ClassVar[str] = "a page that runs the model in the browser, and the same in Node.js"
    proof: ClassVar[str] = (
        "For this target fp32, fp16 and both int8 forms of the seed model answered within their limits in "
        "onnxruntime-node and in onnxruntime-web (WebAssembly, one and two threads) in headless Chromium on Linux "
        "x86-64; not tried: Firefox, Safari, phones, WebGPU and WebNN."
    )

    def check(self, given: Given) -> None:
        """Refuse another provider, a server's release, what JavaScript has no array for, or a page no memory.

        Raises:
            RefusedError: TARGET_CANNOT_SERVE.
        """
        if given.provider != CPU:
            message = f"web runs on the CPU, in WebAssembly, and the settings are for {given.provider}"
            raise _refused(given.model, message, "hand it over with --on cpu")
        if given.release is not None:
            message = f"release {given.release} is a server's, and web ships onnxruntime's JavaScript packages"
            raise _refused(given.model, message, "leave out --target, or name the engine: --target ort:1.23")
        for spec in (*given.signature.inputs, *given.signature.outputs):
            if spec.dtype.startswith("complex"):
                message = f"{spec.name} is {spec.dtype}, and onnxruntime's JavaScript tensors have no such type"
                raise _refused(given.model, message, "split it into real and imaginary parts in the model")
        for version in given.versions:
            size = sum(path.stat().st_size for path in version.files.values())
            if size > MAX_BYTES:
                message = f"{size} bytes, and a page's WebAssembly memory has room for a model of {MAX_BYTES}"
                raise _refused(version.variant.name, message, "hand over a smaller variant, int8 or fp16")

    def files(self, given: Given) -> Tree:
        """The page, its modules, the npm project, `web.json`, and every version below `model/`."""
        tree: Tree = {path.name: path for path in sorted(_PAGE.iterdir()) if path.is_file()}
        tree |= {name: _PINS / name for name in ("package.json", "package-lock.json")}
        tree[CONFIG] = json.dumps(config(given), indent=2, sort_keys=True) + "\n"
        for version in given.versions:
            tree |= {f"{_place(version)}/{name}": path for name, path in version.files.items()}
        return tree

    def commands(self, given: Given) -> Commands:
        """The install is npm's own; the rest are two scripts of the folder."""
        return Commands(
            install=("npm ci --ignore-scripts",),
            start="node serve.mjs",
            url="http://127.0.0.1:${PORT:-8000}",
            check="node run.mjs",
            notes=_notes(given),
        )


def config(given: Given) -> dict[str, Any]:
    """The content of `web.json`: per version its files and how both engines open it."""
    return {"versions": {str(version.number): _opening(version) for version in given.versions}}


def session_options(settings: SessionSettings) -> dict[str, Any]:
    """`InferenceSession.SessionOptions` of onnxruntime-common for these settings, executionProviders aside.

    `binding`, `tf32` and `device_graph` have no counterpart: JavaScript sessions take no bound outputs on the CPU.
    onnxruntime-web has no `intraOpNumThreads`; its one thread pool is `env.wasm.numThreads`, which the folder's
    `model.mjs` sets to the same number. Values below `extra` have to be strings in onnxruntime-node.
    """
    options: dict[str, Any] = {
        "graphOptimizationLevel": _LEVELS[settings.graph_level],
        "executionMode": "sequential",
        "interOpNumThreads": 1,
        "enableCpuMemArena": settings.arena,
        "enableMemPattern": settings.arena,  # a pattern without an arena would be asked of the system at every call
        "logSeverityLevel": _ERROR,
        "extra": {"session": {"intra_op": {"allow_spinning": "1" if settings.spinning else "0"}}},
    }
    return options if settings.threads is None else {**options, "intraOpNumThreads": settings.threads}


def _opening(version: Version) -> dict[str, Any]:
    beside = sorted(name for name in version.files if name != version.artifact)
    return {
        "model": f"{_place(version)}/{version.artifact}",
        "external": {name: f"{_place(version)}/{name}" for name in beside},
        "session": session_options(version.settings),
    }


def _place(version: Version) -> str:
    return f"model/{version.number}"


def _notes(given: Given) -> tuple[str, ...]:
    """What somebody who puts the page on the web has to know."""
    notes = [
        "`node serve.mjs` prints the address of the page; `PORT` in the environment changes the port.",
        "`check.py` of other targets is `run.mjs` here: the same cases, limits and exit codes (0 within, 1 not, 2 "
        "usage, 4 the engine cannot run, 5 a changed file). The page's *Check* button replays them in the browser.",
        "WebAssembly threads need a cross-origin isolated page: `serve.mjs` sends `Cross-Origin-Opener-Policy: "
        "same-origin` and `Cross-Origin-Embedder-Policy: require-corp`. Without them onnxruntime-web takes one "
        "thread, and the page says so.",
        "To put the page on another server copy the folder without `node_modules`, and of that only "
        "`onnxruntime-web/dist/ort.wasm.bundle.min.mjs` and `ort-wasm-simd-threaded.wasm`, in the same places; send "
        "the headers of `serve.mjs`, and `application/wasm` and `text/javascript` as types. Whoever opens the page "
        "gets the model and the reference: publish neither where they are confidential.",
        "int64 and uint64 are `BigInt` in JavaScript; float16 is a `Float16Array` where the browser has one, and raw "
        "bits in a `Uint16Array` elsewhere (Node 20). `model.mjs` and `npz.mjs` take care of both.",
    ]
    if any(version.settings.binding for version in given.versions):
        notes.append("The setting `binding` has no counterpart in JavaScript and changes nothing here.")
    return tuple(notes)


def _refused(subject: str, message: str, hint: str) -> RefusedError:
    return RefusedError(subject, message, hint, "TARGET_CANNOT_SERVE")
