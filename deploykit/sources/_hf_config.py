"""Which transformers model is meant: its configuration and its class, read without the network and without code."""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploykit.errors import DeploykitError, RefusedError, UsageError, from_os_error

CACHE = "cache"
"""The word after a name that asks for a decoder with its keys and values as inputs and outputs."""

MAX_CONFIG = 16 << 20
"""Bytes of a configuration: the largest known are label lists of a megabyte."""

_TASKS = (
    ("CausalLM", "text generation"),
    ("LMHead", "text generation"),
    ("MaskedLM", "fill mask"),
    ("ConditionalGeneration", "sequence to sequence"),
    ("SequenceClassification", "text classification"),
    ("TokenClassification", "token classification"),
    ("QuestionAnswering", "question answering"),
    ("ImageClassification", "image classification"),
    ("AudioClassification", "audio classification"),
    ("SemanticSegmentation", "segmentation"),
    ("ObjectDetection", "detection"),
    ("CTC", "speech recognition"),
)

_AUTO = (
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForImageClassification",
    "AutoModelForObjectDetection",
    "AutoModelForCTC",
    "AutoModelForAudioClassification",
    "AutoModelForSequenceClassification",
    "AutoModelForMaskedLM",
    "AutoModel",
)
"""Where the class of a bare model type is looked for, in this order; encoders that can also decode are no decoders."""


@dataclass(frozen=True)
class Found:
    """A model of transformers.

    Attributes:
        subject: SOURCE, for messages.
        folder: holds the weights; None where they are random or come from a checkpoint.
        config: the configuration object.
        architecture: the class that is built from it.
        cached: whether keys and values become inputs and outputs.
        origin: where the configuration came from, without a path.
    """

    subject: str
    folder: Path | None
    config: Any
    architecture: Any
    cached: bool
    origin: str

    @property
    def task(self) -> str:
        """What the class is for, in words; `features` where its name does not say."""
        name = self.architecture.__name__
        return next((task for part, task in _TASKS if part in name), "features")


def offline() -> None:
    """Forbid transformers and its hub client the network, before they are imported."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def find(target: str) -> Found:
    """The model that `target` names: a folder, a configuration file, a model type, or a class.

    Raises:
        UsageError: NOT_FOUND, UNKNOWN_MODEL.
        RefusedError: MALFORMED; UNTRUSTED_CODE, it is built by code that lies beside it.
    """
    offline()
    name, _, word = target.rpartition(":")
    cached = word == CACHE and bool(name)
    name = name if cached else target
    subject = f"transformers:{target}"
    path = Path(name)
    if not name:
        hint = "a folder, a config.json, or a type such as transformers:bert"
        raise UsageError(subject, "names no model", hint, "UNKNOWN_MODEL")
    if path.is_dir():
        config, architecture = _read(path / "config.json", subject)
        return Found(subject, path, config, architecture, cached, "folder")
    if path.is_file():
        config, architecture = _read(path, subject)
        return Found(subject, None, config, architecture, cached, "configuration file")
    if os.sep in name or name.endswith(".json"):
        hint = "give a folder with config.json; nothing is downloaded, so fetch it first"
        raise UsageError(subject, "no such folder or file", hint, "NOT_FOUND")
    config, architecture = _named(name, subject)
    return Found(subject, None, config, architecture, cached, "small sizes")


def _read(file: Path, subject: str) -> tuple[Any, Any]:
    """The configuration in `file` and the class that it names, else the one that transformers has for its type."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    written = _json(file, subject)
    kind = written.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        if written.get("auto_map"):
            hint = "load it in a function of your own: python:FILE.py:build"
            raise RefusedError(subject, "is built by code that lies in its folder", hint, "UNTRUSTED_CODE")
        raise _unknown(subject, f"model_type is {kind!r}, which this transformers does not know", str(kind))
    if written.get("quantization_config"):
        hint = "give the weights in float: deploykit quantizes them itself, and compares"
        raise RefusedError(subject, "its weights are quantized for one library", hint, "MALFORMED")
    try:
        config = CONFIG_MAPPING[kind].from_dict({k: v for k, v in written.items() if k not in _NOT_TAKEN})
    except Exception as error:  # validators of foreign configurations raise anything
        raise RefusedError(subject, f"the configuration is refused: {_line(error)}", "see its config.json") from error
    named = written.get("architectures")
    for name in named if isinstance(named, list) else []:
        found = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return config, found
    return config, _class_of(config, subject)


_NOT_TAKEN = {"auto_map", "transformers_weights", "attn_implementation", "_attn_implementation", "dtype", "torch_dtype"}
"""Keys that name code, files or kernels elsewhere, or another width of floats than the one that is exported."""


def _json(file: Path, subject: str) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_CONFIG + 1)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            hint = "give a folder that save_pretrained wrote"
            raise UsageError(subject, "the folder has no config.json", hint, "NOT_FOUND") from error
        raise from_os_error(error, str(file)) from error
    try:
        written = json.loads(content) if len(content) <= MAX_CONFIG else None
    except (ValueError, RecursionError):
        written = None
    if not isinstance(written, dict):
        raise RefusedError(subject, f"{file.name} is no JSON object", "give a folder that save_pretrained wrote")
    return written


def _named(name: str, subject: str) -> tuple[Any, Any]:
    """A model type (`bert`) or a class (`BertForMaskedLM`), with small sizes."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from deploykit.sources._hf_small import small

    if name in CONFIG_MAPPING:
        config = small(CONFIG_MAPPING[name], subject)
        return config, _class_of(config, subject)
    found = getattr(transformers, name, None) if name.isidentifier() else None
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) and found.config_class:
        return small(found.config_class, subject), found
    raise _unknown(subject, "no such folder, and transformers has no such type or class", name)


def _class_of(config: Any, subject: str) -> Any:
    """The class for the type of `config`."""
    import transformers

    towers = hasattr(config, "text_config") and hasattr(config, "vision_config")
    decodes = bool(getattr(config, "is_decoder", False)) or not _is_encoder(config)
    for name in _AUTO:
        mapping = getattr(transformers, name)._model_mapping  # noqa: SLF001 - the public way builds the model at once
        if (name == "AutoModelForCausalLM" and not decodes) or (towers and name != "AutoModel"):
            continue
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple) else found
    hint = "name a class in the configuration's architectures"
    raise UsageError(subject, "transformers has no model class for this type", hint, "UNKNOWN_MODEL")


def _is_encoder(config: Any) -> bool:
    """Whether the type also has a form that fills masks: those read both ways, or encode and decode."""
    import transformers

    return type(config) in transformers.AutoModelForMaskedLM._model_mapping or bool(  # noqa: SLF001 - as above
        getattr(config, "is_encoder_decoder", False)
    )


def _unknown(subject: str, message: str, name: str) -> DeploykitError:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    close = difflib.get_close_matches(name.lower(), list(CONFIG_MAPPING), n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}?" if close else "give a folder with config.json, or a type such as bert"
    return UsageError(subject, message, hint, "UNKNOWN_MODEL")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
