"""`bench --quick` forks its workers from processes that have imported the engines; nothing else does."""

import shutil
from pathlib import Path

import pytest

from deploykit.benchmark.scenario import Scenario
from deploykit.forks import POSSIBLE
from deploykit.pipeline import measuring
from deploykit.pipeline.bench import BenchRequest, bench
from deploykit.progress import Silent
from deploykit.report import text
from deploykit.session import CUDA

VARIANTS = ("torchscript", "onnx")


@pytest.mark.skipif(not POSSIBLE, reason="forks are for Linux")
def test_a_quick_table_says_that_its_workers_were_forks(tiny_bundle, tmp_path):
    copy = shutil.copytree(tiny_bundle, tmp_path / "tiny")
    report = bench(BenchRequest(copy, VARIANTS, quick=True, threads=1, trust_code=True), Silent())
    assert report.exit_code == 0
    assert report.protocol["launches"] == 3
    assert report.protocol["forked"] is True
    assert report.protocol["not_forked"] == {}
    rows = {row.name: row for row in report.variants}
    assert {row.verdict for row in rows.values()} <= {"measured", "not_steady"}
    # the import of its own engine is in both numbers, and of no other
    assert rows["torchscript"].load_ms > 500 > rows["onnx"].load_ms > 10
    assert rows["torchscript"].peak_rss_bytes > 2.5 * rows["onnx"].peak_rss_bytes > 80e6
    lines = text.render_bench(report).splitlines()
    assert any(line.startswith("workers are forks of one process") for line in lines)


@pytest.mark.parametrize(
    "request_",
    [
        BenchRequest(Path("a")),
        BenchRequest(Path("a"), quick=True, scenario=Scenario("offline")),
        BenchRequest(Path("a"), quick=True, scenario=Scenario("server")),
        BenchRequest(Path("a"), quick=True, against="b"),
        BenchRequest(Path("a"), quick=True, tune="latency"),
        BenchRequest(Path("a"), quick=True, provider=CUDA),
    ],
    ids=["full", "offline", "server", "gate", "tune", "device"],
)
def test_everything_else_has_launches_of_its_own(request_):
    assert not request_.is_quick_table


def test_a_full_run_starts_no_template(tiny_bundle, monkeypatch):
    verified = measuring.verify(measuring.VerifyRequest(tiny_bundle, ("onnx",)), Silent())
    monkeypatch.setattr(measuring, "Templates", None)  # any use of it would fail
    with measuring.prepared(BenchRequest(tiny_bundle, ("onnx",)), Silent(), verified) as field:
        assert field.templates is None
