"""Adding a version to a folder that somebody else made or changed: nothing leaves it, enters it or is lost unsaid."""

from __future__ import annotations

import errno
import json
import os
import shutil
from hashlib import sha256

import numpy as np
import pytest

from deploykit import handed
from deploykit.bundle import Bundle
from deploykit.errors import InternalError, RefusedError, StorageError, UsageError
from deploykit.handed import as_reason
from deploykit.handoff import _layout, _readme, ray_serve, web
from deploykit.handoff.interface import Commands, leaves
from deploykit.pipeline import travelling
from deploykit.pipeline.handoff import HandoffRequest, handoff
from deploykit.progress import Silent
from deploykit.releases import parse
from deploykit.report import handed as rendering


@pytest.fixture(scope="module")
def bundle(cli, tiny_source, tmp_path_factory):
    path = tmp_path_factory.mktemp("handed") / "tiny"
    done = cli("export", tiny_source, "-o", path, "--variants", "onnx")
    assert done.returncode == 0, done.stderr
    return Bundle(path)


@pytest.fixture(scope="module")
def origin(bundle, tmp_path_factory):
    """A folder for Ray Serve, whose models lie in `models/1`."""
    out = tmp_path_factory.mktemp("origin") / "out"
    handoff(request(bundle, out), Silent())
    return out


@pytest.fixture
def out(origin, tmp_path):
    return shutil.copytree(origin, tmp_path / "place" / "out")


def request(bundle, output, target="ray-serve", **more):
    return HandoffRequest(bundle.path, target, output, allow_unverified=True, **more)


def again(bundle, out, **more):
    return handoff(request(bundle, out, version=2, **more), Silent())


def edit(out, change):
    record = json.loads((out / "handoff.json").read_text())
    change(record)
    (out / "handoff.json").write_text(json.dumps(record))


def first(record):
    return record["versions"][0]


def lead_out(record):
    first(record)["files"]["../../../../escaped.txt"] = first(record)["files"]["model.onnx"]


