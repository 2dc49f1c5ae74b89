"""The MLflow model directory: what its files say, what is refused, and that settings are said in MLflow's keys."""

import json
import re
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import yaml

from deploykit.bundle import VariantRecord
from deploykit.errors import RefusedError
from deploykit.handoff import _yaml as block
from deploykit.handoff import mlflow
from deploykit.handoff.interface import Given, Version
from deploykit.session import CPU, CUDA, SessionSettings
from deploykit.signature import Dim, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("tokens", "int64", ("N", "T")), TensorSpec("scale", "float32", ())),
    (TensorSpec("scores", "float32", ("N", "T", 3)), TensorSpec("first", "int64", ("N",))),
    (Dim("N", 1, 16), Dim("T", 2, 128)),
)
TARGET = mlflow.Target()


def given(settings=SessionSettings(), numbers=(1,), signature=SIGNATURE, files=("net.onnx", "net.onnx.data")):  # noqa: B008
    """Two inputs, a scalar among them, two outputs, a symbolic inner dim, external data."""
    record = VariantRecord(
        name="onnx",
        status="ready",
        made_by="onnx",
        precision="fp32",
        runtime="onnxruntime",
        file=f"variants/onnx/{files[0]}",
    )
    paths = {name: Path("bundle/variants/onnx") / name for name in files}
    versions = tuple(Version(number, record, paths, settings) for number in numbers)
    return Given("net", signature, versions, provider=settings.provider)


def said(handed=None):
    return yaml.safe_load(TARGET.files(handed or given())["model/MLmodel"])


def test_the_model_and_what_lies_beside_it_are_there_once_each():
    tree = TARGET.files(given())
    assert set(tree) == {
        f"model/{name}"
        for name in ("MLmodel", "requirements.txt", "python_env.yaml", "conda.yaml", "net.onnx", "net.onnx.data")
    }
    assert tree["model/net.onnx.data"] == Path("bundle/variants/onnx/net.onnx.data")


def test_both_flavors_name_the_file():
    flavors = said()["flavors"]
    assert flavors["onnx"]["data"] == flavors["python_function"]["data"] == "net.onnx"
    assert flavors["python_function"]["loader_module"] == "mlflow.onnx"
    assert flavors["python_function"]["env"] == {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}


def test_the_signature_has_names_dtypes_and_minus_one_for_symbolic_dims():
    signature = said()["signature"]
    inputs = [(one["name"], one["type"], one["tensor-spec"]) for one in json.loads(signature["inputs"])]
    assert inputs == [
        ("tokens", "tensor", {"dtype": "int64", "shape": [-1, -1]}),
        ("scale", "tensor", {"dtype": "float32", "shape": []}),
    ]
    outputs = [(one["name"], one["tensor-spec"]["shape"]) for one in json.loads(signature["outputs"])]
    assert outputs == [("scores", [-1, -1, 3]), ("first", [-1])]


def test_the_same_bundle_gives_the_same_bytes():
    assert TARGET.files(given()) == TARGET.files(given())
    assert {"utc_time_created", "model_uuid"} & set(said()) == set()


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (SessionSettings(), {"graph_optimization_level": 99}),
        (SessionSettings(threads=3), {"intra_op_num_threads": 3}),
        (SessionSettings(graph_level="basic"), {"graph_optimization_level": 1}),
        (SessionSettings(graph_level="extended"), {"graph_optimization_level": 2}),
        (SessionSettings(spinning=False), {"extra_session_config": {"session.intra_op.allow_spinning": "0"}}),
    ],
)
def test_settings_are_said_in_mlflows_keys(settings, options):
    there = said(given(settings))["flavors"]["onnx"]["onnx_session_options"]
    assert {key: there[key] for key in options} == options
    assert there["inter_op_num_threads"] == 1
    assert ("intra_op_num_threads" in there) == (settings.threads is not None)


