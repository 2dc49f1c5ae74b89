"""The figures of the embedded server: a real one, and what is printed of a report."""

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from deploykit.bundle import Bundle
from deploykit.endpoint import connect
from deploykit.measurements import BenchReport, BenchRow, Comparison, LatencyPercentile, Load
from deploykit.results import to_data


@pytest.fixture
def serving():
    import serving as script

    return script


@pytest.fixture(scope="module")
def bundle(tiny_bundle, cli, tmp_path_factory):
    path = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("figures") / "tiny"))
    assert cli("verify", path, "--quiet").returncode == 0
    return path


def answers(url, name):
    with closing(connect(url, name)) as endpoint:
        return endpoint.ready(0)


def test_a_server_answers_and_is_gone_afterwards(serving, bundle):
    name = Bundle(bundle).manifest.name
    with serving.served(bundle) as (url, started, ready):
        assert answers(url, name)
        assert 0 < ready - started < 60
    assert not answers(url, name)
    with pytest.raises(RuntimeError), serving.served(bundle) as (url, _, _):
        raise RuntimeError
    assert not answers(url, name)


def test_a_server_that_does_not_start_is_told(serving, tiny_bundle):
    with pytest.raises(SystemExit, match="ended with 2"), serving.served(tiny_bundle / "no such"):
        pass


def test_starts_are_of_fresh_processes(serving, bundle, monkeypatch):
    monkeypatch.setattr(serving, "STARTS", 2)
    found = serving.starts(bundle)
    assert {len(values) for values in found.values()} == {2}
    for bare, ready, answer in zip(*found.values(), strict=True):
        assert bare < ready < answer


def table(median_ns, added_ns):
    row = BenchRow("onnx over http", "there", 1, None, "measured", median_ns=median_ns, p99_ns=1e6,
                   throughput_per_s=2000.0, clients=1)  # fmt: skip
    ratio = Comparison("onnx", row.name, 1, 31.4, (30.0, 33.0), 0.979, "slower", added_ns, (2.9e5, 3.2e5))
    return to_data(BenchReport("mlp", {}, {}, (row,), (ratio,)))


def test_what_is_printed(serving, capsys):
    load = Load("onnx over http, 8 clients", "there", 1, None, "met", slo="p99 ≤ 10 ms", rate_per_s=1234.0,
                latency=(LatencyPercentile("p99", 8.5e6),), clients=8)  # fmt: skip
    none = Load("onnx", "here", 1, 2, "inconclusive", "why", slo="p99 ≤ 10 ms")
    capacity = to_data(BenchReport("mlp", {}, {}, (), loads=(none, load)))
    stored = {"starts": {"ready": [0.5, 0.9, 0.7]}, "binary": table(3.2e5, 3.05e5), "json": table(9e5, 8.8e5)}
    serving.shown(json.loads(json.dumps({**stored, "capacity": capacity})))
    said = capsys.readouterr().out
    assert "0.700 s  [0.500, 0.900], 3 fresh processes" in said
    assert "binary the server adds 305.0 µs [290.0, 320.0] at 98%, ratio 31.4" in said
    assert "1,234 requests per second with p99 ≤ 10 ms (p99 8.50 ms; met)" in said
    assert "no capacity found with p99 ≤ 10 ms (p99 -; inconclusive) why" in said
