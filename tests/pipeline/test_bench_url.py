"""A running server is timed: real sockets, real worker processes, real onnxruntime on either side."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner

from deploykit.benchmark.gate import Rules
from deploykit.benchmark.objective import Objective
from deploykit.benchmark.scenario import Scenario
from deploykit.bundle import Bundle
from deploykit.cli import app
from deploykit.errors import UsageError, WorkError
from deploykit.measurements import BenchReport
from deploykit.pipeline import bench_url
from deploykit.pipeline import report as stored_reports
from deploykit.pipeline.measuring import BenchRequest
from deploykit.pipeline.remote import RemoteRequest
from deploykit.progress import Silent
from deploykit.recommend.choose import Wish
from deploykit.report import html, markdown, text
from deploykit.results import from_data, to_json
from tests.fixtures import oip_server

SCHEMA = Path(bench_url.__file__).parents[1] / "schemas" / "bench.json"


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return Bundle(Path(shutil.copytree(tiny_bundle, tmp_path / "tiny")))


@pytest.fixture
def server(bundle):
    """Opens the bundle's model behind a server with one fault."""

    def opened(fault=""):
        return oip_server.serving(bundle.file_of("onnx"), bundle.manifest.name, bundle.manifest.signature, fault)

    return opened


def request(bundle, **more):
    return BenchRequest(bundle.path, quick=True, threads=1, session="spinning=off", **more)


def measured(bundle, url, clients=(), ask=None, **more):
    remote = RemoteRequest(bundle.path, url, "onnx", **more)
    return bench_url.bench_served(ask or request(bundle), remote, clients, Silent())


def stored(bundle, name):
    return json.loads((bundle.path / "reports" / name).read_text())


def test_a_server_next_to_the_same_variant_in_process(bundle, server):
    with server("token") as there:
        report = measured(bundle, there.url, (1, 3), headers={"Authorization": "Bearer secret"})
    rows = {row.name: row for row in report.variants}
    assert list(rows) == ["onnx", "onnx over http", "onnx over http, 3 clients"]
    assert [row.clients for row in report.variants] == [0, 1, 3]
    assert report.exit_code == 0
    here, alone, many = report.variants
    assert here.settings == "threads=1,spinning=off"
    assert here.peak_rss_bytes
    assert (here.throughput_ci, alone.settings, alone.threads) == (None, "", None)
    for row in (alone, many):
        assert row.verdict in {"measured", "not_steady"}
        assert row.median_ns > here.median_ns
        assert row.median_ci_ns
        assert row.throughput_ci[0] <= row.throughput_per_s <= row.throughput_ci[1]
        assert (row.load_ms, row.peak_rss_bytes, row.file_bytes) == (None, None, None)
        assert row.provider == f"{there.url} fixture 1"
    by_name = {one.candidate: one for one in report.comparisons}
    assert set(by_name) == {alone.name, many.name}
    one = by_name[alone.name]
    assert (one.base, one.verdict) == ("onnx", "slower")
    assert one.added_ci_ns[0] <= one.added_ns <= one.added_ci_ns[1]
    assert one.added_ns == pytest.approx(alone.median_ns - here.median_ns, rel=0.5)
    assert report.protocol["server"] == {"name": "fixture", "version": "1", "wire": "binary"}
    assert there.requests > alone.calls + many.calls
    jsonschema.validate(json.loads(to_json(report)), json.loads(SCHEMA.read_text()))
    document = stored(bundle, "bench-url.json")
    assert from_data(BenchReport, document) == report
    assert not (bundle.path / "reports" / "bench.json").exists()
    written = b"".join(path.read_bytes() for path in (bundle.path / "reports").iterdir())
    assert b"secret" not in written
    _every_form_says_it(report, there.url)
    shown = stored_reports.render(bundle.path, "text")
    assert f"latency of tiny served at {there.url}, host to host" in shown


def _every_form_says_it(report, url):
    for shown in (text.render_bench(report), markdown.render_bench(report), html.render("tiny", None, report)):
        flat = " ".join(shown.split())
        assert f"served at {url}" in flat.replace("\\", "")
        assert "the server adds" in flat
        assert "requests per second" in flat
        assert "of all clients together" in flat


def test_requests_at_their_own_times(bundle, server):
    scenario = Scenario("server", 100.0, Objective("p50", 1e9), 8.0)
    with server() as there:
        report = measured(bundle, there.url, (), request(bundle, scenario=scenario), wire="json")
        assert there.requests > 100
    here, over = report.loads
    assert [(one.name, one.clients) for one in report.loads] == [("onnx", 0), ("onnx over http, 8 clients", 8)]
    assert (over.verdict, report.exit_code) == ("met", 0)
    assert (over.md1_wait_ns, over.closed_loop_per_s) == (None, None)
    assert here.md1_wait_ns is not None
    assert over.utilization == pytest.approx(100 * over.service_ns / 1e9 / 8)
    assert report.protocol["server"]["wire"] == "json"
    jsonschema.validate(json.loads(to_json(report)), json.loads(SCHEMA.read_text()))
    assert from_data(BenchReport, stored(bundle, "bench-url-server.json")) == report
    assert f"served at {there.url} under load" in text.render_bench(report)
    assert f"served at {there.url}" in stored_reports.render(bundle.path, "html")


