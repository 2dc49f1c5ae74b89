"""Finished variants found again: the same bytes, a miss where anything differs, nothing from elsewhere."""

from __future__ import annotations

import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from deploykit import plan, registry
from deploykit.bundle import Bundle
from deploykit.lines import LINES
from deploykit.model import SourceSpec
from deploykit.pipeline import reuse
from deploykit.pipeline.export import ExportRequest, export
from deploykit.pipeline.keep_float import Wanted
from deploykit.publish import amending, remember
from deploykit.releases import parse
from deploykit.tuned import TunedRecord

MODEL = """\
import torch
from torch import nn
from part import width


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, width()), nn.Linear(width(), 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def build():
    torch.manual_seed(0)
    return Tiny(), torch.rand(2, 6)
"""

ALL = "torchscript,torch-export,onnx,onnx-int8-static"


class Heard:
    """Keeps what is told."""

    def __init__(self):
        self.steps, self.notes = [], []

    def stage(self, title, total):
        pass

    def reach(self, done):
        pass

    def step(self, text):
        self.steps.append(text)

    def note(self, text):
        self.notes.append(text)

    @property
    def reused(self) -> set[str]:
        return {text.partition(":")[0] for text in self.steps if ": reused" in text}


def write(folder: Path) -> ExportRequest:
    folder.mkdir()
    (folder / "models.py").write_text(MODEL)
    (folder / "part.py").write_text("def width():\n    return 8\n")
    rows = np.random.default_rng(0).random((20, 6), np.float32)
    np.savez(folder / "samples.npz", x=rows)
    source = SourceSpec("python", f"{folder}/models.py:build")
    return ExportRequest(source, folder / "out" / "tiny", ALL, folder / "samples.npz")


@pytest.fixture(scope="module", autouse=True)
def _still():
    """The package stands still, though somebody may be editing it while the tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reuse, "_own_code", lambda: "as it is")
        yield


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> ExportRequest:
    """A request whose bundle was made once. Shared: see `again`."""
    request = write(tmp_path_factory.mktemp("reuse") / "project")
    export(request, Heard())
    return request


@pytest.fixture
def request_(first, tmp_path) -> ExportRequest:
    """The same with a bundle of this test's own, and its project, to change."""
    project = Path(shutil.copytree(first.target.parents[1], tmp_path / "project"))
    source = replace(first.source, target=f"{project}/models.py:build")
    return replace(first, source=source, target=project / "out" / "tiny", samples=project / "samples.npz", force=True)


def again(request: ExportRequest, **changes) -> tuple[Bundle, Heard]:
    heard = Heard()
    return export(replace(request, **changes), heard).bundle, heard


def files(bundle: Bundle) -> list:
    return [record.model_dump() for record in bundle.manifest.files]


EVERY = {"torchscript", "torch-export", "onnx", "onnx-int8-static"}


def test_the_same_export_takes_everything_and_is_the_same_bytes(request_):
    before = Bundle(request_.target)
    reused, heard = again(request_)
    assert heard.reused == EVERY
    assert reused.manifest == before.manifest
    anew, heard = again(request_, reuse=False)
    assert heard.reused == set()
    assert anew.manifest == before.manifest
    assert (anew.path / LINES).is_file()
    anew.check()


def test_every_variant_has_a_key_of_its_own(request_):
    keys = [record.key for record in Bundle(request_.target).manifest.variants]
    assert len({*keys}) == len(EVERY)
    assert all(len(key) == 64 for key in keys)


def test_another_option_misses_and_so_does_what_is_made_from_it(request_):
    bundle, heard = again(request_, options={"onnx": {"opset": 18}})
    assert heard.reused == {"torchscript"}  # torch-export writes the record of lines together with onnx
    assert bundle.manifest.variant("onnx").facts["opset"] == 18


def test_code_that_the_file_imports_is_seen(request_):
    part = Path(request_.source.target.partition(":")[0]).with_name("part.py")
    part.write_text("def width():\n    return 4 + 4\n")
    assert again(request_, variants="torchscript")[1].reused == set()


