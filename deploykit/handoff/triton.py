"""Triton Inference Server: a model repository for its ONNX Runtime backend, or its PyTorch backend."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from deploykit import handed
from deploykit.errors import InternalError, RefusedError
from deploykit.handoff import _triton_config as config
from deploykit.handoff._triton_binding import wrongly_bound
from deploykit.handoff._triton_lint import Finding, Subject, lint
from deploykit.handoff.interface import Commands, Given, Speaks, Tree, Version
from deploykit.session import CPU, CUDA, SessionSettings

REPOSITORY = "model_repository"
"""Folder that `tritonserver --model-repository` is given."""

CUDA_OPTIONS = (24, 7)
"""First release whose ONNX Runtime backend takes options of CUDA, `use_tf32` among them (its source of June 2024)."""

LIBTORCH_THREADS = (24, 5)
"""First release whose PyTorch backend reads INTRA_OP_THREAD_COUNT (its source of April 2024); others pass over it."""

LIBTORCH_TYPES = {"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"}
"""What the PyTorch backend has a torch type for."""

_SERVER = (
    "`tritonserver` is in NVIDIA's container of each release. With docker and the image in `TRITON_IMAGE`: "
    '`docker run --rm -p 127.0.0.1:${PORT:-8000}:8000 -v "$PWD/model_repository:/model_repository:ro" '
    '"${TRITON_IMAGE:?}" tritonserver --model-repository=/model_repository --disable-auto-complete-config`.',
    "It listens on all interfaces and asks for no password: keep it on loopback (`--http-address=127.0.0.1 "
    "--grpc-address=127.0.0.1`) or behind a proxy that lets only `/v2/models/` through. Besides HTTP it takes a port "
    "for gRPC (`GRPC_PORT`, 8001) and one for metrics (`--metrics-port`, 8002; `--allow-metrics=false`).",
    "Wrong names, datatypes and shapes get a 400 before the model sees them. Two faults of a JSON tensor fail in "
    "Triton's own reader with a 500 instead, also before the model: texts, and fewer numbers than the shape has.",
    "`/v2/models/NAME/versions/N/infer` asks one version; who names none gets the highest number. Metrics, and the "
    "counts in `/v2/models/NAME/stats`, are kept per version.",
)


@dataclass(frozen=True)
class Target:
    """`tritonserver --model-repository=model_repository` in the folder."""

    runtimes: ClassVar[tuple[str, ...]] = ("onnxruntime", "torchscript")
    speaks: ClassVar[Speaks] = "oip"
    stack: ClassVar[str] = ""  # the server is a container, and check.py needs numpy only
    summary: ClassVar[str] = "Triton Inference Server: a model repository with dynamic batching where the model allows"
    proof: ClassVar[str] = (
        "For this target Triton's own server (release 24.10, CPU) loaded this kind of `config.pbtxt` and answered over "
        "JSON, binary and gRPC as onnxruntime does in process, with its Python backend calling onnxruntime in place of "
        "its ONNX Runtime backend; not run: that backend itself, the PyTorch backend, GPUs, the container."
    )

    def check(self, given: Given) -> None:
        """Refuse what Triton would not load, or load and serve otherwise than it was verified.

        Raises:
            RefusedError: TARGET_CANNOT_SERVE.
            InternalError: the file that would be written breaks one of our own rules for it.
        """
        _check_versions(given)
        _check_tensors(given)
        _check_engine(given)
        if found := lint(config.render(given), _subject(given)):
            raise InternalError("handoff", f"{found[0].code}: {found[0].message}", "report this")

    def files(self, given: Given) -> Tree:
        """One configuration, and a folder per version with the artifact under one name for all."""
        place = f"{REPOSITORY}/{given.model}"
        tree: Tree = {f"{place}/config.pbtxt": config.render(given)}
        for version in given.versions:
            tree |= {f"{place}/{version.number}/{name}": path for name, path in _named(version).items()}
        return tree

    def commands(self, given: Given) -> Commands:
        """The server's own command, as it works inside its container."""
        ports = '--http-port="${PORT:-8000}" --grpc-port="${GRPC_PORT:-8001}"'
        return Commands(
            install=(),
            start=f"tritonserver --model-repository={REPOSITORY} --disable-auto-complete-config {ports}",
            url="http://127.0.0.1:${PORT:-8000}",
            notes=(*_SERVER, *_batching_notes(given), *_settings_notes(given)),
        )


def lint_folder(folder: Path) -> tuple[Finding, ...]:
    """What is wrong with the `config.pbtxt` of a handoff folder as it is now, edited perhaps.

    Raises:
        DeploykitError: the folder is no handoff, or the file is no text format.
        OSError: the file cannot be read.
    """
    record = handed.load(folder)
    place = folder / REPOSITORY / record.model
    versions = {
        int(path.name): tuple(file.name for file in path.iterdir())
        for path in place.iterdir()
        if path.is_dir() and path.name.isdecimal()
    }
    runtime = record.versions[-1].variant.runtime
    text = (place / "config.pbtxt").read_text(encoding="utf-8")
    return lint(text, Subject(record.signature, runtime, versions, record.provider))


def _named(version: Version) -> dict[str, Path]:
    """Files by their name in the version's folder: an artifact finds the weights beside it by name, and not itself."""
    own = config.FILES[version.variant.runtime]
    return {own if name == version.artifact else name: path for name, path in version.files.items()}


