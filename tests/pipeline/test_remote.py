"""A running server in the artifact's place: real sockets, real sessions, and the faults that servers have."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

import pytest
from click.testing import CliRunner

from deploykit.bundle import Bundle
from deploykit.cli import app
from deploykit.endpoint import ModelFacts
from deploykit.errors import UsageError, WorkError
from deploykit.pipeline.remote import RemoteRequest, verify_remote
from deploykit.progress import Silent
from deploykit.remote.naming import agreed
from deploykit.report import text
from deploykit.signature import TensorSpec
from tests.fixtures.oip_server import FAULTS, serving


@pytest.fixture(scope="module")
def bundle(cli, tiny_source, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "tiny"
    done = cli("export", tiny_source, "-o", path, "--variants", "onnx,onnx-int8-dynamic")
    assert done.returncode == 0, done.stderr
    return Bundle(path)


@pytest.fixture
def server(bundle):
    """Opens the bundle's model behind a server with one fault."""

    def opened(fault=""):
        return serving(bundle.file_of("onnx"), bundle.manifest.name, bundle.manifest.signature, fault)

    return opened


def asked(bundle, url, **more):
    return verify_remote(RemoteRequest(bundle.path, url, "onnx", **more), Silent())


def checks(report, **wanted):
    every = [check for variant in report.variants for check in variant.checks]
    return [check for check in every if all(getattr(check, key) == value for key, value in wanted.items())]


@pytest.mark.parametrize("wire", ["json", "binary"])
def test_a_sound_server_passes_and_every_kind_of_question_was_asked(bundle, server, wire):
    with server() as there:
        report = asked(bundle, there.url, wire=wire)
        assert there.requests > 40
    assert report.verdict == "pass", report.variants[0].reason
    assert report.variants[0].provider == f"{there.url} fixture 1"
    assert {"wrong-shape", "wrong-rank", "wrong-dtype", "wrong-name", "malformed", "alive", "concurrent"} <= {
        check.id for check in checks(report, verdict="pass")
    }
    skipped = {check.id for check in checks(report, verdict="skipped")}
    assert ("nan-row" in skipped) == (wire == "json"), "NaN travels in bytes, and cannot in JSON"


def test_layouts_are_not_asked_and_everything_else_is(bundle, server):
    with server() as there:
        report = asked(bundle, there.url)
    records = bundle.manifest.reference.cases
    assert {one.id for one in records if not one.layout} <= {check.id for check in checks(report)}
    assert not {one.id for one in records if one.layout} & {check.id for check in checks(report)}


@pytest.mark.parametrize(
    ("fault", "verdict", "code"),
    [
        ("mixes", "fail", "CONCURRENT_ANSWERS"),
        ("lax", "fail", "WRONG_INPUT_ACCEPTED"),
        ("crashes", "warn", "WRONG_INPUT_CRASHES"),
        ("dies", "fail", "WRONG_INPUT_CRASHES"),
        ("rounds", "fail", "VALUE_MISMATCH"),
        ("renames", "warn", "NAMES_BY_POSITION"),
        ("float64", "fail", "DTYPE_MISMATCH"),
        ("surplus", "fail", "SERVER_OUTPUTS"),
    ],
)
def test_each_fault_is_named(bundle, server, fault, verdict, code):
    assert fault in FAULTS
    with server(fault) as there:
        report = asked(bundle, there.url)
    assert checks(report, verdict=verdict, code=code), [(c.id, c.code, c.reason) for c in checks(report)]
    others = {"mixes", "lax", "dies", "rounds", "float64", "surplus"}
    assert report.exit_code == (1 if fault in others else 0), report.variants[0].reason


def test_one_client_alone_does_not_see_that_answers_are_mixed_up(bundle, server):
    with server("mixes") as there:
        report = asked(bundle, there.url, clients=1)
    assert report.verdict == "pass"
    assert checks(report, id="concurrent", verdict="skipped")


def test_a_server_that_tells_nothing_of_itself_is_asked_all_the_same(bundle, server):
    with server("mute") as there:
        report = asked(bundle, there.url)
    assert report.verdict == "pass", report.variants[0].reason


def test_the_budget_is_that_of_the_variant_which_is_served(bundle, server):
    with server() as there:
        report = verify_remote(RemoteRequest(bundle.path, there.url, "onnx-int8-dynamic"), Silent())
    assert checks(report, code="VARIANT_NOT_APPLIED"), "fp32 answers under an int8 budget are too exact"


