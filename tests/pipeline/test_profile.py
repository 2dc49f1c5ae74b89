"""What bench asks after its table; the workers of a device are stand-ins, the end-to-end run is real."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploykit.benchmark.plan import Protocol, Subject
from deploykit.errors import WorkError
from deploykit.measurements import BenchRow
from deploykit.pipeline import profile
from deploykit.progress import Silent
from deploykit.session import CPU, CUDA, SessionSettings

OPERATOR = {"name": "gemm", "op_type": "Gemm", "provider": CUDA, "calls": 20, "total_us": 5.0, "share": 1.0,
            "median_us": 0.2}  # fmt: skip
PROFILE = {
    "provider": CUDA, "calls": 20, "wall_us": 10.0, "call_us": 0.4, "total_us": 5.0, "median_us": 0.2,
    "operators": [OPERATOR], "operator_count": 1,
    "nodes": {CUDA: 41, CPU: 2},
}  # fmt: skip
DEVICE = {"events_ns": 7.0, "events_reason": None, "gpu_memory_bytes": 1 << 20, "gpu_memory_reason": None}


class Worker:
    def __init__(self, told, log):
        self.told, self.log = told, log

    def call(self, step, *, timeout_s, **arguments):
        self.log.append((step, arguments["artifact"], arguments["feeds"]))
        answer = self.told[step]
        if isinstance(answer, Exception):
            raise answer
        if "trace" in arguments:
            Path(arguments["trace"]).write_text("{}")
        return answer

    def close(self):
        self.log.append("closed")


@pytest.fixture
def field(tmp_path):
    """A prepared measurement whose workers answer what `told` says."""
    field = SimpleNamespace(
        log=[], told={"profiling:profile": PROFILE, "profiling:on_device": DEVICE}, folder=tmp_path, kept={},
        subjects=SimpleNamespace(batches=(1, 8)), request=SimpleNamespace(protocol=Protocol.short()),
    )  # fmt: skip
    field.bundle = SimpleNamespace(
        takes_reports=True, write_report_file=lambda name, path: field.kept.update({name: path.read_text()})
    )
    field.fresh_worker = lambda: Worker(field.told, field.log)
    return field


def subject(name, provider=CUDA, runtime="onnxruntime"):
    feeds = {batch: Path(f"feeds-{batch}") for batch in (1, 8)}
    return Subject(name, runtime, Path(name), SessionSettings(provider), ("x",), ("y",), feeds)


def row(name, batch=1, verdict="measured", provider=CUDA):
    return BenchRow(name, provider, batch, 1, verdict)


def test_every_measured_subject_is_profiled_in_a_worker_of_its_own(field):
    subjects = [subject("onnx"), subject("lost"), subject("onnx@device_graph=on"), subject("a/b c")]
    rows = [row(one.name, verdict="not_measured" if one.name == "lost" else "not_steady") for one in subjects]
    found = profile.profiles(field, subjects, rows, Silent())
    assert [one.name for one in found] == ["onnx", "onnx@device_graph=on", "a/b c"]
    assert field.log == [
        entry for one in found for entry in (("profiling:profile", str(Path(one.name)), "feeds-1"), "closed")
    ]
    assert set(field.kept) == {"profile-onnx.json", "profile-onnx@device_graph=on.json", "profile-a-b-c.json"}
    first = found[0]
    assert (first.covered, first.calls, first.trace) == (0.5, 20, "reports/profile-onnx.json")
    assert first.operators[0].op_type == "Gemm"


def test_a_profile_that_fails_is_told_and_the_others_go_on(field):
    field.told["profiling:profile"] = WorkError("toy", "has no profiler", "hint", "NO_PROFILER")
    found = profile.profiles(field, [subject("a"), subject("b")], [row("a"), row("b")], Silent())
    assert [one.reason for one in found] == ["NO_PROFILER: has no profiler"] * 2
    assert field.kept == {}
    assert field.log.count("closed") == 2


def test_rows_of_a_device_learn_its_memory_events_and_nodes(field):
    subjects = [subject("onnx"), subject("eager", runtime="eager"), subject("host", CPU)]
    rows = [row(one.name, batch, provider=one.settings.provider) for one in subjects for batch in (1, 8)]
    found = profile.told_by_devices(field, subjects, rows, [], Silent())
    told = {(one.name, one.batch): one for one in found}
    for name, nodes in (("onnx", {CUDA: 41, CPU: 2}), ("eager", {})):
        for batch in (1, 8):
            assert told[name, batch].nodes == nodes
            assert (told[name, batch].gpu_memory_bytes, told[name, batch].events_ns) == (1 << 20, 7.0)
    assert found[4:] == rows[4:]
    assert field.kept == {}, "counting nodes leaves no trace"
    asked = [entry[0] for entry in field.log if entry != "closed"]
    assert asked == ["profiling:profile", *["profiling:on_device"] * 4]


def test_nodes_of_a_profile_are_not_counted_again(field):
    taken = profile.profiles(field, [subject("onnx")], [row("onnx")], Silent())
    field.log.clear()
    (found,) = profile.told_by_devices(field, [subject("onnx")], [row("onnx")], taken, Silent())
    assert found.nodes == {CUDA: 41, CPU: 2}
    assert ("profiling:profile", "onnx", "feeds-1") not in field.log


def test_a_device_that_does_not_answer_is_a_reason_and_no_number(field):
    field.told["profiling:on_device"] = WorkError("w", "the worker died", "hint", "WORKER_CRASHED")
    (found,) = profile.told_by_devices(field, [subject("onnx")], [row("onnx")], [], Silent())
    assert found.gpu_memory_bytes is found.events_ns is None
    assert found.gpu_memory_reason == found.events_ns_reason == "WORKER_CRASHED: the worker died"


def test_the_host_alone_asks_nothing(field):
    rows = [row("onnx", provider=CPU)]
    assert profile.told_by_devices(field, [subject("onnx", CPU)], rows, [], Silent()) == rows
    assert field.log == []


@pytest.mark.parametrize(
    "options",
    [
        ("--profile", "--scenario", "offline"),
        ("--profile", "--tune", "latency"),
        ("--compile", "--against", "onnx"),
        ("--profile", "--against", "onnx"),
    ],
)
def test_what_has_no_table_takes_no_profile(cli, made, options):
    done = cli("bench", made, *options)
    assert done.returncode == 2, done.stderr
    assert f"{options[0]}" in done.stderr
    assert "does not go with" in done.stderr


def test_bench_profile_end_to_end(cli, tiny_bundle, tmp_path):
    bundle = tmp_path / "tiny"
    shutil.copytree(tiny_bundle, bundle)
    done = cli("bench", bundle, "--quick", "--profile", "--variants", "onnx", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    profiles = {one["name"]: one for one in found["profiles"]}
    assert "onnx" in profiles
    assert profiles["onnx"]["reason"] == ""
    assert 0 < profiles["onnx"]["covered"] <= 1
    assert profiles["onnx"]["nodes"] == {CPU: profiles["onnx"]["operator_count"]}
    trace = json.loads((bundle / profiles["onnx"]["trace"]).read_text())
    assert len([e for e in trace["traceEvents"] if e["name"] == "model_run"]) >= profiles["onnx"]["calls"]
    assert str(tmp_path) not in (bundle / profiles["onnx"]["trace"]).read_text()
    assert "where the time goes" in done.stdout
    assert "opens in ui.perfetto.dev" in done.stdout
    assert [one["nodes"] for one in found["variants"]] == [{}] * len(found["variants"]), "the CPU alone shows none"
    assert found["protocol"]["torch-compile"].startswith("not asked for")
    assert cli("inspect", bundle).returncode == 0