@pytest.mark.slow
def test_an_answer_that_hangs_on_a_data_file_is_seen_through_the_reference(request_):
    """The code and the weights stay, what the module computes does not."""
    code = Path(request_.source.target.partition(":")[0])
    factor = code.with_name("factor.txt")
    factor.write_text("2.0")
    changed = MODEL.replace("return self.second(", f"return float(open({str(factor)!r}).read()) * self.second(")
    code.write_text(changed)
    few = replace(request_, variants="torchscript")
    again(few)
    assert again(few)[1].reused == {"torchscript"}
    factor.write_text("3.0")
    assert again(few)[1].reused == set()


# --- the key alone ---------------------------------------------------------------------------------------------------


@pytest.fixture
def ingredients(tmp_path) -> reuse.Ingredients:
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "batch-2.safetensors").write_bytes(b"answers")
    (tmp_path / "calibration-0.safetensors").write_bytes(b"rows")
    captured = {
        "digest": "0" * 64,
        "signature": {"inputs": [{"name": "x"}]},
        "calibration": [str(tmp_path / "calibration-0.safetensors")],
    }
    imported = {"files": {"models": "1" * 64}, "packages": {"timm": "1.0"}}
    return reuse.Ingredients(SourceSpec("python", "a/models.py:build"), captured, imported, tmp_path)


def keys(found: reuse.Ingredients, options=None) -> dict[str, str]:
    return found.keys(plan.select("all"), options or {})


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


NAMES = {variant.name for variant in plan.select("all")}
ONNX = {name for name in NAMES if name.startswith("onnx")}


def test_the_same_ingredients_give_the_same_keys(ingredients):
    assert changed(keys(ingredients), keys(replace(ingredients))) == set()
    assert len({*keys(ingredients).values()}) == len(NAMES)


@pytest.mark.parametrize("package", [*reuse.PACKAGES, "deploykit"])
def test_another_version_of_a_package_misses(ingredients, monkeypatch, package):
    before, usual = keys(ingredients), reuse._version
    monkeypatch.setattr(reuse, "_version", lambda name: "0.0.1" if name == package else usual(name))
    assert changed(before, keys(ingredients)) == NAMES


@pytest.mark.parametrize("name", ["cpu_name", "usable_cores", "_own_code"])
def test_another_machine_and_an_edited_deploykit_miss(ingredients, monkeypatch, name):
    before = keys(ingredients)
    monkeypatch.setattr(reuse, name, lambda: "another")
    assert changed(before, keys(ingredients)) == NAMES


@pytest.mark.parametrize(
    "change",
    [
        {"captured": {"digest": "1" * 64}},
        {"captured": {"signature": {"inputs": [{"name": "y"}]}}},
        {"imported": {"files": {"models": "2" * 64}}},
        {"imported": {"files": {}}},
        {"imported": {"packages": {"timm": "1.1"}}},
        {"imported": {"python": "3.99"}},
        {"source": {"seed": 1}},
        {"source": {"target": "a/models.py:other"}},
        {"source": {"inputs": ("x:float32[N]",)}},
    ],
    ids=str,
)
def test_what_the_model_is_made_of_misses_everywhere(ingredients, change):
    ((name, values),) = change.items()
    before = getattr(ingredients, name)
    other = replace(before, **values) if name == "source" else {**before, **values}
    assert changed(keys(ingredients), keys(replace(ingredients, **{name: other}))) == NAMES


OWN_CODE = reuse._own_code


def test_every_file_of_the_package_counts(tmp_path):
    (tmp_path / "verb").mkdir()
    (tmp_path / "verb" / "plugin.py").write_text("one")
    (tmp_path / "releases.json").write_text("{}")
    before = OWN_CODE(tmp_path)
    assert OWN_CODE(tmp_path) == before
    (tmp_path / "verb" / "plugin.py").write_text("two")
    changed_code = OWN_CODE(tmp_path)
    (tmp_path / "releases.json").write_text("[]")
    assert len({before, changed_code, OWN_CODE(tmp_path), OWN_CODE()}) == 4


def test_another_answer_of_eager_misses_everywhere(ingredients):
    before = keys(ingredients)
    (ingredients.stage / "reference" / "batch-2.safetensors").write_bytes(b"others")
    assert changed(before, keys(ingredients)) == NAMES


