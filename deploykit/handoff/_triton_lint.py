"""What Triton would load and serve wrongly, found in a `config.pbtxt` before it does.

Triton itself refuses an unknown field and a wrong type. These rules are about the rest: a file that it takes, and a
model that then never batches, mixes up inputs, hides a version or fails at the first request. A name in `RULES` is
stable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from deploykit.handoff import _triton_config as config
from deploykit.handoff._triton_binding import wrongly_bound
from deploykit.handoff._triton_text import Message, entries, inner, number, read, word
from deploykit.session import CPU
from deploykit.signature import Signature, TensorSpec

KINDS = ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL")
"""`ModelInstanceGroup.Kind`, by number."""

DATA_TYPES = (
    "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8", "TYPE_INT16",
    "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16",
)  # fmt: skip
"""`DataType`, by number."""

PARAMETERS = {
    "onnxruntime": {
        "intra_op_thread_count", "inter_op_thread_count", "execution_mode", "enable_mem_arena", "enable_mem_pattern",
        "memory.enable_memory_arena_shrinkage", "session.use_device_allocator_for_initializers",
        "cudnn_conv_algo_search", "gpu_mem_limit", "arena_extend_strategy", "do_copy_in_default_stream",
    },
    "torchscript": {
        "DISABLE_OPTIMIZED_EXECUTION", "ENABLE_CACHE_CLEANING", "INFERENCE_MODE", "DISABLE_CUDNN",
        "ENABLE_TENSOR_FUSER", "ENABLE_WEIGHT_SHARING", "ENABLE_JIT_PROFILING", "ENABLE_JIT_EXECUTOR",
        "INTRA_OP_THREAD_COUNT", "INTER_OP_THREAD_COUNT",
    },
}  # fmt: skip
"""What each backend reads; it passes over anything else without a word. From their sources of release 26.06."""


@dataclass(frozen=True)
class Subject:
    """What a configuration has to fit.

    Attributes:
        signature: of the model.
        runtime: engine of the artifacts, `onnxruntime` or `torchscript`.
        versions: number to the names of the files in its folder.
        provider: for which the variant was verified.
    """

    signature: Signature
    runtime: str
    versions: Mapping[int, tuple[str, ...]]
    provider: str = CPU


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: the rule's name, and a line about it."""

    code: str
    message: str


def lint(text: str, subject: Subject) -> tuple[Finding, ...]:
    """All findings, in the order of `RULES`.

    Raises:
        RefusedError: MALFORMED, the text is no text format.
    """
    message = read(text)
    return tuple(Finding(code, line) for code, rule in RULES.items() for line in rule(message, subject))


def _platform(message: Message, subject: Subject) -> Iterator[str]:
    expected = {"platform": config.PLATFORMS[subject.runtime], "backend": _BACKENDS[subject.runtime]}
    named = {field: word(message, field) for field in expected}
    if any(value not in {"", expected[field]} for field, value in named.items()) or not any(named.values()):
        yield f"the files are for {expected['platform']}, named is {named['platform'] or named['backend'] or 'nothing'}"


def _never_batches(message: Message, _: Subject) -> Iterator[str]:
    if inner(message, "dynamic_batching") and number(message, "max_batch_size") == 0:
        yield "dynamic_batching with max_batch_size 0: the model loads, and no two requests ever share a call"


def _cannot_batch(message: Message, subject: Subject) -> Iterator[str]:
    found = config.batching(subject.signature)
    if number(message, "max_batch_size") > 0 and found.dim is None:
        yield f"max_batch_size {number(message, 'max_batch_size')}, though {found.reason}: answers would be cut wrongly"


def _above_range(message: Message, subject: Subject) -> Iterator[str]:
    found, most = config.batching(subject.signature), number(message, "max_batch_size")
    if found.dim is not None and most > found.dim.max:
        yield f"max_batch_size {most} is above {found.dim.max}, the most that the model promises for {found.dim.name}"


