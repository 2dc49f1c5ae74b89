"""MLflow: a model directory that `mlflow models serve` and every other reader of MLflow's format opens as it is.

Sources: MLflow 3.17, `mlflow/onnx/__init__.py` (which session options reach the engine), `mlflow/models/utils.py` (what
a tensor signature enforces) and `MLmodel` files that `mlflow.onnx.save_model` wrote.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

from deploykit.errors import RefusedError
from deploykit.handoff._layout import REQUIREMENTS
from deploykit.handoff._yaml import yaml
from deploykit.handoff.interface import Commands, Given, Speaks, Tree, Version
from deploykit.session import CPU, CUDA, SessionSettings
from deploykit.signature import TensorSpec

FOLDER = "model"
"""The MLflow model directory below the handoff folder."""

LEVELS = {"basic": 1, "extended": 2, "all": 99}
"""ONNX Runtime's `GraphOptimizationLevel`. `disable` is 0, which MLflow takes for "not given" and leaves at `all`."""

PACKAGES = ("mlflow-skinny", "numpy", "onnx", "onnxruntime", "pandas")
"""What loading the model needs; the rest follows from it. The onnx flavor loads with the package onnx, too."""

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""MLflow warns when a model comes from another minor version than it is loaded with."""


@dataclass(frozen=True)
class Target:
    """An MLflow model directory with the flavors onnx and python_function, written without MLflow."""

    runtimes: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    speaks: ClassVar[Speaks] = "mlflow"
    stack: ClassVar[str] = "mlflow"
    summary: ClassVar[str] = "an MLflow model directory, for `mlflow models serve` and all that reads MLflow's format"
    proof: ClassVar[str] = (
        "deploykit's tests start MLflow's stock server on such a folder and ask it over HTTP; no GPU, no container "
        "image and no hosted registry was tried."
    )

    def check(self, given: Given) -> None:
        """One version, dtypes that JSON holds, and settings that MLflow passes on.

        Raises:
            RefusedError: TARGET_CANNOT_SERVE.
        """
        settings = given.latest.settings
        if len(given.versions) > 1:
            numbers = ", ".join(str(one.number) for one in given.versions)
            hint = "hand each version over into a folder of its own; MLflow's registry numbers what is registered"
            raise _refused(given.model, f"a model directory holds one version, these are {numbers}", hint)
        for spec in (*given.signature.inputs, *given.signature.outputs):
            if spec.dtype.startswith("complex"):
                raise _refused(spec.name, f"{spec.dtype} has no place in MLflow's JSON", "split it into two outputs")
        if settings.graph_level not in LEVELS:
            message = f"graph_level={settings.graph_level} does not reach the engine: MLflow reads its 0 as not given"
            raise _refused(given.model, message, "give --session graph_level=basic, or bench --tune again")
        if settings.device_graph:
            message = "device_graph=on needs buffers bound to the device, and MLflow calls with arrays"
            raise _refused(given.model, message, "give --session device_graph=off")

    def files(self, given: Given) -> Tree:
        """The model directory: MLmodel, the artifact with what lies beside it, and MLflow's three environment files."""
        pins = requirements()
        python = {"python": PYTHON, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
        conda = {
            "channels": ["conda-forge"],
            "dependencies": [f"python={PYTHON}", "pip", {"pip": list(pins)}],
            "name": "mlflow-env",
        }
        return {
            f"{FOLDER}/MLmodel": yaml(mlmodel(given)),
            f"{FOLDER}/requirements.txt": "".join(f"{pin}\n" for pin in pins),
            f"{FOLDER}/python_env.yaml": yaml(python),
            f"{FOLDER}/conda.yaml": yaml(conda),
            **{f"{FOLDER}/{name}": path for name, path in given.latest.files.items()},
        }

    def commands(self, given: Given) -> Commands:
        """The stock server, on loopback."""
        return Commands(
            install=("python -m pip install --require-hashes -r requirements.txt",),
            start=(
                f"MLFLOW_DISABLE_TELEMETRY=true mlflow models serve -m {FOLDER} --env-manager local "
                '--host 127.0.0.1 --port "${PORT:-8000}"'
            ),
            url="http://127.0.0.1:${PORT:-8000}",
            notes=_notes(given),
        )


def mlmodel(given: Given) -> dict[str, Any]:
    """What `MLmodel` says, in MLflow's own keys and order.

    Left out is what would make the same bundle give other bytes tomorrow: `utc_time_created` and `model_uuid`, for
    which MLflow takes the time of loading and none, and the size, which it computes when it wants it.
    """
    latest, versions = given.latest, dict(pin.partition(";")[0].split("==") for pin in requirements())
    return {
        "flavors": {
            "onnx": {
                "code": None,
                "data": latest.artifact,
                "onnx_session_options": session_options(latest.settings),
                "onnx_version": versions["onnx"],
                "providers": providers(latest.settings),
            },
            "python_function": {
                "data": latest.artifact,
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "loader_module": "mlflow.onnx",
                "python_version": PYTHON,
            },
        },
        "is_signature_from_type_hint": False,
        "metadata": {"name": given.model, "variant": latest.variant.name, "version": latest.number},
        "mlflow_version": versions["mlflow-skinny"],
        "signature": {
            "inputs": _schema(given.signature.inputs),
            "outputs": _schema(given.signature.outputs),
            "params": None,
        },
        "type_hint_from_example": False,
    }


def session_options(settings: SessionSettings) -> dict[str, Any]:
    """The settings in the keys that MLflow's onnx flavor hands to `onnxruntime.SessionOptions`.

    Raises:
        KeyError: `graph_level` is one that MLflow drops; `Target.check` refuses it.
    """
    spinning = {"session.intra_op.allow_spinning": str(int(settings.spinning))}
    threads = {} if settings.threads is None else {"intra_op_num_threads": settings.threads}
    level = LEVELS[settings.graph_level]
    return {
        "execution_mode": "sequential",
        "extra_session_config": spinning,
        "graph_optimization_level": level,
        "inter_op_num_threads": 1,
        **threads,
    }


def providers(settings: SessionSettings) -> list[Any]:
    """What the session is opened on; a CUDA device rounds to TF32 unless it is told not to."""
    if settings.provider == CUDA:
        return [[CUDA, {"use_tf32": str(int(settings.tf32))}], CPU]
    return list(dict.fromkeys((settings.provider, CPU)))


def requirements() -> tuple[str, ...]:
    """The pins of what loading needs, without digests and spelled as MLflow does: it compares them at loading."""
    lines = (REQUIREMENTS / "mlflow.txt").read_text(encoding="utf-8").splitlines()
    plain = [line.removesuffix("\\").strip() for line in lines if line[:1].isalpha()]
    pins = [pin.replace(" ; ", "; ").replace("'", '"') for pin in plain]
    return tuple(pin for pin in pins if pin.partition("==")[0] in PACKAGES)


def _schema(specs: tuple[TensorSpec, ...]) -> str:
    """Tensor specs in the JSON that MLflow keeps in a text; a symbolic dim is -1."""
    tensors = [
        {
            "name": spec.name,
            "type": "tensor",
            "tensor-spec": {
                "dtype": spec.dtype,
                "shape": [dim if isinstance(dim, int) else -1 for dim in spec.shape],
            },
        }
        for spec in specs
    ]
    return json.dumps(tensors)


def _notes(given: Given) -> tuple[str, ...]:
    settings = given.latest.settings
    notes = [
        "MLflow takes JSON only and knows one model and one version; its answers tell no dtypes. An input that the "
        "signature does not name is ignored with a line in its log. Numbers are cast to the dtype of the signature, "
        "so 1.5 for an integer input is computed as 1, and a text that reads as a number is taken for one. A dim that "
        "may vary may have any size here.",
        "`deploykit verify BUNDLE --url mlflow+http://127.0.0.1:8000` asks it all of the reference.",
        "The file in `model/` is the one that was verified, byte for byte; `MLmodel` holds the settings of its "
        "session. Another program loads it with `mlflow.pyfunc.load_model` or `mlflow.onnx.load_model`.",
    ]
    if lost := _unsaid(given.latest):
        notes.append(f"MLflow has no key for {lost}; the session opens without. Answers do not depend on it.")
    if settings.provider != CPU:
        notes.append(
            f"`MLmodel` asks for {settings.provider}. The pinned onnxruntime is the CPU's: install the package that "
            "has this provider instead. Where it cannot be loaded MLflow serves with the CPU and only logs a warning."
        )
    return tuple(notes)


def _unsaid(version: Version) -> str:
    """The settings that differ from the engine's default and cannot be said."""
    settings = version.settings
    said = (("arena=off", not settings.arena), ("binding=on", settings.binding))
    return " and ".join(f"`{word}`" for word, there in said if there)


def _refused(subject: str, message: str, hint: str) -> RefusedError:
    return RefusedError(subject, message, hint, "TARGET_CANNOT_SERVE")
