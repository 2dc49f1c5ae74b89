"""The table of releases: what it holds, what its names mean, and what is said of a name that is not in it."""

import json
from pathlib import Path

import pytest

import deploykit
from deploykit import releases
from deploykit.errors import UsageError
from deploykit.releases import Release, parse

TABLE = json.loads((Path(deploykit.__file__).parent / "releases.json").read_text())


def test_a_triton_release_is_its_onnxruntime():
    assert parse("triton:24.10") == Release("triton", "24.10", "1.19.2", 21, 10)
    assert parse("triton:23.05") == Release("triton", "23.05", "1.15.0", 18, 9)
    assert parse("triton:26.07").onnxruntime == "1.27.0"


def test_onnxruntime_is_named_with_two_or_three_numbers():
    assert parse("ort:1.15") == Release("ort", "1.15", "1.15", 18, 9)
    assert parse("ort:1.15.1") == Release("ort", "1.15.1", "1.15.1", 18, 9)
    assert parse("ort:1.17.2").onnxruntime == "1.17.2"  # only Triton ever had it


@pytest.mark.parametrize("kind", list(releases.KINDS))
def test_every_name_that_is_known_parses(kind):
    for name in releases.names(kind):
        found = parse(f"{kind}:{name}")
        assert found.label == f"{kind}:{name}"
        assert found.fits(found.installable)
        assert found.takes(found.opset, found.ir)
        assert not found.takes(found.opset + 1, found.ir)
        assert not found.takes(found.opset, found.ir + 1)


def test_newer_engines_take_no_less():
    rows = [parse(f"ort:{name}") for name in TABLE["onnxruntime"]]
    assert [row.opset for row in rows] == sorted(row.opset for row in rows)
    assert [row.ir for row in rows] == sorted(row.ir for row in rows)
    assert all(row["opset"] <= row["accepts"] for row in TABLE["onnxruntime"].values())


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("triton:24.13", "triton:24.12"),
        ("triton:24.1", "triton:24.01"),
        ("triton:", "triton:26.08"),
        ("triton:latest", "triton:26.08"),
        ("ort:1.19.1", "ort:1.19.0"),
        ("ort:1.99", "ort:1.32"),
        ("ort:1.14", "ort:1.15"),
        ("ort:" + "9" * 5000, "ort:"),
    ],
)
def test_an_unknown_release_is_answered_with_the_nearest(text, near):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.code == "UNKNOWN_TARGET"
    assert near in caught.value.hint


@pytest.mark.parametrize("text", ["", "24.10", "onnx:1", "TRITON:24.10", ":"])
def test_an_unknown_kind_is_answered_with_the_known_ones(text):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.code == "UNKNOWN_TARGET"
    assert "triton or ort" in caught.value.hint


def test_what_stands_for_a_release_when_it_is_tried():
    assert parse("triton:24.03").installable == "1.17.3"  # 1.17.2 was never published
    assert parse("triton:24.03").fits("1.17.3")
    assert not parse("triton:24.03").fits("1.17.1")
    assert parse("ort:1.16").fits("1.16.0")
    assert parse("ort:1.16").fits("1.16.3")
    assert not parse("ort:1.16").fits("1.17.0")
    assert not parse("ort:1.16.1").fits("1.16.3")


def test_only_a_server_has_a_servers_release():
    assert parse("triton:24.10").server == "24.10"
    assert parse("ort:1.19.2").server is None
