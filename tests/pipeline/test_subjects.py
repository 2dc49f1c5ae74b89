"""Who stands in the table: eager, eager compiled, variants, and variants as one recorded graph."""

from __future__ import annotations

import pytest

from deploykit.bundle import Bundle
from deploykit.errors import RefusedError
from deploykit.model import SourceSpec
from deploykit.parity.scale import IN_DISTRIBUTION
from deploykit.pipeline import subjects
from deploykit.pipeline.subjects import Subjects
from deploykit.results import VariantReport
from deploykit.runtimes.torch_compile import Runtime
from deploykit.session import CPU, CUDA, SessionSettings


@pytest.fixture
def every(build, cases, tmp_path):
    """Names and settings of the subjects of a small bundle, all of whose variants passed on `provider`."""

    judged = next(case for case in cases if case.input_class in IN_DISTRIBUTION and case.gate == "full")
    build(tmp_path / "made", case=judged)

    def find(provider=CPU, **more):
        bundle = Bundle(tmp_path / "made")
        source = SourceSpec("python", "model.py:build")
        found = Subjects(bundle, (1,), SessionSettings(provider, 1), tmp_path, source, **more)
        records = bundle.manifest.variants
        verdicts = {record.name: VariantReport(record.name, "pass", provider) for record in records}
        return found, found.every(verdicts), records

    return find


def test_compiled_eager_is_there_when_asked_for(every, monkeypatch):
    monkeypatch.setattr(Runtime, "unavailable", lambda self: None)
    found, plain, _ = every()
    assert found.compile_note == "not asked for (--compile)"
    assert "torch-compile" not in {one.name for one in plain}
    found, both, _ = every(compiled=True)
    assert [one.name for one in both][:2] == ["eager", "torch-compile"]
    assert both[1].runtime == "torch-compile"
    assert both[1].variant == ""
    assert both[1].artifact == both[0].artifact
    assert found.compile_note == "measured"


def test_without_a_compiler_the_reason_is_told_and_the_rest_goes_on(every, monkeypatch):
    monkeypatch.setattr(Runtime, "unavailable", lambda self: "torch.compile needs a C++ compiler")
    found, there, _ = every(compiled=True)
    assert found.compile_note == "not measured: torch.compile needs a C++ compiler"
    assert there[0].name == "eager"
    assert "torch-compile" not in {one.name for one in there}


def test_without_a_source_there_is_no_compiled_eager_either(every, monkeypatch):
    monkeypatch.setattr(Runtime, "unavailable", lambda self: None)
    monkeypatch.setattr(subjects, "REBUILT", ())
    found, _, _ = every(compiled=True)
    found.source = None
    assert found._compiled() == []
    assert found.compile_note.startswith("not measured: the source is not at hand")


def test_on_cuda_a_variant_stands_there_as_one_graph_too(every):
    _, on_cpu, records = every()
    assert not any("@" in one.name for one in on_cpu)
    _, there, _ = every(CUDA)
    graphs = {one.name: one for one in there if "@" in one.name}
    assert set(graphs) == {
        f"{record.name}@device_graph=on" for record in records if record.file and record.runtime == "onnxruntime"
    }
    assert graphs
    for name, one in graphs.items():
        assert one.settings.device_graph
        assert one.variant == name.partition("@")[0]
        assert not next(other for other in there if other.name == one.variant).settings.device_graph


def test_a_bundle_without_a_case_in_range_is_refused(made, tmp_path):
    with pytest.raises(RefusedError) as caught:
        Subjects(Bundle(made), (1,), SessionSettings(), tmp_path)
    assert caught.value.code == "NO_REFERENCE"