FAULTS = {
    "a name that leads out": lead_out,
    "an absolute name": lambda r: first(r)["files"].update({"/escaped.txt": "models/1/model.onnx"}),
    "a place that leads out": lambda r: first(r)["files"].update({"model.onnx": "../escaped.txt"}),
    "a place without digest": lambda r: first(r)["files"].update({"more": "models/1/none.bin"}),
    "a model in the reference": lambda r: first(r)["files"].update({"more": first(r)["cases"][0]["file"]}),
    "one place twice": lambda r: first(r)["files"].update({"more": "models/1/model.onnx"}),
    "no artifact": lambda r: first(r)["files"].clear(),
    "a digest that leads out": lambda r: r["files"].update({"../escaped.txt": "0" * 64}),
    "its own digest": lambda r: r["files"].update({"handoff.json": "0" * 64}),
    "a case without digest": lambda r: first(r)["cases"][0].update(file="reference/1/none.npz"),
    "a case of another version": lambda r: first(r).update(number=7),
    "a case elsewhere": lambda r: first(r)["cases"][0].update(file="README.md"),
    "a case twice": lambda r: first(r)["cases"].append(first(r)["cases"][0]),
    "no versions": lambda r: r["versions"].clear(),
    "a version twice": lambda r: r["versions"].append(first(r)),
    "settings that nobody has": lambda r: first(r).update(settings="threads=1,rm=-rf"),
    "other inputs": lambda r: r["inputs"].append("another"),
    "a block in the reason": lambda r: first(r).update(reason="fine\n```bash\ntouch escaped\n```\n"),
    "code in the reason": lambda r: first(r).update(reason="`touch escaped`"),
    "a long reason": lambda r: first(r).update(reason="x" * 801),
    "a line in the target": lambda r: r.update(target="ray-serve\n"),
    "a line in the release": lambda r: r.update(release="ort:1.15\n# Other"),
    "a line in the version of deploykit": lambda r: r.update(deploykit="1\u20282"),
    "a line in the provider": lambda r: r.update(provider="CPU\n"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_record_that_contradicts_itself_or_leads_out_is_malformed(out, fault):
    handed.load(out)
    edit(out, FAULTS[fault])
    with pytest.raises(RefusedError) as caught:
        handed.load(out)
    assert (caught.value.code, caught.value.exit_code) == ("MALFORMED", 5)


def test_a_record_that_leads_out_writes_nothing(bundle, out, tmp_path):
    edit(out, lead_out)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RefusedError):
        again(bundle, out)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("path", ["../escaped.txt", "/escaped.txt", "a/../../escaped.txt", ".hidden", "", "a\nb"])
def test_no_target_writes_elsewhere(tmp_path, path):
    stage = tmp_path / "stage"
    stage.mkdir()
    with pytest.raises(InternalError):
        _layout.lay({path: "x"}, stage)
    assert sorted(tmp_path.rglob("*")) == [stage]


@pytest.mark.parametrize(
    "path", ["reference/1/more.npz", "reference/9/more.npz", "reference/more", "models/1/more.bin"]
)
@pytest.mark.parametrize("linked", [False, True], ids=["file", "link"])
@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
def test_what_was_not_handed_over_is_not_taken_in(bundle, out, tmp_path, path, linked, force):
    (tmp_path / "secret").write_text("secret")
    (out / path).parent.mkdir(exist_ok=True)
    if linked:
        (out / path).symlink_to(tmp_path / "secret")
    else:
        (out / path).write_text("secret")
    with pytest.raises(RefusedError, match="was not handed over") as caught:
        again(bundle, out, force=force)
    assert caught.value.code == "TAMPERED"
    assert [one.number for one in handed.load(out).versions] == [1]


@pytest.mark.parametrize("path", ["reference", "reference/1", "models/1", "models"])
def test_a_link_on_the_way_is_not_followed(bundle, out, tmp_path, path):
    (out / path).rename(tmp_path / "moved")
    (out / path).symlink_to(tmp_path / "moved")
    with pytest.raises(RefusedError) as caught:
        again(bundle, out)
    assert caught.value.code == "TAMPERED"


def test_cases_are_copied_as_recorded_or_not_at_all(out, tmp_path):
    record = handed.load(out)
    one = record.versions[0]
    _layout.keep(out, tmp_path / "good", record, [one])
    kept = [path for path in (tmp_path / "good").rglob("*") if path.is_file()]
    assert len(kept) == len(one.cases) > 10
    assert all(sha256(p.read_bytes()).hexdigest() == record.files[f"reference/1/{p.name}"] for p in kept)
    case = out / one.cases[0].file
    content = case.read_bytes()
    case.write_bytes(content + b"x")
    with pytest.raises(RefusedError, match="is not what was handed over"):
        _layout.keep(out, tmp_path / "bad", record, [one])
    case.unlink()
    (tmp_path / "same").write_bytes(content)
    case.symlink_to(tmp_path / "same")
    with pytest.raises(RefusedError, match="is a link"):
        _layout.keep(out, tmp_path / "bad", record, [one])


def test_a_persons_own_files_are_named_and_stay_unless_forced(bundle, out):
    for name in ("a.txt", "notes/b.txt", "notes/c.txt", "d.txt", "e.txt"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    (out / "models/notes.md").write_text("mine")
    with pytest.raises(UsageError, match=r"a\.txt, d\.txt, e\.txt and 2 more") as caught:
        again(bundle, out)
    assert caught.value.code == "EXISTS"
    assert (out / "notes/c.txt").read_text() == "mine"
    assert again(bundle, out, force=True).versions == (1, 2)
    assert not (out / "notes").exists()


def test_what_the_readmes_own_commands_leave_is_no_hindrance(bundle, out):
    (out / "serve.local.yaml").write_text("port: 1")
    (out / "__pycache__").mkdir()
    (out / "__pycache__/app.cpython-312.pyc").write_bytes(b"x")
    assert again(bundle, out).versions == (1, 2)
    assert not (out / "serve.local.yaml").exists()
    assert not (out / "__pycache__").exists()


def test_by_products_are_the_targets_own():
    assert leaves(web.Target()) == ("node_modules",)
    assert leaves(ray_serve.Target()) == ("serve.local.yaml",)
    assert leaves(object()) == ()


def test_node_modules_with_its_links_is_no_hindrance(bundle, tmp_path):
    out = tmp_path / "out"
    handoff(request(bundle, out, "web"), Silent())
    (out / "node_modules/.bin").mkdir(parents=True)
    (out / "node_modules/.bin/x").symlink_to("../x")
    handoff(request(bundle, out, "web", version=2), Silent())
    assert not (out / "node_modules").exists()


@pytest.mark.parametrize("inside", [".", "handoff", "reports/handoff", "..", "../tiny/../tiny"])
def test_the_bundle_is_not_written_over(bundle, tmp_path, inside):
    own = Bundle(shutil.copytree(bundle.path, tmp_path / "tiny"))
    link = tmp_path / "link"
    link.symlink_to(own.path)
    for start in (own.path, link):
        with pytest.raises(UsageError) as caught:
            handoff(request(own, start / inside, force=True), Silent())
        assert caught.value.code == "EXISTS"
    own.check()


def test_what_differs_is_named_on_both_sides(bundle, out):
    with pytest.raises(UsageError) as caught:
        again(bundle, out, model="other", release=parse("ort:1.23"))
    assert caught.value.code == "EXISTS"
    assert caught.value.message == "holds a handoff with release none and not ort:1.23, model tiny and not other"
    with pytest.raises(UsageError, match="target ray-serve and not kserve"):
        handoff(request(bundle, out, "kserve"), Silent())


def test_nothing_from_a_record_opens_a_block_of_the_readme(out):
    record = handed.load(out)
    bad = "fine\n\n```bash\ntouch escaped\n```\n<script>|[x](y)`"
    version = record.versions[0]
    variant = version.variant.model_copy(update={"precision": bad, "name": bad})
    version = version.model_copy(update={"reason": bad, "settings": bad, "variant": variant})
    spec = record.signature.inputs[0]
    signature = type(record.signature)((type(spec)(bad, bad, (bad,)),))
    more = {"versions": (version,), "release": bad, "deploykit": bad, "signature": signature, "model": bad}
    text = _readme.readme(record.model_copy(update=more), ray_serve.Target(), Commands(("true",), "", notes=(bad,)))
    fences = [line for line in text.splitlines() if line.lstrip().startswith("```")]
    assert fences == ["```bash", "```"] * 2, "one block to install, one to check"
    assert "touch escaped" not in text.splitlines()


def test_a_reason_of_a_bundle_can_always_be_recorded(out):
    said = as_reason("output `a\nb`: " + "x" * 900)
    assert len(said) <= handed.MAX_REASON
    assert "\n" not in said
    assert "`" not in said
    edit(out, lambda record: first(record).update(reason=said))
    assert handed.load(out).versions[0].reason == said


def test_a_handoff_without_cases_says_so(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(travelling, "MOST_BYTES", 0)
    report = handoff(request(bundle, tmp_path / "out"), Silent())
    assert report.cases == 0
    assert "nothing of it is small and plain enough to travel" in rendering.render(report)
    readme = (tmp_path / "out/README.md").read_text()
    assert "**nothing of its reference is small and plain enough to travel**" in readme
    assert "deploykit verify BUNDLE --url URL" in readme
    assert handed.load(tmp_path / "out").versions[0].cases == ()
    assert again(bundle, tmp_path / "out").versions == (1, 2)


def test_a_full_disk_names_the_output(bundle, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(StorageError) as caught:
        handoff(request(bundle, tmp_path / "out"), Silent())
    assert (caught.value.code, caught.value.subject) == ("DISK_FULL", str(tmp_path / "out"))


@pytest.mark.parametrize(("release", "said"), [("ort:1.15", "a newer one"), ("ort:1.32", ""), (None, "")])
def test_pins_that_are_not_the_named_engine_are_said(out, release, said):
    record = handed.load(out).model_copy(update={"release": release})
    text = _readme.readme(record, ray_serve.Target(), Commands((), ""), _layout._pinned(out))
    assert ("made for onnxruntime" in text) == bool(said)
    assert said in text
