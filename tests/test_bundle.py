"""A bundle is believed only as far as its manifest's strict form and its digests reach."""

import contextlib
import json
import os
import re
import shutil

import numpy as np
import pytest

from deploykit import bundle as bundles
from deploykit.bundle import MANIFEST, Bundle, Manifest
from deploykit.errors import DeploykitError, RefusedError, UsageError
from deploykit.reference import save_case


def test_a_published_bundle_proves_itself_and_its_manifest_survives_a_round_trip(made):
    opened = Bundle(made)
    opened.check()
    text = (made / MANIFEST).read_text()
    assert Manifest.model_validate_json(text) == opened.manifest
    assert opened.manifest.to_json() == text
    assert {record.path for record in opened.manifest.files} == {
        path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file() and path.name != MANIFEST
    }


def _edit(path, change):
    path.write_bytes(change(bytearray(path.read_bytes())))


def _flip(at):
    def change(content):
        content[at] ^= 0x10
        return content

    return change


DAMAGE = {
    "the first byte flipped": lambda file: _edit(file, _flip(0)),
    "a middle byte flipped": lambda file: _edit(file, lambda content: _flip(len(content) // 2)(content)),
    "the last byte flipped": lambda file: _edit(file, _flip(-1)),
    "one byte cut off": lambda file: _edit(file, lambda content: content[:-1]),
    "one byte appended": lambda file: _edit(file, lambda content: content + b"\0"),
    "emptied": lambda file: file.write_bytes(b""),
    "deleted": lambda file: file.unlink(),
    "a file beside it": lambda file: file.with_name("new.bin").write_bytes(b"new"),
    "a hidden file beside it": lambda file: file.with_name(".new").write_bytes(b""),
    "a dangling link beside it": lambda file: file.with_name("link").symlink_to("/nowhere"),
    "moved and linked": lambda file: file.symlink_to(shutil.move(file, f"{file.parents[2]}-kept")),
    "hard-linked": lambda file: os.link(file, f"{file.parents[2]}-kept"),
    "a directory in its place": lambda file: (file.unlink(), file.mkdir()),
    "a pipe in its place": lambda file: (file.unlink(), os.mkfifo(file)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "path", ["variants/onnx/model.onnx", "reference/batch-2.safetensors", "variants/torchscript/model.pt"]
)
def test_every_damage_to_every_file_is_found_and_named(made, path, damage):
    DAMAGE[damage](made / path)
    with pytest.raises(RefusedError) as caught:
        Bundle(made).check()
    assert caught.value.code == "TAMPERED"
    assert caught.value.exit_code == 5
    assert caught.value.subject.startswith(f"made/{path.rsplit('/', 1)[0]}")


def test_two_files_that_changed_places_are_found(made):
    first, second = made / "variants/onnx/model.onnx", made / "variants/torchscript/model.pt"
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    with pytest.raises(RefusedError, match="model"):
        Bundle(made).check()


def test_reports_lie_beside_the_digested_files(made):
    Bundle(made).write_report("verify.json", "{}\n")
    (made / "reports" / "notes.txt").write_text("mine")
    Bundle(made).check()
    assert (made / "reports/verify.json").read_text() == "{}\n"


@pytest.mark.parametrize("name", ["reports", "reports/.verify.json.partial", "reports/verify.json"])
def test_a_link_under_reports_never_leads_a_write_out_of_the_bundle(made, tmp_path, name):
    """Whoever made the bundle may have laid links where deploykit writes."""
    outside = tmp_path / "outside"
    if name == "reports":
        outside.mkdir()
    else:
        outside.write_text("precious")
        (made / "reports").mkdir()
    (made / name).symlink_to(outside)
    with pytest.raises(RefusedError) as caught:
        Bundle(made).check()
    assert caught.value.code == "TAMPERED"
    for write in (
        lambda: Bundle(made).write_report("verify.json", "ours"),
        lambda: Bundle(made).write_report_file("verify.json", made / MANIFEST),
    ):
        with contextlib.suppress(DeploykitError):
            write()
    if name == "reports":
        assert not any(outside.iterdir())
    else:
        assert outside.read_text() == "precious"


def test_a_manifest_that_is_a_link_is_refused(made, tmp_path):
    (made / MANIFEST).rename(tmp_path / "elsewhere.json")
    (made / MANIFEST).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(RefusedError):
        Bundle(made)


def _set(*keys, to):
    def change(data):
        *way, last = keys
        for key in way:
            data = data[key]
        data[last] = to

    return change


def _doubled(key):
    return lambda data: data[key].append(data[key][0])


WRONG = {
    "an unknown schema": _set("schema", to=2),
    "a schema that is text": _set("schema", to="1"),
    "a key too many": _set("extra", to=1),
    "a number as text": _set("source", "parameters", to="83"),
    "a name with a slash": _set("name", to="../x"),
    "a path that climbs": _set("files", 0, "path", to="../../etc/passwd"),
    "a path that climbs in the middle": _set("files", 0, "path", to="variants/../../x"),
    "an absolute path": _set("files", 0, "path", to="/etc/passwd"),
    "a path with a backslash": _set("files", 0, "path", to="a\\b"),
    "a path with a newline": _set("files", 0, "path", to="a\nb"),
    "a hidden path": _set("files", 0, "path", to=".git/config"),
    "a negative size": _set("files", 0, "size", to=-1),
    "a digest that is none": _set("files", 0, "sha256", to="0" * 63),
    "a digest in capitals": _set("files", 0, "sha256", to="A" * 64),
    "a variant twice": _doubled("variants"),
    "a file twice": _doubled("files"),
    "a variant without a digest": _set("variants", 0, "file", to="variants/onnx/other.onnx"),
    "a variant in another's folder": _set("variants", 0, "file", to="variants/torchscript/model.pt"),
    "a variant outside": _set("variants", 0, "file", to="../model.onnx"),
    "a case without a digest": _set("reference", "cases", 0, "file", to="reference/none.safetensors"),
    "a case with a path for a name": _set("reference", "cases", 0, "id", to="../../x"),
    "an unknown status": _set("variants", 0, "status", to="fine"),
    "a runtime that is an import path": _set("variants", 0, "runtime", to="os:system"),
    "no variants at all": lambda data: data.pop("variants"),
}


@pytest.mark.parametrize("change", WRONG)
def test_a_manifest_of_another_form_is_refused(made, change):
    path = made / MANIFEST
    data = json.loads(path.read_text())
    WRONG[change](data)
    path.write_text(json.dumps(data))
    with pytest.raises(RefusedError) as caught:
        Bundle(made)
    assert caught.value.exit_code == 5
    assert "made/manifest.json" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema": 1, "schema": 1}',
        b'{"schema": NaN}',
        b'{"schema": 1' + b"0" * 5000 + b"}",
        b'{"schema": 1} trailing',
        b'"\\ud800"',
    ],
)
def test_a_manifest_that_is_no_manifest_is_refused(made, text):
    (made / MANIFEST).write_bytes(text)
    with pytest.raises(RefusedError) as caught:
        Bundle(made)
    assert len(str(caught.value)) <= 400


def test_a_doubled_key_deep_inside_is_refused(made):
    text = (made / MANIFEST).read_text()
    (made / MANIFEST).write_text(text.replace('"status": "ready",', '"status": "ready", "status": "ready",', 1))
    with pytest.raises(RefusedError, match="twice"):
        Bundle(made)


def test_a_huge_manifest_is_refused_before_it_is_read(made, monkeypatch):
    monkeypatch.setattr(bundles, "MAX_MANIFEST", 100)
    with pytest.raises(RefusedError, match="larger than 100 bytes"):
        Bundle(made)


def test_what_is_no_bundle_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("x")
    for path, code in (
        (tmp_path / "none", "NOT_FOUND"),
        (tmp_path, "NOT_A_BUNDLE"),
        (tmp_path / "file", "NOT_A_BUNDLE"),
    ):
        with pytest.raises(UsageError) as caught:
            Bundle(path)
        assert caught.value.code == code


def test_artifacts_are_found_by_variant(made):
    opened = Bundle(made)
    assert opened.file_of("onnx") == made / "variants/onnx/model.onnx"
    assert opened.bytes_of("onnx") == sum(f.stat().st_size for f in (made / "variants/onnx").iterdir())
    with pytest.raises(UsageError, match="one of onnx, torchscript, broken"):
        opened.file_of("nope")
    with pytest.raises(UsageError, match="was not made: it could not be done"):
        opened.file_of("broken")


def test_a_case_comes_back_as_it_was_stored(made, cases):
    stored = next(case for case in cases if case.id == "batch-2")
    opened = Bundle(made)
    back = opened.case(opened.manifest.reference.cases[0])
    assert (back.id, back.rows, back.gate, back.noise) == (stored.id, stored.rows, stored.gate, stored.noise)
    for name in ("inputs", "expected", "expected64"):
        assert all(np.array_equal(a, getattr(back, name)[n]) for n, a in getattr(stored, name).items())


def test_a_case_file_that_is_no_case_is_refused(made):
    (made / "reference/batch-2.safetensors").write_bytes(b"\x08" + b"\0" * 40)
    opened = Bundle(made)
    with pytest.raises(RefusedError):
        opened.case(opened.manifest.reference.cases[0])


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", [r'"fp32": [\d.e-]+', r'"parameters": \d+'])
def test_no_number_in_a_manifest_may_be_other_than_finite(made, number, place):
    text, changed = re.subn(place, f"{place.split(': ')[0]}: {number}", (made / MANIFEST).read_text(), count=1)
    assert changed
    (made / MANIFEST).write_text(text)
    with pytest.raises(RefusedError):
        Bundle(made)


def test_saving_a_case_where_nothing_can_be_written_is_a_storage_error(cases, tmp_path):
    with pytest.raises(DeploykitError) as caught:
        save_case(cases[0], tmp_path / "no" / "such" / "folder")
    assert caught.value.exit_code in {2, 6}