def test_a_server_that_needs_a_token_gets_it(bundle, server, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    with server("token") as there:
        arguments = ["verify", str(bundle.path), "--url", there.url, "--variants", "onnx", "--quiet"]
        fine = CliRunner().invoke(app.group, [*arguments, "--token-file", str(token)], standalone_mode=False)
        assert fine.return_value == 0, fine.output
        with pytest.raises(WorkError) as raised:
            asked(bundle, there.url)
    assert raised.value.code == "REQUEST_REFUSED"


def test_answers_that_take_too_long_end_it(bundle, server):
    with server("slow") as there, pytest.raises(WorkError) as raised:
        asked(bundle, there.url, timeout_s=0.2)
    assert raised.value.code == "TIME_LIMIT"
    assert there.requests < 10, "it is given up early"


class Notes(Silent):
    """Keeps what is told."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def test_nobody_listens(bundle):
    notes, began = Notes(), time.monotonic()
    with pytest.raises(WorkError) as raised:
        verify_remote(RemoteRequest(bundle.path, "http://127.0.0.1:9", "onnx", wait_s=0.2), notes)
    assert raised.value.code == "SERVER_UNREACHABLE"
    assert raised.value.exit_code == 4
    assert notes.said == ["waiting for http://127.0.0.1:9"]
    assert time.monotonic() - began < 5


def test_how_long_to_wait_is_an_option(bundle):
    began = time.monotonic()
    arguments = ["verify", str(bundle.path), "--url", "http://127.0.0.1:9", "--wait", "0", "--quiet"]
    result = CliRunner().invoke(app.group, arguments, standalone_mode=False)
    assert isinstance(result.exception, WorkError), result.output
    assert result.exception.code == "SERVER_UNREACHABLE"
    assert time.monotonic() - began < 4, "5 s are the default"


def test_a_server_that_answers_a_little_later_is_met(bundle, server):
    with server() as there:
        late = socket.create_server(("127.0.0.1", 0))
        port = late.getsockname()[1]
        late.close()
        threading.Timer(0.7, forward, (port, there.server_port)).start()
        report = asked(bundle, f"http://127.0.0.1:{port}", clients=1)
    assert report.verdict == "pass", report.variants[0].reason


def forward(port, to):
    """Take one connection at `port`, and hand its bytes to and fro."""
    with socket.create_server(("127.0.0.1", port)) as listening:
        near, _ = listening.accept()
    far = socket.create_connection(("127.0.0.1", to))

    def pump(source, sink):
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=pump, args=(far, near))
    back.start()
    pump(near, far)
    back.join()
    near.close()
    far.close()


def test_the_report_says_that_a_server_was_asked_and_shows_no_limit_that_is_none(bundle, server):
    with server("lax") as there:
        page = text.render_verify(asked(bundle, there.url))
    assert f"asked {there.url} fixture 1" in page
    assert "read back" not in page
    assert "≤ -" not in page
    with server("surplus") as there:
        page = text.render_verify(asked(bundle, there.url))
    assert "the server's answer has unknown output surplus" in page
    assert "Export all outputs" not in page


def test_outputs_that_a_server_does_not_declare(bundle):
    declared = (TensorSpec("one", "float32", ()), TensorSpec("two", "float32", ()))
    _, found = agreed(bundle.manifest.signature, ModelFacts("m", outputs=declared))
    assert [(check.code, check.verdict) for check in found] == [
        ("SERVER_OUTPUTS", "fail"), ("SERVER_OUTPUTS", "warn"), ("SERVER_OUTPUTS", "warn"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://a:b@127.0.0.1:1", "http://x:0"]
)
def test_what_is_no_url_is_said_before_anything_is_asked(bundle, url):
    with pytest.raises(UsageError) as raised:
        asked(bundle, url)
    assert raised.value.code == "BAD_URL"


@pytest.mark.parametrize(
    "extra",
    [
        ["--artifact", "x.onnx"],
        ["--self-check"],
        ["--baseline", "x.json"],
        ["--variants", "onnx,torchscript"],
        ["--header", "nonsense"],
    ],
)
def test_options_that_do_not_go_with_a_server(bundle, extra):
    arguments = ["verify", str(bundle.path), "--url", "http://127.0.0.1:9", *extra]
    result = CliRunner().invoke(app.group, arguments, standalone_mode=False)
    assert isinstance(result.exception, UsageError), result.output


def test_options_that_only_a_server_has_need_one(bundle):
    result = CliRunner().invoke(app.group, ["verify", str(bundle.path), "--clients", "3"], standalone_mode=False)
    assert isinstance(result.exception, UsageError)
    assert "--url" in str(result.exception)