def _preferred(message: Message, _: Subject) -> Iterator[str]:
    most = number(message, "max_batch_size")
    for group in inner(message, "dynamic_batching"):
        for size in group.get("preferred_batch_size", []):
            if isinstance(size, str) and size.isdecimal() and int(size) > most:
                yield f"preferred_batch_size {size} is above max_batch_size {most}"


def _names(message: Message, subject: Subject) -> Iterator[str]:
    for field, specs in _sides(subject.signature):
        expected, found = {spec.name for spec in specs}, [word(one, "name") for one in inner(message, field)]
        for name in sorted(expected - set(found)):
            yield f"{field} {name} of the model is missing"
        for name in sorted(set(found) - expected):
            yield f"{field} {name} is none of the model's"
        for name in sorted({name for name in found if found.count(name) > 1}):
            yield f"{field} {name} is there twice"


def _types(message: Message, subject: Subject) -> Iterator[str]:
    for field, spec, found in _pairs(message, subject.signature):
        named = _enum(found, "data_type", DATA_TYPES)
        if named != config.TYPES.get(spec.dtype):
            yield f"{field} {spec.name} is {named}, in the model {config.TYPES.get(spec.dtype, spec.dtype)}"


def _shapes(message: Message, subject: Subject) -> Iterator[str]:
    batched = number(message, "max_batch_size") > 0
    for field, spec, found in _pairs(message, subject.signature):
        expected, actual = config.dims(spec, batched=batched), _model_dims(found)
        if _fits(expected, actual, narrower=field == "input"):
            continue
        twice = batched and _fits([-1, *expected], actual, narrower=True)
        why = ": max_batch_size adds the batch once more" if twice else ""
        yield f"{field} {spec.name} has dims {actual}, in the model {expected}{why}"


def _reshape(message: Message, subject: Subject) -> Iterator[str]:
    for field, spec, found in _pairs(message, subject.signature):
        if not inner(found, "reshape"):
            continue
        dims, shape = _dims(found), _model_dims(found)
        if -1 not in dims + shape and prod(dims) != prod(shape):
            yield f"{field} {spec.name}: reshape {shape} has other elements than dims {dims}"
        elif [dim for dim in dims if dim != 1] != [dim for dim in shape if dim != 1]:
            yield f"{field} {spec.name}: reshape {shape} of dims {dims} reads the values in another order of axes"


def _ragged(message: Message, subject: Subject) -> Iterator[str]:
    for field, spec, found in _pairs(message, subject.signature):
        for switch in ("allow_ragged_batch", "optional"):
            if field == "input" and word(found, switch).lower() in {"true", "t", "1"}:
                yield f"input {spec.name} has {switch}, which the model was never asked for"


def _bindings(message: Message, subject: Subject) -> Iterator[str]:
    if subject.runtime != "torchscript":
        return
    for field, specs in _sides(subject.signature):
        found = [word(one, "name") for one in inner(message, field)]
        for name in wrongly_bound(found, [spec.name for spec in specs]):
            yield f"{field} {name}: libtorch would take it for the one at another place"


def _instances(message: Message, subject: Subject) -> Iterator[str]:
    expected = config.kind(subject.provider)
    groups = inner(message, "instance_group")
    if not groups:
        yield f"no instance_group: Triton takes a GPU where there is one, and {subject.provider} was verified"
    for found in (_enum(group, "kind", KINDS) for group in groups):
        if found != expected:
            yield f"instance_group is {found}, and {subject.provider} was verified: {expected}"


def _hidden(message: Message, subject: Subject) -> Iterator[str]:
    there, served = set(subject.versions), _served(message, set(subject.versions))
    if hidden := sorted(there - served):
        yield f"version_policy hides {', '.join(map(str, hidden))} of versions {', '.join(map(str, sorted(there)))}"
    if gone := sorted(served - there):
        yield f"version_policy names {', '.join(map(str, gone))}, and there is no such folder"


def _missing_file(message: Message, subject: Subject) -> Iterator[str]:
    file = word(message, "default_model_filename") or config.FILES[subject.runtime]
    for number_, files in sorted(subject.versions.items()):
        if file not in files:
            yield f"version {number_} has no {file}, which default_model_filename names"


