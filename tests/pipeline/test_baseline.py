"""Baselines on disk: written whole, refused when they are something else, compared after the gate. Without torch."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from deploykit.bundle import MANIFEST, Bundle
from deploykit.environment import fingerprint
from deploykit.errors import RefusedError, StorageError, UsageError
from deploykit.pipeline import baseline as joined
from deploykit.pipeline.baseline import prepare
from deploykit.pipeline.verify import VerifyRequest
from deploykit.results import Check, VariantReport, VerifyReport


def report(value=1.0, verdict="pass", code=0):
    check = Check("batch-2", "shapes", "output", "pass", "", "R", value, 8.0, "")
    variants = (VariantReport("onnx", "pass", "CPUExecutionProvider", (check,)),)
    return VerifyReport("made", verdict, code, fingerprint(), variants)


@pytest.fixture
def stored(build, cases, tmp_path):
    """A bundle whose one case is a judged one, and its baseline."""
    case = next(case for case in cases if case.id == "uniform")
    build(tmp_path / "made", case=replace(case, id="batch-2"))
    path = tmp_path / "baseline.json"
    prepare(VerifyRequest(tmp_path / "made"), path, update=True)(report())
    return tmp_path / "made", path


def compare(bundle, path, now, **request):
    return prepare(VerifyRequest(bundle, **request), path, update=False)(now)


def test_an_update_writes_the_file_and_the_next_run_compares(stored):
    bundle, path = stored
    data = json.loads(path.read_text())
    assert (data["schema"], data["model"], data["source"]) == (1, "made", "0" * 64)
    assert data["packages"] == fingerprint()["packages"]
    assert data["made_with"] == {"numpy": "2"}
    assert len(data["reference"]) == 1
    same = compare(bundle, path, report())
    assert (same.verdict, same.exit_code, same.baseline.drifts) == ("pass", 0, ())
    worse = compare(bundle, path, report(5.0))
    assert (worse.verdict, worse.exit_code, worse.baseline.code) == ("fail", 1, "BASELINE_DRIFT")
    assert worse.variants == report().variants[:0] + worse.variants


def test_the_graver_of_both_verdicts_counts(stored):
    bundle, path = stored
    assert compare(bundle, path, report(5.0, "error", 4)).exit_code == 4
    assert compare(bundle, path, report(5.0, "error", 4)).verdict == "error"
    assert compare(bundle, path, report(5.0, "inconclusive", 3)).verdict == "fail"
    assert compare(bundle, path, report(1.0, "inconclusive", 3)).verdict == "inconclusive"


@pytest.mark.parametrize(("verdict", "code"), [("fail", 1), ("error", 4), ("refused", 5)])
def test_what_was_not_well_does_not_become_the_baseline(stored, verdict, code):
    bundle, path = stored
    before = path.read_bytes()
    told = prepare(VerifyRequest(bundle), path, update=True)(report(9.0, verdict, code))
    assert path.read_bytes() == before
    assert (told.verdict, told.exit_code, told.baseline.verdict) == (verdict, code, "skipped")
    assert f"verify says {verdict}" in told.baseline.reason


def test_other_weights_are_said_before_anything_runs(stored):
    bundle, path = stored
    data = json.loads((bundle / MANIFEST).read_text())
    data["source"]["digest"] = "1" * 64
    (bundle / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(UsageError, match="other weights") as caught:
        prepare(VerifyRequest(bundle), path, update=False)
    assert caught.value.code == "BASELINE_OTHER_MODEL"
    assert "--update-baseline" in caught.value.hint
    prepare(VerifyRequest(bundle), path, update=True)(report())
    assert compare(bundle, path, report()).exit_code == 0


def test_a_baseline_is_about_the_variants_of_the_bundle(stored):
    bundle, path = stored
    for update in (False, True):
        with pytest.raises(UsageError, match="--artifact"):
            prepare(VerifyRequest(bundle, artifact=Path("x.onnx")), path, update=update)
    with pytest.raises(UsageError, match="keeps all variants"):
        prepare(VerifyRequest(bundle, variants=("onnx",)), path, update=True)
    assert compare(bundle, path, report(), variants=("onnx",)).exit_code == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{}",
        b'{"schema": 1}',
        b'{"schema": 9}',
        b"[" * 100_000,
        b'{"schema": 1, "schema": 1}',
        b"null",
    ],
    ids=range(8),
)
def test_a_malformed_baseline_is_refused_in_one_line(stored, content):
    bundle, path = stored
    path.write_bytes(content)
    with pytest.raises(RefusedError) as caught:
        prepare(VerifyRequest(bundle), path, update=False)
    line = str(caught.value)
    assert line.isprintable()
    assert line.startswith("error[MALFORMED]: ")
    assert len(line) <= 400
    assert "--update-baseline" in line


def test_one_that_is_far_too_long_is_not_read_whole(stored, monkeypatch):
    bundle, path = stored
    monkeypatch.setattr(joined, "MAX_BASELINE", 100)
    with pytest.raises(RefusedError, match="larger than 100 bytes"):
        prepare(VerifyRequest(bundle), path, update=False)


def test_a_missing_one_says_how_to_make_it(stored, tmp_path):
    with pytest.raises(UsageError, match="no such baseline") as caught:
        prepare(VerifyRequest(stored[0]), tmp_path / "nowhere.json", update=False)
    assert "--update-baseline" in caught.value.hint


@pytest.mark.parametrize(
    ("place", "kind"), [(".", UsageError), ("nowhere/b.json", UsageError), ("/proc/b", UsageError)]
)
def test_a_place_that_takes_no_file_is_found_before_the_work(stored, tmp_path, place, kind):
    with pytest.raises((kind, StorageError)):
        prepare(VerifyRequest(stored[0]), tmp_path / place, update=True)


def test_a_disk_that_fills_up_leaves_the_old_baseline(stored, monkeypatch):
    bundle, path = stored
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    after = prepare(VerifyRequest(bundle), path, update=True)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="DISK_FULL"):
        after(report())
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir() if "partial" in p.name] == []


def test_the_file_can_be_read_by_others(stored):
    mask = os.umask(0)
    os.umask(mask)
    assert stored[1].stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_same_answers_give_the_same_bytes(stored):
    bundle, path = stored
    before = path.read_bytes()
    prepare(VerifyRequest(Bundle(bundle).path), path, update=True)(report())
    assert path.read_bytes() == before


def test_a_link_to_a_baseline_stays_one(stored, tmp_path):
    bundle, path = stored
    real, before = tmp_path / "real.json", path.read_bytes()
    path.rename(real)
    path.symlink_to(real)
    prepare(VerifyRequest(bundle), path, update=True)(report(2.0))
    assert path.is_symlink()
    assert real.read_bytes() != before
    assert compare(bundle, path, report(2.0)).exit_code == 0
