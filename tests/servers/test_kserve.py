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
from tests.servers.onnx_folders import spoil, started, walk
from tests.servers.served_onnx import Served


@pytest.fixture(scope="module")
def there(tiny_bundle, tmp_path_factory):
    """The folder's server, with a model beside the two versions whose weights were changed."""
    folder = walk("kserve", tiny_bundle, tmp_path_factory.mktemp("walk"))
    shutil.copytree(folder / "models/tiny/2", folder / "models/changed/1")
    spoil(folder / "models/changed/1")
    with started("kserve", folder, tmp_path_factory.mktemp("log") / "log", everywhere=True) as there:
        yield there


class TestKServe(Served):
    wires = ("json", "binary", "auto")
    named = ("tiny@1", "tiny@2")


def binary(there, size, sent=None, length=None, **changed):
    """The answer's status to one tensor of `size` bytes that says `changed` of itself."""
    said = {"name": "x", "datatype": "FP32", "shape": [2, 6], "parameters": {"binary_data_size": size}} | changed
    head = json.dumps({"inputs": [said]}).encode()
    headers = {"Content-Type": "application/octet-stream"}
    headers["Inference-Header-Content-Length"] = str(len(head)) if length is None else length
    return there.post(head + b"\0" * (size if sent is None else sent), **headers)[0]


def test_wrong_bytes_are_refused(there):
    assert binary(there, 48) == 200
    for size in (0, 44, 47, 52):
        assert binary(there, size) == 400
    assert binary(there, 48, sent=40) == 400
    assert binary(there, 48, datatype="FP64") == 400
    assert binary(there, 48, datatype="FLOAT") == 400
    assert binary(there, 48, shape=[2, 7]) == 400
    assert binary(there, 48, shape="2x6") == 400
    assert binary(there, 48, parameters={"binary_data_size": "48"}) == 400
    assert binary(there, 48, length="many") == 400
    assert binary(there, 48, length="7") == 400
    assert binary(there, 48) == 200


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
