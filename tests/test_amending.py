"""A manifest that is rewritten in place: whole or not at all, trust and files as they were."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from deploykit import publish as publishing
from deploykit.bundle import MANIFEST, Bundle
from deploykit.errors import RefusedError, StorageError
from deploykit.publish import amending, made_here
from deploykit.session import CPU
from deploykit.tuned import TunedRecord

RECORD = TunedRecord(
    goal="latency", provider=CPU, settings="threads=1", batch=1, ratio=0.5, low=0.4, high=0.6, level=0.97, cores=4
)  # fmt: skip


def tuned(bundle, *records):
    """The manifest with settings for its first variant."""
    first, *others = bundle.manifest.variants
    return bundle.manifest.model_copy(update={"variants": (first.model_copy(update={"tuned": records}), *others)})


def amended(path, *records):
    bundle = Bundle(path)
    with amending(bundle) as rewrite:
        return rewrite(tuned(bundle, *records))


def test_what_is_written_is_read_and_the_rest_stays(made):
    before = Bundle(made)
    mode = stat.S_IMODE((made / MANIFEST).stat().st_mode)
    after = amended(made, RECORD)
    assert after.manifest.variants[0].tuned == (RECORD,)
    assert Bundle(made).manifest == after.manifest
    assert after.manifest == tuned(before, RECORD)
    after.check()
    assert made_here(after)
    assert stat.S_IMODE((made / MANIFEST).stat().st_mode) == mode
    assert sorted(path.name for path in (made / "reports").iterdir()) == []
    assert amended(made).manifest == before.manifest  # and back again
    assert (made / MANIFEST).read_text() == before.manifest.to_json()


def test_a_bundle_from_elsewhere_does_not_become_one_made_here(build, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    build(tmp_path / "b")
    shutil.rmtree(tmp_path / "state")
    after = amended(tmp_path / "b", RECORD)
    assert after.manifest.variants[0].tuned == (RECORD,)
    assert not made_here(after)


def test_tampering_is_still_seen(made):
    after = amended(made, RECORD)
    with (made / "variants/onnx/model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(RefusedError, match="bytes"):
        after.check()


@pytest.mark.parametrize("text", ["threads=9999", "threads=1,evil=on"])
def test_settings_edited_by_hand_that_no_session_has_are_refused(made, text):
    amended(made, RECORD)
    document = json.loads((made / MANIFEST).read_text())
    document["variants"][0]["tuned"][0]["settings"] = text
    (made / MANIFEST).write_text(json.dumps(document))
    with pytest.raises(RefusedError, match="no setting of a session"):
        Bundle(made)


def test_settings_twice_for_a_goal_are_refused(made):
    amended(made, RECORD)
    document = json.loads((made / MANIFEST).read_text())
    document["variants"][0]["tuned"] *= 2
    (made / MANIFEST).write_text(json.dumps(document))
    with pytest.raises(RefusedError, match="settings for a goal twice"):
        Bundle(made)


def test_whoever_edits_the_manifest_loses_the_trust(made):
    after = amended(made, RECORD)
    text = (made / MANIFEST).read_text()
    (made / MANIFEST).write_text(text.replace("threads=1", "threads=2"))
    assert made_here(after)
    assert not made_here(Bundle(made))


def test_two_at_once(made):
    with amending(Bundle(made)), pytest.raises(StorageError) as caught, amending(Bundle(made)):
        pass
    assert (caught.value.code, caught.value.exit_code) == ("LOCKED", 6)
    amended(made, RECORD)


def test_an_export_and_a_link_know_the_same_lock(made, build, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(made)
    with amending(Bundle(link)):
        with pytest.raises(StorageError) as caught:
            build(made, force=True)
        assert caught.value.code == "LOCKED"
    assert amended(link, RECORD).path == link
    assert Bundle(made).manifest.variants[0].tuned == (RECORD,)
    assert link.is_symlink()


def test_a_bundle_that_changed_meanwhile_is_left_alone(made):
    bundle = Bundle(made)
    text = (made / MANIFEST).read_text() + "\n"
    with amending(bundle) as rewrite:
        (made / MANIFEST).write_text(text)
        with pytest.raises(StorageError) as caught:
            rewrite(tuned(bundle, RECORD))
    assert caught.value.code == "CHANGED"
    assert (made / MANIFEST).read_text() == text
    assert list((made / "reports").iterdir()) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("place", ["", "reports"])
def test_that_nothing_can_be_written_is_found_out_before_the_work(made, monkeypatch, number, place):
    real = publishing.make_folder

    def refuse(folder):
        if folder == (made / place if place else made):
            raise OSError(number, os.strerror(number))
        real(folder)

    monkeypatch.setattr(publishing, "make_folder", refuse)
    worked = []
    with pytest.raises(StorageError) as caught, amending(Bundle(made)):
        worked.append("never")
    assert (worked, caught.value.exit_code) == ([], 6)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_manifest(made, monkeypatch, step):
    before = (made / MANIFEST).read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(*((os, "fsync", full) if step == "fsync" else (Path, "replace", full)))
    with pytest.raises(StorageError) as caught:
        amended(made, RECORD)
    assert caught.value.code == "DISK_FULL"
    assert (made / MANIFEST).read_bytes() == before
    assert list((made / "reports").iterdir()) == []
    Bundle(made).check()


def test_a_link_as_the_folder_of_reports_is_refused(made, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (made / "reports").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedError, match="is a link"), amending(Bundle(made)):
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_ctrl_c_and_death_while_it_is_held_leave_the_old_manifest_and_no_lock(made):
    before = (made / MANIFEST).read_bytes()
    with pytest.raises(KeyboardInterrupt), amending(Bundle(made)):
        raise KeyboardInterrupt
    program = (
        "import os, sys; from pathlib import Path\n"
        "from deploykit.bundle import Bundle; from deploykit.publish import amending\n"
        "with amending(Bundle(Path(sys.argv[1]))): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(made)], check=False).returncode == 9
    assert (made / MANIFEST).read_bytes() == before
    with FileLock(made.parent / f".{made.name}.lock", timeout=0):
        pass
    amended(made, RECORD)


def test_what_a_death_left_half_written_is_no_part_of_the_bundle(made):
    (made / "reports").mkdir()
    (made / "reports" / f".{MANIFEST}.partial").write_text("half")
    Bundle(made).check()
    assert amended(made, RECORD).manifest.variants[0].tuned == (RECORD,)
    assert list((made / "reports").iterdir()) == []


def test_an_export_over_it_starts_without(made, build):
    amended(made, RECORD)
    build(made, force=True)
    assert all(record.tuned == () for record in Bundle(made).manifest.variants)
