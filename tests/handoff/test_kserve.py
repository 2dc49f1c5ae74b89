"""The folder for KServe: its files, its manifests as YAML reads them, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from deploykit.errors import RefusedError
from deploykit.handoff import _kserve_manifests, kserve
from deploykit.session import CUDA, SessionSettings
from deploykit.signature import Signature, TensorSpec
from tests.handoff.nets import SIGNATURE, given

TARGET = kserve.Target()
PACKAGE = Path(kserve.__file__).parent


@pytest.fixture
def there(tmp_path):
    """`given`, with files of a known size that are there."""

    def made(*settings, size=1000, **more):
        handed = given(*settings, folder=tmp_path, **more)
        for version in handed.versions:
            for path in version.files.values():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"\0" * size)
        return handed

    return made


def test_every_version_has_its_folder(there):
    handed = there(SessionSettings(), SessionSettings(threads=2))
    tree = TARGET.files(handed)
    shared = {"server.py", "model.py", "onnx_model.py", "inferenceservice.yaml", "servingruntime.yaml"}
    own = {f"models/net/{number}/{name}" for number in (1, 2) for name in ("net.onnx", "net.onnx.data", "model.json")}
    assert set(tree) == shared | own
    assert tree["models/net/2/net.onnx"] == handed.versions[1].files["net.onnx"]


def test_the_code_is_the_package_s_own(there):
    tree = TARGET.files(there())
    for name, source in (("server", "_kserve_server"), ("model", "_kserve_model"), ("onnx_model", "_onnx_model")):
        assert tree[f"{name}.py"] == PACKAGE / f"{source}.py"
        assert "deploykit" not in (PACKAGE / f"{source}.py").read_text()


def test_model_json_says_tensors_ranges_and_settings(there):
    settings = SessionSettings(threads=2, graph_level="basic", spinning=False, arena=False)
    assert json.loads(TARGET.files(there(settings))["models/net/1/model.json"]) == {
        "artifact": "net.onnx",
        "settings": {
            "provider": "CPUExecutionProvider",
            "threads": 2,
            "graph_level": "basic",
            "spinning": False,
            "arena": False,
        },
        "inputs": [
            {"name": "tokens", "datatype": "INT64", "shape": ["N", "T"]},
            {"name": "scale", "datatype": "FP32", "shape": []},
            {"name": "mask", "datatype": "BOOL", "shape": ["T"]},
        ],
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": ["N", "T"]},
            {"name": "largest", "datatype": "INT64", "shape": ["N"]},
        ],
        "dims": {"N": [1, 16], "T": [2, 8]},
    }


def test_the_service_names_the_runtime(there):
    handed = there(SessionSettings(threads=3), model="My_Net")
    service, runtime = (
        yaml.safe_load(TARGET.files(handed)[name]) for name in ("inferenceservice.yaml", "servingruntime.yaml")
    )
    model = service["spec"]["predictor"]["model"]
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert service["metadata"]["name"] == "my-net"
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["runtime"] == runtime["metadata"]["name"] == "my-net-onnxruntime"
    assert model["modelFormat"]["name"] == runtime["spec"]["supportedModelFormats"][0]["name"] == "onnx"
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/models/My_Net/ready"
    assert container["ports"][0]["containerPort"] == container["readinessProbe"]["httpGet"]["port"] == 8080
    assert container["resources"] == model["resources"]


def test_what_cannot_be_known_here_is_left_to_fill_in(there):
    tree = TARGET.files(there())
    for name, hole in (("inferenceservice.yaml", "${STORAGE_URI}"), ("servingruntime.yaml", "${IMAGE}")):
        assert str(tree[name]).startswith(f"# FILL IN {hole}")
        assert str(tree[name]).count("${") == 2  # the comment and the value


@pytest.mark.parametrize(
    ("threads", "size", "cpu", "memory", "limited"),
    [
        ((None,), 1000, "1", "576Mi", False),
        ((4,), 1000, "4", "576Mi", True),
        ((2, 4), 1000, "4", "576Mi", True),
        ((4, None), 1000, "4", "576Mi", False),
        ((1,), 20 << 20, "1", "640Mi", True),  # twice 20 MiB, three times
    ],
)
def test_resources_come_from_size_and_threads(there, threads, size, cpu, memory, limited):
    handed = there(*(SessionSettings(threads=number) for number in threads), size=size)
    found = _kserve_manifests.resources(handed)
    assert found["requests"] == {"cpu": cpu, "memory": memory}
    assert found["limits"] == ({"cpu": cpu, "memory": memory} if limited else {"memory": memory})


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("mlp", "mlp"),
        ("My_Net.v2", "my-net-v2"),
        ("3d", "m-3d"),
        ("a__", "a"),
        ("0", "m-0"),
        ("x" * 80, "x" * 40),
        ("x" * 39 + "-y", "x" * 39),
    ],
)
def test_names_are_dns_labels(model, name):
    assert _kserve_manifests.dns_name(model) == name


@pytest.mark.parametrize(
    "value",
    ["v2", "on", "No", "null", "y", "", "1", "1.5", "0x1", "a: b", "a #b", "- a", "${X}", "ä\n\t\"'\\", True, False, 7],
)
def test_yaml_reads_back_every_scalar(value):
    document = {"one": value, "many": [value, {"a": value, "b": [value]}], "deep": {"er": {"est": value}}}
    assert yaml.safe_load("\n".join(_kserve_manifests._mapping(document))) == document


def test_another_provider_is_refused():
    with pytest.raises(RefusedError, match=r"TARGET_CANNOT_SERVE.*CUDAExecutionProvider"):
        TARGET.check(given(provider=CUDA))


@pytest.mark.parametrize(("dtype", "said"), [("float16", "refuses in JSON"), ("complex64", "has no word for")])
@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_dtypes_that_cannot_travel_are_refused(side, dtype, said):
    odd: Signature = replace(SIGNATURE, **{side: (TensorSpec("z", dtype, ("N",)),)})
    with pytest.raises(RefusedError, match=f"TARGET_CANNOT_SERVE.*{said}"):
        TARGET.check(given(signature=odd))


def test_a_sound_model_is_not_refused():
    TARGET.check(given())


def test_the_readme_says_who_can_reach_the_server(there):
    commands = TARGET.commands(there(SessionSettings(binding=True)))
    notes = "\n".join(commands.notes)
    assert "listens on all interfaces" in notes
    assert "`binding`" in notes
    assert "`binding`" not in "\n".join(TARGET.commands(there()).notes)