def test_another_folder_is_the_same(ingredients):
    moved = replace(ingredients, source=replace(ingredients.source, target="/b/c/models.py:build"))
    assert changed(keys(ingredients), keys(moved)) == set()


def test_another_calibration_misses_what_is_calibrated(ingredients):
    before = keys(ingredients)
    Path(ingredients.captured["calibration"][0]).write_bytes(b"other rows")
    assert changed(before, keys(ingredients)) == {"onnx-int8-static"}


def test_a_release_misses_what_it_has_to_load(ingredients):
    assert changed(keys(ingredients), keys(replace(ingredients, release=parse("ort:1.19")))) == ONNX


def test_looking_for_nodes_to_keep_misses_what_can_keep_them(ingredients):
    looked = keys(replace(ingredients, keep_float=Wanted(auto=True)))
    able = {v.name for v in plan.select("all") if hasattr(registry.load(v.kind, v.plugin), "keep_float")}
    assert changed(keys(ingredients), looked) == able
    assert changed(looked, keys(replace(ingredients, keep_float=Wanted(auto=True, target_db=12.0)))) == able


def test_an_option_misses_its_variant_and_what_is_made_from_it(ingredients):
    before = keys(ingredients)
    assert changed(before, keys(ingredients, {"onnx": {"opset": 18}})) == ONNX
    assert changed(before, keys(ingredients, {"onnx-int8-static": {"per_channel": False}})) == {"onnx-int8-static"}
    default = registry.load("exporters", "onnx").opset
    assert changed(before, keys(ingredients, {"onnx": {"opset": default}})) == set()


def test_another_plugin_of_others_misses(ingredients, monkeypatch):
    before = keys(ingredients)
    monkeypatch.setattr(reuse, "_origin", lambda plugin: ["its package", "2.0"])
    assert changed(before, keys(ingredients)) == NAMES


# --- what is on the shelf --------------------------------------------------------------------------------------------


def taken(request: ExportRequest, stage: Path, variants: str = ALL) -> tuple[set[str], Heard]:
    """What is copied into `stage` when every key is the one that is there."""
    heard, shelf = Heard(), reuse.Shelf.at(request.target)
    there = {one.name: one.key for one in Bundle(request.target).manifest.variants}
    planned = plan.select(variants)
    shelf.settled(planned, there, stage)
    found = {v.name for v in planned if shelf.take(v.name, there[v.name], stage, heard) is not None}
    assert {path.name for path in (stage / "variants").glob("*")} == found
    return found, heard


def test_the_project_may_move(request_, tmp_path):
    moved = Path(shutil.move(request_.target.parents[1], tmp_path / "elsewhere"))
    source = replace(request_.source, target=f"{moved}/models.py:build")
    request = replace(request_, source=source, target=moved / "out" / "tiny", samples=moved / "samples.npz")
    assert again(request, variants="torchscript")[1].reused == {"torchscript"}


