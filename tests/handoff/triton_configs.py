"""Configurations of Triton that its own message type takes, and that a server would load or serve wrongly."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from deploykit.bundle import VariantRecord
from deploykit.handoff import _triton_config
from deploykit.handoff._triton_lint import Subject
from deploykit.handoff.interface import Given, Version
from deploykit.session import CPU, SessionSettings
from deploykit.signature import Dim, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("image", "float32", ("N", 1, 28, 20)), TensorSpec("ids", "int64", ("N", "L"))),
    (TensorSpec("logits", "float32", ("N", 10)), TensorSpec("seen", "bool", ("N", "L"))),
    (Dim("N", 1, 64), Dim("L", 2, 9)),
)
UNBATCHED = Signature((TensorSpec("x", "float32", (4, 3)),), (TensorSpec("y", "float32", (3,)),))


def version(number: int = 1, runtime: str = "onnxruntime", batch: int | None = None, words: str = "", on: str = CPU):
    """A version with an artifact and weights beside it."""
    artifact = _triton_config.FILES[runtime]
    record = VariantRecord(
        name="onnx", status="ready", made_by="onnx", precision="fp32", runtime=runtime, file=f"variants/onnx/{artifact}"
    )
    files = {artifact: Path(f"/nowhere/{number}/{artifact}"), "weights.data": Path(f"/nowhere/{number}/weights.data")}
    return Version(number, record, files, SessionSettings(on).with_words(words), batch)


def given(
    signature: Signature = SIGNATURE, *versions: Version, provider: str = CPU, release: str | None = None
) -> Given:
    """What a target is asked for."""
    return Given("mlp", signature, versions or (version(on=provider),), release, provider)


def subject(one: Given) -> Subject:
    """What its configuration has to fit."""
    files = {number.number: tuple(number.files) for number in one.versions}
    return Subject(one.signature, one.latest.variant.runtime, files, one.provider)


@dataclass(frozen=True)
class Broken:
    """A sound configuration with one text changed: the rule that has to find it, and words of what it says."""

    code: str
    old: str
    new: str
    said: str
    of: Given = field(default_factory=given)

    @property
    def text(self) -> str:
        sound = _triton_config.render(self.of)
        assert self.old in sound, sound
        return sound.replace(self.old, self.new, 1)


TORCH = given(SIGNATURE, version(runtime="torchscript"))
TWO = given(SIGNATURE, version(1), version(2))
CUDA = given(provider="CUDAExecutionProvider")
IMAGE, IDS = "dims: [ 1, 28, 20 ]", 'name: "ids"\n  data_type: TYPE_INT64\n  dims: [ -1 ]'
_SECOND = 'input [ {\n  name: "ids"\n  data_type: TYPE_INT64\n  dims: [ -1 ]\n} ]\n'


def _extra(key: str) -> str:
    """One more parameter, before the instance group."""
    return f'parameters {{ key: "{key}" value {{ string_value: "1" }} }}\ninstance_group'


_NOT_BATCHED, _ADD = given(UNBATCHED), "instance_group"
_BATCHES = "dynamic_batching { }"
_TUNED = "dynamic_batching { preferred_batch_size: "
_ALIKE = "INTRA_OP_THREAD_COUNT has"
_OTHER_TYPE = "is TYPE_INT32, in the model TYPE_INT64"
_GRAPH = 'key: "enable_cuda_graph" value: "1"'

BROKEN = [
    Broken("TRITON_PLATFORM", "onnxruntime_onnx", "tensorrt_plan", "named is tensorrt_plan"),
    Broken("TRITON_PLATFORM", 'platform: "onnxruntime_onnx"', 'backend: "pytorch"', "named is pytorch"),
    Broken("TRITON_NEVER_BATCHES", "max_batch_size: 0", "max_batch_size: 0 " + _BATCHES, "share", _NOT_BATCHED),
    Broken("TRITON_CANNOT_BATCH", "max_batch_size: 0", "max_batch_size: 8", "cut wrongly", _NOT_BATCHED),
    Broken("TRITON_BATCH_ABOVE_RANGE", "max_batch_size: 64", "max_batch_size: 65", "65 is above 64"),
    Broken("TRITON_PREFERRED_BATCH", "dynamic_batching { }", _TUNED + "96 }", "96"),
    Broken("TRITON_PREFERRED_BATCH", "dynamic_batching { }", _TUNED + "[4, 96] }", "96"),
    Broken("TRITON_TENSOR_NAMES", _SECOND, "", "input ids of the model is missing"),
    Broken("TRITON_TENSOR_NAMES", 'name: "logits"', 'name: "output"', "output output is none of the model's"),
    Broken("TRITON_TENSOR_NAMES", _SECOND, _SECOND * 2, "input ids is there twice"),
    Broken("TRITON_DATA_TYPE", "data_type: TYPE_INT64", "data_type: TYPE_INT32", _OTHER_TYPE),
    Broken("TRITON_DATA_TYPE", "data_type: TYPE_INT64", "data_type: 8", "is TYPE_INT32"),
    Broken("TRITON_DIMS", IMAGE, "dims: [ 28, 20, 1 ]", "[28, 20, 1], in the model [1, 28, 20]"),
    Broken("TRITON_DIMS", IMAGE, "dims: [ -1, 1, 28, 20 ]", "adds the batch once more"),
    Broken("TRITON_DIMS", IMAGE, "dims: [ 1, -1, -1 ]", "[1, -1, -1]"),
    Broken("TRITON_DIMS", "dims: [ 10 ]", "dims: [ 11 ]", "output logits"),
    Broken("TRITON_RESHAPE", IMAGE, "dims: [ 20, 28 ] reshape { shape: [ 1, 28, 20 ] }", "another order"),
    Broken("TRITON_RESHAPE", IMAGE, "dims: [ 28 ] reshape { shape: [ 1, 28, 20 ] }", "has other elements"),
    Broken("TRITON_INPUT_SWITCH", IDS, IDS + "\n  allow_ragged_batch: true", "allow_ragged_batch"),
    Broken("TRITON_INPUT_SWITCH", IDS, IDS + "\n  optional: true", "optional"),
    Broken("TRITON_LIBTORCH_BINDING", 'name: "image"', 'name: "ids"', "input ids", TORCH),
    Broken("TRITON_INSTANCE_KIND", "KIND_CPU", "KIND_GPU", "is KIND_GPU"),
    Broken("TRITON_INSTANCE_KIND", "KIND_CPU", "KIND_AUTO", "is KIND_AUTO"),
    Broken("TRITON_INSTANCE_KIND", "instance_group [ { count: 1 kind: KIND_CPU } ]", "", "no instance_group"),
    Broken("TRITON_INSTANCE_KIND", "KIND_GPU", "KIND_CPU", "is KIND_CPU", CUDA),
    Broken("TRITON_VERSION_HIDDEN", "version_policy { all { } }", "", "hides 1 of versions 1, 2", TWO),
    Broken("TRITON_VERSION_HIDDEN", "{ all { } }", "{ latest { num_versions: 1 } }", "hides 1", TWO),
    Broken("TRITON_VERSION_HIDDEN", "{ all { } }", "{ specific { versions: [1] } }", "hides 2", TWO),
    Broken("TRITON_VERSION_HIDDEN", "{ all { } }", "{ specific: < versions: 1, versions: [2, 3] > }", "names 3", TWO),
    Broken("TRITON_FILE_MISSING", '"model.onnx"', '"mlp.onnx"', "version 1 has no mlp.onnx"),
    Broken("TRITON_UNKNOWN_PARAMETER", _ADD, _extra("intra_op_threads"), "no effect"),
    Broken("TRITON_UNKNOWN_PARAMETER", _ADD, _extra("Enable_Mem_Arena"), "enable_mem_arena has"),
    Broken("TRITON_UNKNOWN_PARAMETER", _ADD, _extra("intra_op_thread_count"), _ALIKE, TORCH),
    Broken("TRITON_DEVICE_GRAPH", 'key: "use_tf32" value: "0"', _GRAPH, "old ones", CUDA),
]  # fmt: skip