def test_levels_are_the_engines_own_numbers():
    names = {"basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}
    own = {level: int(getattr(onnxruntime.GraphOptimizationLevel, name)) for level, name in names.items()}
    assert own == mlflow.LEVELS


def test_providers():
    assert said()["flavors"]["onnx"]["providers"] == [CPU]
    cuda = given(SessionSettings(CUDA))
    assert said(cuda)["flavors"]["onnx"]["providers"] == [[CUDA, {"use_tf32": "0"}], CPU]
    assert "only logs a warning" in "\n".join(TARGET.commands(cuda).notes)
    other = given(SessionSettings("OpenVINOExecutionProvider"))
    assert said(other)["flavors"]["onnx"]["providers"] == ["OpenVINOExecutionProvider", CPU]


def test_what_cannot_be_said_is_in_a_note():
    quiet = "\n".join(TARGET.commands(given()).notes)
    assert "no key for" not in quiet
    lost = "\n".join(TARGET.commands(given(SessionSettings(arena=False, binding=True))).notes)
    assert "no key for `arena=off` and `binding=on`" in lost


@pytest.mark.parametrize(
    ("handed", "words"),
    [
        (given(numbers=(1, 2)), "one version"),
        (given(SessionSettings(graph_level="disable")), "graph_level=disable"),
        (given(SessionSettings(CUDA, device_graph=True)), "device_graph"),
        (given(signature=Signature((TensorSpec("z", "complex64", (2,)),), ())), "complex64"),
        (given(signature=replace(SIGNATURE, outputs=(TensorSpec("z", "complex128", (2,)),))), "complex128"),
    ],
)
def test_refused(handed, words):
    with pytest.raises(RefusedError, match=words) as caught:
        TARGET.check(handed)
    assert caught.value.code == "TARGET_CANNOT_SERVE"
    assert caught.value.hint


def test_what_is_served_is_not_refused():
    TARGET.check(given(SessionSettings(threads=2, graph_level="basic", spinning=False, arena=False)))


def test_the_environment_files_hold_the_pins_that_are_shipped():
    tree = TARGET.files(given())
    pins = tree["model/requirements.txt"].splitlines()
    shipped = (mlflow.REQUIREMENTS / "mlflow.txt").read_text()
    assert {re.split(r"[= ]", pin)[0] for pin in pins} == set(mlflow.PACKAGES)
    spelled = [pin.replace("; ", " ; ").replace('"', "'") for pin in pins]
    assert all(re.search(rf"^{re.escape(pin)} *\\?$", shipped, re.MULTILINE) for pin in spelled)
    conda = yaml.safe_load(tree["model/conda.yaml"])
    assert conda["dependencies"][-1] == {"pip": pins}
    assert yaml.safe_load(tree["model/python_env.yaml"])["dependencies"] == ["-r requirements.txt"]
    assert said()["mlflow_version"] == next(pin for pin in pins if "skinny" in pin).partition("==")[2]


@pytest.mark.parametrize(
    "value",
    [
        {"a": {"b": [1, "2", None, True, {"c": ["3.11", "no", "é", 'a"b\\']}]}, "d": {}, "e": []},
        {"list": [["x", {"y": "1"}], "z"]},
    ],
)
def test_yaml_reads_back(value):
    assert yaml.safe_load(block.yaml(value)) == value


def test_a_folder_from_a_bundle(cli, tiny_bundle, tmp_path):
    done = cli("handoff", tiny_bundle, "--to", "mlflow", "-o", tmp_path / "out", "--session", "threads=2,spinning=off")
    assert done.returncode == 0, done.stderr
    served = (tmp_path / "out/model/model.onnx").read_bytes()
    assert served == (tiny_bundle / "variants/onnx/model.onnx").read_bytes()
    readme = (tmp_path / "out/README.md").read_text()
    assert "mlflow models serve -m model --env-manager local --host 127.0.0.1" in readme
    assert "threads=2,spinning=off" in readme
    record = json.loads((tmp_path / "out/handoff.json").read_text())
    assert record["speaks"] == "mlflow"
    assert record["versions"][0]["files"] == {"model.onnx": "model/model.onnx"}


def test_a_second_version_is_refused_and_the_first_one_stays(cli, tiny_bundle, tmp_path):
    arguments = ("handoff", tiny_bundle, "--to", "mlflow", "-o", tmp_path / "out", "--allow-unverified")
    assert cli(*arguments).returncode == 0
    before = (tmp_path / "out/handoff.json").read_bytes()
    done = cli(*arguments, "--version", "2")
    assert done.returncode == 5
    assert "TARGET_CANNOT_SERVE" in done.stderr
    assert (tmp_path / "out/handoff.json").read_bytes() == before