@pytest.mark.parametrize("how", ["changed", "longer", "link", "second link", "stray", "gone"])
def test_what_is_not_as_recorded_is_left(request_, tmp_path, how):
    file = request_.target / "variants/torchscript/model.pt"
    match how:
        case "changed":
            raw = bytearray(file.read_bytes())
            raw[len(raw) // 2] ^= 1
            file.write_bytes(raw)
        case "longer":
            file.write_bytes(file.read_bytes() + b"\0")
        case "link":
            file.rename(tmp_path / "model.pt")
            file.symlink_to(tmp_path / "model.pt")
        case "second link":
            (tmp_path / "model.pt").hardlink_to(file)
        case "stray":
            file.with_name("more").write_bytes(b"x")
        case "gone":
            file.unlink()
    found, heard = taken(request_, tmp_path / "stage")
    assert found == EVERY - {"torchscript"}
    assert heard.notes == ["torchscript: what is there is not as recorded, it is made again"]


def test_a_variants_folder_that_is_a_link_is_left(request_, tmp_path):
    folder = request_.target / "variants/torchscript"
    folder.rename(tmp_path / "torchscript")
    folder.symlink_to(tmp_path / "torchscript", target_is_directory=True)
    assert taken(request_, tmp_path / "stage")[0] == EVERY - {"torchscript"}


def test_a_record_of_lines_that_is_not_as_recorded_makes_its_exporters_run(request_, tmp_path):
    lines = request_.target / LINES
    lines.write_text(lines.read_text().replace("models.py", "nodels.py"))
    assert taken(request_, tmp_path / "stage")[0] == {"torchscript", "onnx-int8-static"}
    assert not (tmp_path / "stage" / LINES).exists()


def test_a_tampered_variant_is_made_again_as_it_was(request_):
    before = Bundle(request_.target).manifest
    broken = request_.target / "variants/onnx-int8-static/model.onnx"
    raw = bytearray(broken.read_bytes())
    raw[len(raw) // 2] ^= 1
    broken.write_bytes(raw)
    bundle, heard = again(request_)
    assert heard.reused == EVERY - {"onnx-int8-static"}  # only that one is made
    assert bundle.manifest == before
    bundle.check()


def test_nothing_is_taken_from_a_bundle_of_another_machine(request_, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    shelf = reuse.Shelf.at(request_.target)
    assert (shelf.bundle, shelf.why) == (None, "this machine did not make the bundle that is there")


def test_a_manifest_with_a_forged_key_is_none_that_this_machine_made(request_):
    manifest = request_.target / "manifest.json"
    keys_there = [one.key for one in Bundle(request_.target).manifest.variants]
    manifest.write_text(manifest.read_text().replace(keys_there[0], "0" * 64))
    assert reuse.Shelf.at(request_.target).bundle is None


def test_a_bundle_without_keys_opens_and_gives_nothing(request_, tmp_path):
    manifest = request_.target / "manifest.json"
    text = manifest.read_text()
    for one in Bundle(request_.target).manifest.variants:
        text = text.replace(f',\n      "key": "{one.key}"', "")
    manifest.write_text(text)
    remember(sha256(text.encode()).hexdigest())
    bundle = Bundle(request_.target)
    assert {one.key for one in bundle.manifest.variants} == {""}
    bundle.check()
    assert reuse.Shelf.at(request_.target).bundle is not None
    assert taken(request_, tmp_path / "stage")[0] == set()


@pytest.mark.parametrize(("text", "word"), [("{}", "cannot be read"), (None, "no bundle is there")])
def test_where_there_is_no_bundle_there_is_nothing(request_, text, word):
    manifest = request_.target / "manifest.json"
    manifest.unlink() if text is None else manifest.write_text(text)
    assert word in reuse.Shelf.at(request_.target).why


@pytest.mark.slow
def test_one_more_variant_leaves_the_others(request_):
    whole = Bundle(request_.target)
    few, _ = again(request_, variants="onnx")
    assert len(files(few)) < len(whole.manifest.files)
    more, heard = again(request_)
    assert heard.reused == {"onnx"}
    assert more.manifest == whole.manifest


@pytest.mark.slow
def test_one_variant_less_leaves_no_line_of_it(request_):
    less, heard = again(request_, variants="torch-export")
    assert heard.reused == set()
    anew, _ = again(request_, variants="torch-export", reuse=False)
    assert files(less) == files(anew)


def test_what_was_tuned_is_not_taken_along(request_, tmp_path):
    bundle = Bundle(request_.target)
    found = TunedRecord(goal="latency", provider="CPUExecutionProvider", settings="threads=1", batch=1, cores=2)
    tuned = [one.model_copy(update={"tuned": (found,)}) for one in bundle.manifest.variants]
    with amending(bundle) as write:
        write(bundle.manifest.model_copy(update={"variants": tuple(tuned)}))
    shelf = reuse.Shelf.at(request_.target)
    assert shelf.bundle.manifest.variant("onnx").tuned == (found,)
    record = shelf.take("torchscript", bundle.manifest.variant("torchscript").key, tmp_path, Heard())
    assert record == bundle.manifest.variant("torchscript")


def test_a_failed_variant_is_tried_again(request_):
    fails = {"onnx-int8-static": {"keep_float": ["no such node"]}}
    bundle, heard = again(request_, options=fails)
    assert heard.reused == EVERY - {"onnx-int8-static"}
    record = bundle.manifest.variant("onnx-int8-static")
    assert (record.status, record.key) == ("failed", "")
    assert again(request_, options=fails)[1].reused == EVERY - {"onnx-int8-static"}