def test_a_server_that_cannot_keep_it_fails_and_the_session_beside_it_does_not_count(bundle, server):
    scenario = Scenario("server", 60.0, Objective("p50", 1e6), 8.0)
    with server() as there:
        answer, turn = there.answer, threading.Lock()

        def slowly(feeds):
            with turn:
                threading.Event().wait(0.05)
                return answer(feeds)

        there.answer = slowly
        report = measured(bundle, there.url, (4,), request(bundle, scenario=scenario))
    over = report.loads[1]
    assert over.verdict == "missed"
    assert 50e6 < over.single_ns < 130e6, "a request alone, and not one among those of four clients"
    assert over.overloaded, "60 requests a second of 50 ms, one at a time"
    assert report.exit_code == 1


@pytest.mark.parametrize("kind", ["single-stream", "server"])
def test_a_server_that_goes_away_in_the_middle_leaves_one_line_and_no_report(bundle, server, kind):
    scenario = Scenario(kind, 100.0 if kind == "server" else None, None, 20.0)
    with server() as there:
        answer = there.answer

        def mortal(feeds):
            there.dead = there.requests > 60
            return answer(feeds)

        there.answer = mortal
        with pytest.raises(WorkError) as raised:
            measured(bundle, there.url, (2,), request(bundle, scenario=scenario))
        assert there.dead
    assert (raised.value.code, raised.value.exit_code) == ("SERVER_UNREACHABLE", 4)
    assert not list((bundle.path / "reports").glob("bench*"))


@pytest.mark.parametrize("kind", ["single-stream", "server"])
def test_what_answers_wrongly_is_not_timed(bundle, server, kind):
    scenario = Scenario(kind, 100.0 if kind == "server" else None, None, 20.0)
    with server("rounds") as there:
        report = measured(bundle, there.url, (2,), request(bundle, scenario=scenario))
        assert there.requests == 1
    found = (report.variants or report.loads)[1]
    assert found.verdict == "not_measured"
    assert found.reason.startswith("PARITY: ")
    assert report.exit_code == 1
    assert "not measured: PARITY" in text.render_bench(report)


def test_names_of_the_servers_own_are_understood(bundle, server):
    with server("renames") as there:
        connection, facts = bench_url.connected(bundle, RemoteRequest(bundle.path, there.url, "onnx"), Silent())
        assert connection.naming.inputs == {"x": "THEIR_x"}
        assert facts.name == "fixture"
        case = bundle.case(bundle.manifest.reference.cases[0])
        session = connection.open()
        assert set(session.run(case.inputs)) == set(case.expected)
        session.prepare(case.inputs)()
        session.close()


def test_what_a_server_has_no_use_for(bundle):
    plain = BenchRequest(bundle.path)
    for wrong in (
        replace(plain, against="old", rules=Rules()),
        replace(plain, tune="latency"),
        replace(plain, profile=True),
        replace(plain, compiled=True),
        replace(plain, scenario=Scenario("offline")),
        replace(plain, wish=Wish("size")),
    ):
        with pytest.raises(UsageError) as raised:
            bench_url.check(wrong, ())
        assert "--url" in raised.value.message
    bench_url.check(plain, (1, 4))
    for clients, kind in (((0,), "single-stream"), ((1, 2), "server")):
        with pytest.raises(UsageError) as raised:
            bench_url.check(replace(plain, scenario=Scenario(kind)), clients)
        assert raised.value.code == "BAD_CLIENTS"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--url", "http://127.0.0.1:9", "--clients", "0"], "BAD_CLIENTS"),
        (["--url", "http://127.0.0.1:9", "--clients", "1,,2"], "BAD_CLIENTS"),
        (["--url", "http://127.0.0.1:9", "--clients", "1,x"], "BAD_CLIENTS"),
        (["--url", "http://127.0.0.1:9", "--clients", "257"], "BAD_CLIENTS"),
        (["--url", "http://127.0.0.1:9", "--against", "old"], "BAD_SCENARIO"),
        (["--url", "http://127.0.0.1:9", "--tune"], "BAD_SCENARIO"),
        (["--url", "http://127.0.0.1:9", "--variants", "onnx,torchscript"], "USAGE"),
        (["--url", "127.0.0.1:9"], "BAD_URL"),
        (["--clients", "4"], "USAGE"),
        (["--wire", "json"], "USAGE"),
    ],
)
def test_nonsense_on_the_command_line(tiny_bundle, arguments, code):
    result = CliRunner().invoke(app.group, ["bench", str(tiny_bundle), "--quiet", *arguments], standalone_mode=False)
    assert isinstance(result.exception, UsageError), result.output
    assert result.exception.code == code


def test_nobody_listens(tiny_bundle):
    with pytest.raises(WorkError) as raised:
        measured(Bundle(tiny_bundle), "http://127.0.0.1:9", ready_s=0.1)
    assert raised.value.code == "SERVER_UNREACHABLE"


@pytest.mark.parametrize("secret", ["two\nlines", "nonsense\x07", "größer"])
def test_a_token_that_no_header_can_carry_is_not_shown(tiny_bundle, tmp_path, secret):
    (tmp_path / "token").write_text(secret)
    arguments = ["bench", str(tiny_bundle), "--url", "http://127.0.0.1:9", "--token-file", str(tmp_path / "token")]
    result = CliRunner().invoke(app.group, arguments, standalone_mode=False)
    assert isinstance(result.exception, UsageError)
    assert result.exception.code == "BAD_HEADER"
    assert secret not in str(result.exception)
