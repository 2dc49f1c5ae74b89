"""The protocol buffer messages of the Open Inference Protocol v2, built from their field numbers.

Source: `open_inference_grpc.proto` of github.com/kserve/open-inference-protocol (package `inference`). The maps of
parameters are left out: nothing here sends or reads one, and protocol buffers skip fields that they do not know.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "string": _FIELD.TYPE_STRING,
    "bool": _FIELD.TYPE_BOOL,
    "bytes": _FIELD.TYPE_BYTES,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "uint32": _FIELD.TYPE_UINT32,
    "uint64": _FIELD.TYPE_UINT64,
    "float": _FIELD.TYPE_FLOAT,
    "double": _FIELD.TYPE_DOUBLE,
}

_TENSOR = {"name": (1, "string"), "datatype": (2, "string"), "shape": (3, "int64*")}
_FULL = {**_TENSOR, "contents": (5, "InferTensorContents")}
_NAMED = {"name": (1, "string"), "version": (2, "string")}

MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {**_NAMED, "extensions": (3, "string*")},
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ModelMetadataRequest": _NAMED,
    "TensorMetadata": _TENSOR,
    "ModelMetadataResponse": {
        "name": (1, "string"),
        "versions": (2, "string*"),
        "platform": (3, "string"),
        "inputs": (4, "TensorMetadata*"),
        "outputs": (5, "TensorMetadata*"),
    },
    "InferTensorContents": {
        "bool_contents": (1, "bool*"),
        "int_contents": (2, "int32*"),
        "int64_contents": (3, "int64*"),
        "uint_contents": (4, "uint32*"),
        "uint64_contents": (5, "uint64*"),
        "fp32_contents": (6, "float*"),
        "fp64_contents": (7, "double*"),
        "bytes_contents": (8, "bytes*"),
    },
    "InferTensor": _FULL,
    "InferRequestedOutputTensor": {"name": (1, "string")},
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "inputs": (5, "InferTensor*"),
        "outputs": (6, "InferRequestedOutputTensor*"),
        "raw_input_contents": (7, "bytes*"),
    },
    "ModelInferResponse": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "outputs": (5, "InferTensor*"),
        "raw_output_contents": (6, "bytes*"),
    },
}
"""Message to its fields, each with number and type; a star marks a repeated one.

Names of nested messages do not travel, so that one `InferTensor` stands for those of requests and of responses.
"""

CONTENTS = {
    "bool": "bool_contents",
    "int8": "int_contents",
    "int16": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "uint8": "uint_contents",
    "uint16": "uint_contents",
    "uint32": "uint_contents",
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
}
"""numpy's dtype names to the field that holds such values; FP16 travels as bytes only."""


@cache
def message(name: str) -> Any:
    """The class of message `name`."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    """A pool of our own: another package in the process may hold messages of the same names."""
    file = descriptor_pb2.FileDescriptorProto(name="deploykit_oip.proto", package="inference", syntax="proto3")
    for name, fields in MESSAGES.items():
        made = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _add(made, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _add(made: descriptor_pb2.DescriptorProto, field: str, number: int, kind: str) -> None:
    plain = kind.removesuffix("*")
    label = _FIELD.LABEL_REPEATED if kind.endswith("*") else _FIELD.LABEL_OPTIONAL
    if plain in _TYPES:
        made.field.add(name=field, number=number, label=label, type=_TYPES[plain])
    else:
        made.field.add(
            name=field, number=number, label=label, type=_FIELD.TYPE_MESSAGE, type_name=f".inference.{plain}"
        )