def _parameters(message: Message, subject: Subject) -> Iterator[str]:
    known = PARAMETERS[subject.runtime]
    for key in entries(message, "parameters"):
        if key not in known:
            alike = [name for name in known if name.lower() == key.lower()]
            yield f"parameter {key} is none of the backend's: it has no effect{f'; {alike[0]} has' if alike else ''}"


def _device_graph(message: Message, _: Subject) -> Iterator[str]:
    for place in inner(message, "optimization"):
        for accelerators in inner(place, "execution_accelerators"):
            for one in inner(accelerators, "gpu_execution_accelerator"):
                if word(entries(one, "parameters").get("enable_cuda_graph", {}), "value", "0") != "0":
                    yield "enable_cuda_graph: the backend has new buffers at every request, a graph reads the old ones"


RULES: dict[str, Callable[[Message, Subject], Iterator[str]]] = {
    "TRITON_PLATFORM": _platform,
    "TRITON_NEVER_BATCHES": _never_batches,
    "TRITON_CANNOT_BATCH": _cannot_batch,
    "TRITON_BATCH_ABOVE_RANGE": _above_range,
    "TRITON_PREFERRED_BATCH": _preferred,
    "TRITON_TENSOR_NAMES": _names,
    "TRITON_DATA_TYPE": _types,
    "TRITON_DIMS": _shapes,
    "TRITON_RESHAPE": _reshape,
    "TRITON_INPUT_SWITCH": _ragged,
    "TRITON_LIBTORCH_BINDING": _bindings,
    "TRITON_INSTANCE_KIND": _instances,
    "TRITON_VERSION_HIDDEN": _hidden,
    "TRITON_FILE_MISSING": _missing_file,
    "TRITON_UNKNOWN_PARAMETER": _parameters,
    "TRITON_DEVICE_GRAPH": _device_graph,
}
"""Code to rule; a rule gives a line for each thing that it finds."""

_BACKENDS = {"onnxruntime": "onnxruntime", "torchscript": "pytorch"}


def _sides(signature: Signature) -> tuple[tuple[str, tuple[TensorSpec, ...]], ...]:
    return ("input", signature.inputs), ("output", signature.outputs)


def _pairs(message: Message, signature: Signature) -> Iterator[tuple[str, TensorSpec, Message]]:
    """Tensors that are both in the model and in the configuration; `_names` tells of the others."""
    for field, specs in _sides(signature):
        by_name = {word(one, "name"): one for one in inner(message, field)}
        yield from ((field, spec, by_name[spec.name]) for spec in specs if spec.name in by_name)


def _enum(message: Message, field: str, names: tuple[str, ...]) -> str:
    """The name of an enum's value, which may be written as its number."""
    value = word(message, field, names[0])
    return names[int(value)] if value.isdecimal() and int(value) < len(names) else value


def _dims(found: Message, field: str = "dims") -> list[int]:
    return [number({"": [dim]}, "") for dim in found.get(field, [])]


def _model_dims(found: Message) -> list[int]:
    """Dims as the backend hands them to the model."""
    shapes = inner(found, "reshape")
    return _dims(shapes[-1], "shape") if shapes else _dims(found)


def _fits(expected: list[int], actual: list[int], *, narrower: bool) -> bool:
    """Whether dims are the model's; inputs may be narrower, where a symbolic dim is a fixed one."""
    pairs = zip(expected, actual, strict=False)
    return len(expected) == len(actual) and all(
        one == other or (narrower and one == -1 and other > 0) for one, other in pairs
    )


def _served(message: Message, there: set[int]) -> set[int]:
    """The versions that Triton loads; without a policy the latest one."""
    policy = (inner(message, "version_policy") or [{}])[-1]
    if "all" in policy:
        return there
    for specific in inner(policy, "specific"):
        return set(_dims(specific, "versions"))
    count = max((number(latest, "num_versions", 1) for latest in inner(policy, "latest")), default=1)
    return set(sorted(there)[-max(count, 1) :])
