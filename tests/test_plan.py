import dataclasses
from types import SimpleNamespace

import pytest

from deploykit import plan, registry
from deploykit.errors import UsageError

CORE = ["torchscript", "torch-export", "onnx", "onnx-fp16", "onnx-int8-dynamic", "onnx-int8-static"]


def names(wanted: str) -> list[str]:
    return [variant.name for variant in plan.select(wanted)]


def test_core_is_the_six_of_the_contract_in_its_order():
    assert names("core") == CORE


def test_all_holds_core_and_nothing_twice():
    assert set(names("all")) >= set(CORE)
    assert names("all") == list(plan.known())


def test_what_is_made_from_another_comes_after_it():
    for variant in plan.known().values():
        if variant.base is None:
            assert variant.kind == "exporters"
        else:
            assert variant.kind == "transforms"
            assert variant.name == f"{variant.base}-{variant.plugin}"
            assert names("all").index(variant.base) < names("all").index(variant.name)


def test_a_list_brings_the_bases_it_needs_and_nothing_else():
    assert names("onnx-int8-static") == ["onnx", "onnx-int8-static"]
    assert names(" onnx-fp16 , torchscript,,onnx-fp16") == ["torchscript", "onnx", "onnx-fp16"]
    assert names("torch-export") == ["torch-export"]


@pytest.mark.parametrize("wanted", ["", " ", ",", ",,", "nope", "onnx,nope", "ONNX", "core,onnx", "onnx-", "../onnx"])
def test_an_empty_list_or_an_unknown_name_is_refused_with_the_known_ones(wanted):
    with pytest.raises(UsageError) as caught:
        plan.select(wanted)
    assert caught.value.code == "UNKNOWN_VARIANT"
    assert "onnx-int8-static" in caught.value.hint


def test_plugins_tell_file_runtime_and_precision():
    for variant in plan.known().values():
        assert "/" not in variant.file_name
        assert variant.runtime in registry.names("runtimes")
        assert variant.precision
        assert dataclasses.replace(variant) == variant


@pytest.fixture
def outsider(monkeypatch):
    """A plugin of another package, as an entry point would bring it."""

    def add(kind: str, name: str, **fields):
        plugin = type("Plugin", (), {"core": False, **fields})
        real = registry._outsiders
        point = SimpleNamespace(name=name, load=lambda: plugin)
        monkeypatch.setattr(registry, "_outsiders", lambda k: {**real(k), **({name: point} if k == kind else {})})

    return add


def test_a_foreign_plugin_is_in_all_and_not_in_core(outsider):
    outsider("exporters", "mine", file_name="m.bin", runtime="onnxruntime", precision="fp32")
    outsider("transforms", "shrunk", base="mine", precision="int8-dynamic")
    assert names("core") == CORE
    assert names("mine-shrunk") == ["mine", "mine-shrunk"]
    assert {"mine", "mine-shrunk"} <= set(names("all"))


def test_a_foreign_plugin_cannot_take_the_place_of_ours(outsider):
    outsider("exporters", "onnx", file_name="evil.bin", runtime="onnxruntime", precision="fp32")
    assert plan.known()["onnx"].file_name == "model.onnx"
    assert registry.names("exporters").count("onnx") == 1


def test_a_transform_of_something_unknown_is_named(outsider):
    outsider("transforms", "lost", base="nowhere", precision="fp16")
    with pytest.raises(UsageError, match="lost: transforms the unknown variant nowhere"):
        plan.select("core")


def test_a_plugin_name_never_leads_to_a_file_outside_its_folder():
    for name in ("interface", "_graph", "../errors", "os.path", "onnx.py", "", "..", "/etc/passwd"):
        with pytest.raises(UsageError) as caught:
            registry.load("exporters", name)
        assert caught.value.code == "UNKNOWN_PLUGIN"
