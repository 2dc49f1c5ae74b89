"""The folder for KServe: the SDK's own server answers the reference; its classes know every key of the manifests."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import yaml

from tests.servers.environments import environment
from tests.servers.onnx_folders import add_net, spoil, started, walk
from tests.servers.served_onnx import Served


@pytest.fixture(scope="module")
def there(tiny_bundle, tmp_path_factory):
    """The folder's server; beside the two versions it has a copy with a changed weight, and another model."""
    folder = walk("kserve", tiny_bundle, tmp_path_factory.mktemp("walk"))
    shutil.copytree(folder / "models/tiny/2", folder / "models/changed/1")
    spoil(folder / "models/changed/1")
    add_net("kserve", folder)
    with started("kserve", folder, tmp_path_factory.mktemp("log") / "log", everywhere=True) as there:
        yield there


class TestKServe(Served):
    wires = ("json", "binary", "auto")
    named = ("tiny@1", "tiny@2")


def binary(there, tensor=None, sent=48, length=None, **more):
    """The answer's status to one tensor of 48 bytes; `tensor` and `more` change what the JSON before them says."""
    said = {"name": "x", "datatype": "FP32", "shape": [2, 6], "parameters": {"binary_data_size": 48}}
    head = json.dumps({"inputs": [said | (tensor or {})]} | more).encode()
    headers = {"Content-Type": "application/octet-stream"}
    headers["Inference-Header-Content-Length"] = str(len(head)) if length is None else length
    return there.post(head + b"\0" * sent, **headers)[0]


NUMBERS = {"parameters": None, "data": [0.5] * 12}
BYTES = {
    "fewer": {"tensor": {"parameters": {"binary_data_size": 44}}},
    "odd": {"tensor": {"parameters": {"binary_data_size": 47}}},
    "none": {"tensor": {"parameters": {"binary_data_size": 0}}},
    "more than there are": {"sent": 40},
    "size is a text": {"tensor": {"parameters": {"binary_data_size": "48"}}},
    "no size": {"tensor": {"parameters": {}}},
    "parameters are a list": {"tensor": {"parameters": [1]}},
    "datatype": {"tensor": {"datatype": "FP64"}},
    "no datatype": {"tensor": {"datatype": "FLOAT"}},
    "datatype is a number": {"tensor": {"datatype": 7}},
    "shape": {"tensor": {"shape": [2, 7]}},
    "shape is a text": {"tensor": {"shape": "2x6"}},
    "shape of texts": {"tensor": NUMBERS | {"shape": ["2", "6"]}},
    "shape of fractions": {"tensor": NUMBERS | {"shape": [2.0, 6.0]}},
    "name is a list": {"tensor": NUMBERS | {"name": ["x"]}},
    "data is a text": {"tensor": NUMBERS | {"data": "0.5"}},
    "id is a number": {"id": 7},
    "all parameters are a list": {"parameters": [1]},
    "output is a list": {"outputs": [{"name": ["output"]}]},
    "output without a name": {"outputs": [{}]},
    "inputs are a number": {"inputs": 7},
    "length is a text": {"length": "many"},
    "length is too short": {"length": "7"},
    "length is negative": {"length": "-7"},
}


@pytest.mark.parametrize("change", BYTES.values(), ids=BYTES.keys())
def test_wrong_bytes_are_refused(there, change):
    assert binary(there, **change) == 400
    assert binary(there) == 200  # and the next one is answered


def test_another_protocol_is_refused(there):
    assert there.post({"instances": [[0.5] * 6]}, "/v1/models/tiny:predict")[0] == 400


WALK = """
import json, sys
import kserve, kubernetes

def known(kind):
    return getattr(kserve, kind, None) or getattr(kserve.models, kind, None) or getattr(kubernetes.client, kind)

def fault(value, kind, place):
    for head, inner in (("list", list), ("dict", dict)):
        if kind.lower().startswith(head) and kind[len(head)] in "[(":
            of = kind[len(head) + 1 : -1].split(", ")[-1]
            if not isinstance(value, inner):
                return f"{place} is no {head}"
            pairs = value.items() if inner is dict else enumerate(value)
            return next(filter(None, (fault(one, of, f"{place}.{key}") for key, one in pairs)), None)
    if kind == "object":
        return None
    if kind in ("str", "int", "bool"):
        return None if type(value).__name__ == kind else f"{place} is no {kind}"
    if not isinstance(value, dict):
        return f"{place} is no {kind}"
    model = known(kind)
    types = {model.attribute_map[name]: of for name, of in model.openapi_types.items()}
    for key, one in value.items():
        if key not in types:
            return f"{place}.{key} is unknown to {kind}"
        if found := fault(one, types[key], f"{place}.{key}"):
            return found
    return None

kinds = {"InferenceService": "V1beta1InferenceService", "ServingRuntime": "V1alpha1ServingRuntime"}
documents = json.load(sys.stdin)
print(json.dumps([fault(one, kinds[kind], kind) for kind, one in documents]))
"""

FREE = ("requests", "limits")
"""Mappings whose keys are not the schema's."""


def copies(document: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all keys that the schema knows."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        if isinstance(document, dict) and not (place and place[-1] in FREE):
            yield (*place, key)
        if isinstance(value, dict | list):
            yield from copies(value, (*place, key))


def at(document: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        document = document[key]
    return document


def misspelt(document: Any, place: tuple[Any, ...]) -> Any:
    """A copy with a typo in one key."""
    copy = deepcopy(document)
    around = at(copy, place[:-1])
    around[f"{place[-1]}s"] = around.pop(place[-1])
    return copy


def mistyped(document: Any, place: tuple[Any, ...]) -> Any:
    """A copy with a list of lists for one value: no key of the schema takes that."""
    copy = deepcopy(document)
    at(copy, place[:-1])[place[-1]] = [[0.5]]
    return copy


def test_the_sdk_knows_every_key_and_type_of_the_manifests(there):
    files = ("inferenceservice.yaml", "servingruntime.yaml")
    sound = [yaml.safe_load((there.folder / name).read_text()) for name in files]
    wrong = [
        change(document, place)
        for document in sound
        for place in copies(document)
        for change in (misspelt, mistyped)
        if change is misspelt or place[-1] != "port"  # an IntOrString, for which the client's type is `object`
    ]
    documents = [(document["kind"], document) for document in sound]
    documents += [(one.get("kind") or one.get("kinds"), one) for one in wrong]
    documents = [(kind if isinstance(kind, str) else "ServingRuntime", one) for kind, one in documents]
    argv = [environment("kserve") / "python", "-c", WALK]
    done = subprocess.run(argv, input=json.dumps(documents), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found[:2] == [None, None]
    assert len(wrong) > 60
    assert [one for one, said in zip(wrong, found[2:], strict=True) if said is None] == []
