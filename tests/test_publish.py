"""At every moment the path shows the old bundle, the new one, or nothing: tried by failing and dying at every step."""

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit import publish as publishing
from deploykit.bundle import MANIFEST, Bundle
from deploykit.errors import StorageError, UsageError
from deploykit.publish import made_here, publish, staging


def left_over(folder: Path) -> list[str]:
    """What lies beside the bundles: nothing but locks is allowed to."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".") and not path.name.endswith(".lock")]


@pytest.mark.parametrize("ending", [None, RuntimeError, KeyboardInterrupt])
def test_staging_is_beside_the_target_and_gone_afterwards(tmp_path, ending):
    with contextlib.suppress(RuntimeError, KeyboardInterrupt), staging(tmp_path / "new" / "b", force=False) as stage:
        assert stage.parent == tmp_path / "new"
        (stage / "half").write_text("x")
        if ending:
            raise ending
    assert left_over(tmp_path / "new") == []
    assert not (tmp_path / "new" / "b").exists()


def test_what_is_there_stays_unless_forced_and_is_a_bundle(made, tmp_path):
    with pytest.raises(UsageError, match="--force") as caught, staging(made, force=False):
        pass
    assert caught.value.code == "EXISTS"
    file, folder, link = tmp_path / "file", tmp_path / "folder", tmp_path / "link"
    file.write_text("mine")
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    link.symlink_to(made)
    for path in (file, folder, link):
        for force in (False, True):
            with pytest.raises(UsageError, match="no bundle"), staging(path, force=force):
                pass
    assert file.read_text() == (folder / "mine.txt").read_text() == "mine"
    Bundle(link).check()


def test_an_empty_directory_may_become_a_bundle(build, tmp_path):
    target = tmp_path / "empty"
    target.mkdir()
    build(target)
    Bundle(target).check()


@pytest.mark.parametrize("spelling", ["../b", "sub/../b", "./b/", "b/."])
def test_odd_spellings_of_the_target_name_the_same_place(build, tmp_path, monkeypatch, spelling):
    (tmp_path / "here" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    build(Path(spelling))
    build(Path(spelling), b"other", force=True)
    Bundle(Path(spelling)).check()
    assert left_over(tmp_path) == left_over(tmp_path / "here") == []


def test_the_working_directory_is_never_pulled_away(build, made, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UsageError, match="working directory"):
        build(Path())
    monkeypatch.chdir(made / "variants")
    with pytest.raises(UsageError, match="working directory"):
        build(made, force=True)
    Bundle(made).check()


def test_a_second_writer_is_turned_away(build, tmp_path):
    script = "import sys, time, pathlib; from deploykit.publish import staging\n"
    script += "with staging(pathlib.Path(sys.argv[1]), force=False): print('in', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "b")], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(StorageError) as caught:
            build(tmp_path / "b")
        assert (caught.value.code, caught.value.exit_code) == ("LOCKED", 6)
        assert len(left_over(tmp_path)) == 1
        other.kill()
    build(tmp_path / "b")
    Bundle(tmp_path / "b").check()
    assert left_over(tmp_path) == []


def test_only_orphans_of_the_same_target_are_swept(build, tmp_path):
    mine, others = tmp_path / ".a[1].staging-dead", [tmp_path / ".a1.staging-live", tmp_path / ".b.staging-live"]
    for folder in (mine, *others):
        folder.mkdir()
        (folder / "x").write_text("x")
    build(tmp_path / "a[1]")
    assert not mine.exists()
    assert all((folder / "x").exists() for folder in others)
    build(tmp_path / "a*")
    assert all((folder / "x").exists() for folder in others)


def test_a_place_that_cannot_be_written_is_said_as_such(tmp_path):
    (tmp_path / "file").write_text("x")
    for target, codes in (
        (tmp_path / "file" / "b", {2}),
        (tmp_path / "file" / "deep" / "b", {2}),
        (Path("/proc/b"), {6}),
        (Path("/proc/none/b"), {2, 6}),
        (Path("/sys/b"), {6}),
    ):
        with pytest.raises((UsageError, StorageError)) as caught, staging(target, force=False):
            pass
        assert caught.value.exit_code in codes, str(caught.value)
        assert caught.value.code != "LOCKED", str(caught.value)
    assert (tmp_path / "file").read_text() == "x"


def test_force_puts_the_new_bundle_in_the_place_of_the_old_one(build, made):
    Bundle(made).write_report("verify.json", "{}")
    old = Bundle(made).digest
    build(made, b"other weights", force=True)
    assert Bundle(made).digest != old
    Bundle(made).check()
    assert not (made / "reports").exists()
    assert left_over(made.parent) == []


def test_a_file_system_that_cannot_exchange_is_served_by_two_renames(build, made, monkeypatch):
    monkeypatch.setattr(publishing, "_exchange", lambda a, b: False)
    old = Bundle(made).digest
    build(made, b"other weights", force=True)
    Bundle(made).check()
    assert Bundle(made).digest != old
    assert left_over(made.parent) == []


def test_the_bundle_may_be_read_by_others_as_the_umask_says(build, tmp_path):
    before = os.umask(0o027)
    try:
        build(tmp_path / "b", mode=0o600)
    finally:
        os.umask(before)
    modes = {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "b").rglob("*") if path.is_file()}
    assert modes == {"0o640"}
    assert {oct(p.stat().st_mode & 0o777) for p in [tmp_path / "b", tmp_path / "b/variants"]} == {"0o750"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_write_that_fails_at_any_step_leaves_the_old_bundle_and_no_rest(build, made, monkeypatch, number):
    """The n-th sync fails, for every n until one run gets through."""
    old = Bundle(made).digest
    real, calls, fail_at = os.fsync, 0, 0

    def failing(handle):
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", failing)
    for fail_at in range(1, 100):
        calls = 0
        try:
            build(made, b"other weights", force=True)
        except StorageError:
            pass
        else:
            break
        Bundle(made).check()
        assert left_over(made.parent) == []
        if calls < fail_at:
            break
        if Bundle(made).digest != old:
            break  # the swap was done: only the sync of the folder above it was left
    assert fail_at > 8
    assert Bundle(made).digest != old


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from builder import build
from deploykit.bundle import Bundle

target = Path(sys.argv[2])
build(target)
seen, moment = set(), 0
while True:
    moment += 1
    pid = os.fork()
    if pid == 0:
        count = 0
        def hook(event, arguments):
            global count
            if event.split(".")[0] in {"open", "os", "shutil", "tempfile", "fcntl"}:
                count += 1
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        build(target, f"weights {moment}".encode(), force=True)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    bundle = Bundle(target)
    bundle.check()
    seen.add(bundle.digest)
    if os.WIFEXITED(status):
        break
build(target, b"last", force=True)
Bundle(target).check()
rest = [p.name for p in target.parent.iterdir() if p.name.startswith(".") and not p.name.endswith(".lock")]
print(moment, len(seen), rest)
"""