def _subject(given: Given) -> Subject:
    versions = {version.number: tuple(_named(version)) for version in given.versions}
    return Subject(given.signature, given.latest.variant.runtime, versions, given.provider)


def _check_versions(given: Given) -> None:
    """All versions share one configuration."""
    latest = given.latest
    for version in given.versions:
        if version.variant.runtime != latest.variant.runtime:
            message = f"version {version.number} is {version.variant.runtime}, {latest.number} {latest.variant.runtime}"
            raise _refused(given, f"{message}: one model has one backend", "give it another --model-name")
        if _expressed(version) != _expressed(latest):
            words = [f"{one.number} with {one.settings.words or 'the defaults'}" for one in (version, latest)]
            message = f"one model has one configuration, and version {' and '.join(words)} was verified"
            hint = f"give --session default,{version.settings.words}".rstrip(",") + ", or another --model-name"
            raise _refused(given, message, hint)


def _expressed(version: Version) -> SessionSettings:
    """The settings without those that no configuration has."""
    return replace(version.settings, spinning=True, binding=False)


def _check_tensors(given: Given) -> None:
    """Every tensor has a type and a dim, and libtorch binds it to its own place."""
    torch = given.latest.variant.runtime == "torchscript"
    for specs in (given.signature.inputs, given.signature.outputs):
        for spec in specs:
            if spec.dtype not in (LIBTORCH_TYPES if torch else config.TYPES):
                raise _refused(given, f"{spec.name} is {spec.dtype}, which Triton has no type for here", "cast it")
            if not spec.shape:
                message = f"{spec.name} is a scalar, and Triton has none: clients would see shape [1]"
                raise _refused(given, message, "give it the shape [1] in the model")
        names = [spec.name for spec in specs]
        if torch and (wrong := wrongly_bound(names, names)):
            message = f"libtorch takes the number at the end of {wrong[0]} for its place"
            raise _refused(given, message, "name it without two underscores and a number, or hand over onnx")


def _check_engine(given: Given) -> None:
    """The provider and the settings exist there, in the release that was named."""
    settings, torch = given.latest.settings, given.latest.variant.runtime == "torchscript"
    if given.provider not in {CPU, CUDA}:
        message = f"the settings are for {given.provider}, which Triton's build may not have"
        raise _refused(given, message, "hand it over with --on cpu or --on cuda")
    if settings.device_graph:
        message = "device_graph records the buffers of one call, and Triton has new ones at every request"
        raise _refused(given, message, "add --session device_graph=off")
    release = _release(given)
    if given.provider == CUDA and not torch and release < CUDA_OPTIONS:
        message = f"release {given.release} cannot be told whether to use TF32"
        raise _refused(given, message, "name release 24.07 or later, or hand it over with --on cpu")
    if torch and settings.threads is not None and release < LIBTORCH_THREADS:
        message = f"the PyTorch backend of release {given.release} cannot be told threads={settings.threads}"
        raise _refused(given, message, "name release 24.05 or later, or give --session default")


def _release(given: Given) -> tuple[int, int]:
    """Year and month; later than any where none was named."""
    found = re.fullmatch(r"(\d\d)\.(\d\d)", given.release or "")
    return (int(found[1]), int(found[2])) if found else (99, 12)


def _batching_notes(given: Given) -> list[str]:
    found, most = config.batching(given.signature), config.max_batch(given)
    if found.dim is None:
        said = [f"Requests are never put together, `max_batch_size` is 0: {found.reason}."]
    else:
        name, limit = found.dim.name, f"{found.dim.max}" if most < found.dim.max else "no more"
        said = [
            f"Requests may be put together into calls of at most {most} rows (`max_batch_size`; the model promises "
            f"{limit}): other rows in a call change rounding, so that answers stay within the limits and are not the "
            "same to the last bit. To have them so, take `dynamic_batching` out of `config.pbtxt`."
        ]
        if found.dim.min > 1:
            said.append(f"Triton knows no lower end of {name}: fewer rows than {found.dim.min} reach the model.")
    first = found.dim.name if found.dim is not None else None
    free = sorted({d for spec in given.signature.inputs for d in spec.shape if isinstance(d, str) and d != first})
    if free:
        said.append(
            f"Triton takes any size of {', '.join(free)} (-1 in `config.pbtxt`): what is out of range, or differs "
            "between inputs that have to agree, fails in the engine."
        )
    return said


def _settings_notes(given: Given) -> list[str]:
    settings, runtime = given.latest.settings, given.latest.variant.runtime
    said = []
    if any(not version.settings.spinning and version.settings.threads != 1 for version in given.versions):
        said.append(
            "`spinning=off` cannot be expressed: Triton's ONNX Runtime backend has no such parameter, so that idle "
            "threads spin for a while. Answers are the same, an idle server takes more of the CPU."
        )
    if any(version.settings.binding for version in given.versions):
        said.append("`binding` needs no parameter: the backend always binds buffers of its own.")
    if runtime == "torchscript" and given.provider == CUDA:
        said.append(
            f"The PyTorch backend cannot be told `tf32={'on' if settings.tf32 else 'off'}`: it has torch's own."
        )
    if any(spec.dtype == "float16" for spec in (*given.signature.inputs, *given.signature.outputs)):
        said.append("Triton takes and gives FP16 as binary tensors and over gRPC only, never as JSON; `check.py` does.")
    return said


def _refused(given: Given, message: str, hint: str) -> RefusedError:
    return RefusedError(given.model, message, hint, "TARGET_CANNOT_SERVE")
