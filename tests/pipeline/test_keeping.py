"""Where reports go: what is not replaced, what is removed, a bundle that takes none, and two runs at once."""

import json
import os
import subprocess

import pytest

from deploykit import bundle as bundles
from deploykit.benchmark.scenario import Scenario
from deploykit.bundle import Bundle
from deploykit.errors import StorageError
from deploykit.measurements import BenchReport
from deploykit.pipeline.bench import bench
from deploykit.pipeline.keeping import keep, keep_table
from deploykit.pipeline.measuring import BenchRequest
from deploykit.pipeline.report import render
from deploykit.profile_results import Profile
from deploykit.progress import Silent
from deploykit.publish import amending, holding
from deploykit.report import text
from deploykit.session import CPU


def table(name="full", *, quick=False, whole=True, profiles=()):
    return BenchReport("made", {}, {"quick": quick, "whole": whole, "said": name}, (), profiles=profiles)


@pytest.fixture
def put(made, tmp_path):
    """Keep a table in `made`; its readings are its name."""

    def put(report):
        raw = tmp_path / "raw"
        raw.write_text(report.protocol["said"])
        return keep_table(Bundle(made), report, raw).protocol["stored_as"]

    return put


def kept(made):
    """What lies among the reports, with the name of the table each belongs to."""
    found = {}
    for path in sorted((made / "reports").iterdir()):
        content = path.read_text()
        found[path.name] = json.loads(content)["protocol"]["said"] if path.suffix == ".json" else content
    return found


def both(stem, name):
    return {f"{stem}.json": name, f"{stem}.safetensors": name}


def test_a_full_table_is_replaced_by_a_full_one_alone(made, put):
    assert put(table("first")) == "bench.json"
    assert put(table("quick", quick=True)) == "bench-quick.json"
    assert put(table("part", whole=False)) == "bench-part.json"
    lesser = both("bench-quick", "quick") | both("bench-part", "part")
    assert kept(made) == both("bench", "first") | lesser
    assert put(table("second")) == "bench.json"
    assert kept(made) == both("bench", "second")  # what was measured before it is of no more use


def test_a_lesser_table_is_what_the_next_one_replaces(made, put):
    assert put(table("a", quick=True)) == put(table("b", whole=False)) == put(table("c", quick=True)) == "bench.json"
    assert kept(made) == both("bench", "c")


@pytest.mark.parametrize("content", ["", "[]", '{"protocol": 5}', "{}", "[" * 9999])
def test_what_is_no_table_is_replaced(made, put, content):
    (made / "reports").mkdir()
    (made / "reports" / "bench.json").write_text(content)
    assert put(table("part", whole=False)) == "bench.json"


def test_traces_of_an_earlier_table_go_with_it(made, put):
    (made / "reports").mkdir()
    for name in ("onnx", "old"):
        (made / "reports" / f"profile-{name}.json").write_text('{"protocol": {"said": "trace"}}')
    put(table("first", profiles=(Profile("onnx", CPU, 1, trace="reports/profile-onnx.json"),)))
    assert kept(made) == both("bench", "first") | {"profile-onnx.json": "trace"}
    put(table("quick", quick=True))
    assert "profile-onnx.json" in kept(made)  # it belongs to the table that is still there
    put(table("second"))
    assert kept(made) == both("bench", "second")


def test_the_text_says_where_a_lesser_table_went(made, tmp_path):
    raw = tmp_path / "raw"
    raw.touch()
    keep_table(Bundle(made), table(), raw)
    shown = text.render_bench(keep_table(Bundle(made), table(quick=True), raw))
    assert "stored as reports/bench-quick.json: bench.json holds a full table of all variants" in shown
    for form in ("text", "markdown", "html"):
        said = render(made, form).replace("\\", "")
        assert "this is reports/bench.json; later ones are not shown: bench-quick.json" in said
    (made / "reports" / "bench-quick.json").unlink()
    assert "later ones" not in render(made, "text")


@pytest.mark.parametrize("place", ["", "reports"])
def test_a_bundle_that_cannot_be_written_loses_nothing_but_its_reports(made, tmp_path, monkeypatch, place):
    (made / "reports").mkdir()
    real = os.access
    monkeypatch.setattr(bundles.os, "access", lambda path, mode: path != (made / place) and real(path, mode))
    assert not Bundle(made).takes_reports
    report = keep(Bundle(made), "bench-server", table(), tmp_path / "never read")
    report = keep_table(Bundle(made), report, tmp_path / "never read")
    assert list((made / "reports").iterdir()) == []
    assert "nothing was stored: the bundle cannot be written" in text.render_bench(report)
    with holding(Bundle(made)):
        pass


def test_a_read_only_medium(cli, tiny_bundle, tmp_path):
    subprocess.run(["cp", "-r", tiny_bundle, tmp_path / "tiny"], check=True)
    bundle = tmp_path / "tiny"
    subprocess.run(["mount", "--bind", bundle, bundle], check=False, capture_output=True)
    if subprocess.run(["mount", "-o", "remount,bind,ro", bundle], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        given = ("--quick", "--variants", "onnx", "--threads", 1)
        for more in (("--profile",), ("--scenario", "offline", "--seconds", 5)):
            done = cli("bench", bundle, *given, *more, OMP_NUM_THREADS="1")
            assert done.returncode == 0, done.stderr
            assert "nothing was stored: the bundle cannot be written" in done.stdout
    finally:
        subprocess.run(["umount", bundle], check=True)


# two at once

MODES = {
    "table": {},
    "offline": {"scenario": Scenario("offline")},
    "server": {"scenario": Scenario("server")},
    "gate": {"against": "onnx@threads=1"},
    "tune": {"tune": "latency"},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("other", [holding, amending])
def test_two_runs_on_one_bundle_are_refused_before_the_work(made, mode, other):
    with other(Bundle(made)), pytest.raises(StorageError) as caught:
        bench(BenchRequest(made, **MODES[mode]), Silent())
    assert (caught.value.code, caught.value.exit_code) == ("LOCKED", 6)


def test_a_bundle_is_free_again_afterwards(made):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), holding(Bundle(made)):
            raise KeyboardInterrupt
    with amending(Bundle(made)):
        pass