def test_a_kill_at_every_file_operation_leaves_the_old_bundle_or_the_new_one(builder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(builder), str(tmp_path / "b")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    moments, digests, rest = done.stdout.split(maxsplit=2)
    assert int(moments) > 20
    assert int(digests) > 1
    assert rest.strip() == "[]"


def test_only_what_was_published_here_counts_as_made_here(build, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    build(tmp_path / "b")
    assert made_here(Bundle(tmp_path / "b"))
    (tmp_path / "b" / MANIFEST).write_text((tmp_path / "b" / MANIFEST).read_text() + " ")
    assert not made_here(Bundle(tmp_path / "b"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert not made_here(build(tmp_path / "c", remembered=False))


def test_a_home_that_cannot_be_written_is_no_error(build, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert not made_here(build(tmp_path / "b"))
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/proc")
    assert not made_here(build(tmp_path / "c"))


def test_publishing_counts_only_what_is_in_the_stage(build, made, tmp_path):
    manifest = Bundle(made).manifest
    with staging(tmp_path / "n", force=False) as stage:
        (stage / "variants" / "onnx").mkdir(parents=True)
        (stage / "variants/onnx/model.onnx").write_bytes(b"x")
        (stage / "reports").mkdir()
        (stage / "reports" / "old.json").write_text("{}")
        published = publish(
            stage,
            manifest.model_copy(
                update={
                    "variants": manifest.variants[:1],
                    "reference": manifest.reference.model_copy(update={"cases": ()}),
                }
            ),
            tmp_path / "n",
        )
    assert [record.path for record in published.manifest.files] == ["variants/onnx/model.onnx"]
    published.check()
