"""Constraints and goals on the command line, with real workers; and that what is written is what the schema says."""

import json
from importlib import resources

import jsonschema
import pytest

MEASURE = ("--variants", "onnx,torchscript", "--quick", "--quiet", "--json", "-")


@pytest.fixture(scope="module")
def schema():
    return json.loads(resources.files("deploykit").joinpath("schemas/bench.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def kept(cli, tiny_bundle, tmp_path_factory):
    """One measurement with constraints that onnx satisfies and torchscript, with all of torch, does not."""
    page = tmp_path_factory.mktemp("page") / "page.html"
    done = cli("bench", tiny_bundle, *MEASURE, "--goal", "memory", "--memory", "250MB", "--size", "1MB")
    assert done.returncode == 0, done.stderr
    assert cli("report", tiny_bundle, "--format", "html", "-o", page).returncode == 0
    return json.loads(done.stdout), page.read_text(encoding="utf-8")


def test_a_real_document_is_what_the_schema_says(kept, schema):
    document, _ = kept
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    for spoiled in ({"recommendation": {"variant": 3}}, {"variants": [{"name": "onnx"}]}, {"exit_code": "0"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, **spoiled}, schema)


def test_what_breaks_a_constraint_is_rejected_and_the_rest_ranked(kept):
    document, page = kept
    found = document["recommendation"]
    assert (found["variant"], found["goal"], found["satisfied"]) == ("onnx", "memory", True)
    assert found["constraints"] == ["peak memory ≤ 250.0 MB", "size ≤ 1.0 MB"]
    assert [choice["variant"] for choice in found["ranking"]] == ["onnx"]
    assert found["pareto"] == ["onnx"]
    (reason,) = [one["reason"] for one in found["rejected"] if one["variant"] == "torchscript"]
    assert reason.startswith("misses peak memory ≤ 250.0 MB: ")
    assert "goal memory, with peak memory ≤ 250.0 MB and size ≤ 1.0 MB" in page
    assert page.count("<svg") == 2


def test_nothing_that_satisfies_is_exit_1_and_the_closest_is_named(cli, tiny_bundle, schema):
    asked = ("--max-accuracy-drop", "0.5%", "--size", "1B")
    done = cli("bench", tiny_bundle, "--variants", "onnx", *MEASURE[2:], *asked)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, schema)
    found = document["recommendation"]
    assert (found["variant"], found["satisfied"], document["exit_code"]) == (None, False, 1)
    assert "closest is onnx: not shown to hold accuracy drop ≤ 0.5 %: " in found["reason"]
    (reason,) = [one["reason"] for one in found["rejected"] if one["variant"] == "onnx"]
    assert "there are no labels: export with --samples" in reason
    assert "misses size ≤ 1 B: " in reason
