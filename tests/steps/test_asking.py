"""A real server on a real socket, asked by the steps as a worker asks it."""

import gc
import stat
import sys
import threading
import time

import numpy as np
import pytest

from deploykit import registry
from deploykit.benchmark.open_loop import poisson
from deploykit.bundle import Bundle
from deploykit.errors import InternalError, WorkError
from deploykit.reference import load_arrays, save_arrays
from deploykit.remote.naming import Naming
from deploykit.remote.session import Connection
from deploykit.steps import asking, measure, serving
from tests.fixtures import oip_server

MS = 1_000_000
SLOW_S = 0.02


@pytest.fixture(scope="module")
def bundle(tiny_bundle):
    return Bundle(tiny_bundle)


@pytest.fixture
def server(bundle):
    with oip_server.serving(bundle.file_of("onnx"), bundle.manifest.name, bundle.manifest.signature) as there:
        yield there


@pytest.fixture
def opened(bundle, server, tmp_path, monkeypatch):
    """Opens clients of the server in this process, warm at batch 2; slow ones compute for `SLOW_S`, all at once."""
    monkeypatch.setattr(measure, "_opened", None)
    monkeypatch.setattr(asking, "_asking", None)
    made = []

    def start(clients, *, slow=False, **more):
        manifest = bundle.manifest
        names = Naming({}, {})
        given = {"headers": {"x-secret": "s3cret"}, **more}
        found = Connection(
            server.url, manifest.name, "", "binary", 10.0, manifest.signature.outputs, names, "here 1", **given
        )
        artifact = tmp_path / f"connection-{len(made)}.json"
        found.save(artifact)
        made.append(artifact)
        example = bundle.case(manifest.reference.cases[0]).inputs["x"]
        feeds = tmp_path / "feeds"
        save_arrays({f"{index}/x": np.resize(example, (2, 6)) + index for index in range(4)}, feeds)
        facts = asking.open(
            runtime="", artifact=str(artifact), input_names=["x"], output_names=["y"], settings={}, feeds=str(feeds),
            clients=clients,
        )  # fmt: skip
        if slow:
            answer = server.answer
            monkeypatch.setattr(server, "answer", lambda feeds: (time.sleep(SLOW_S), answer(feeds))[1])
        measure.warm_up(2, str(feeds), MS, 100 * MS)
        return facts, artifact

    yield start
    if asking._asking is not None:
        for session in asking._asking.sessions:
            session.close()


def test_the_server_is_the_session_of_the_process(opened, bundle, server, tmp_path):
    facts, _ = opened(1)
    assert (facts["provider"], facts["threads"]) == ("here 1", None)
    assert facts["first_call_ms"] > 0
    case = bundle.manifest.reference.cases[0]
    names = measure.check(str(bundle.path / case.file), str(tmp_path / "answer"))
    assert names == [spec.name for spec in bundle.manifest.signature.outputs]
    expected = bundle.case(case).expected[names[0]]
    np.testing.assert_allclose(load_arrays(tmp_path / "answer")[names[0]], expected, rtol=1e-5, atol=1e-6)
    before = server.requests
    found = measure.block(2, 10 * MS, 500 * MS, 5, 0)
    assert server.requests >= before + len(found["ns"]) >= before + 5
    assert found["phases"] == []


def test_clients_ask_at_the_same_time(opened, server):
    opened(4, slow=True)
    alone = measure.block(2, 200 * MS, 2000 * MS, 5, 0)
    together = asking.block(2, 200 * MS, 2000 * MS, 5, 0)
    one = len(alone["ns"]) * 1e9 / sum(alone["ns"])
    four = len(together["ns"]) * 1e9 / together["wall_ns"]
    assert 4.4 > four / one > 2.5
    assert together["repeats"] == 1
    assert min(together["ns"]) > SLOW_S * 1e9


def test_each_client_has_a_connection_and_begins_with_another_input(opened, server, monkeypatch):
    opened(3, slow=True)
    seen, answer = [], server.answer

    def told(feeds):
        seen.append((threading.get_ident(), float(feeds["x"].sum())))
        return answer(feeds)

    monkeypatch.setattr(server, "answer", told)
    asking.block(2, 150 * MS, 2000 * MS, 5, 0)
    assert len({thread for thread, _ in seen}) == 3, "the server has a thread for each connection"
    assert len({total for _, total in seen[:3]}) == 3


def test_what_one_client_cannot_serve_several_can(opened, tmp_path):
    opened(8, slow=True)
    rate, count = 100.0, 60
    alone = serving.serve(2, rate, count, [3, 1], {"queue": 10}, str(tmp_path / "alone"))
    assert alone == {"stopped": "queue"}
    told = asking.serve(2, rate, count, [3, 1], {"queue": 10}, str(tmp_path / "many"))
    assert told == {"stopped": ""}
    found = load_arrays(tmp_path / "many")
    assert set(found) == {"due", "begun", "ended", "free"}
    assert found["due"].tolist() == poisson(rate, count, 3, 1).tolist()
    assert (found["begun"] >= found["due"]).all()
    assert np.median(found["ended"] - found["due"]) < 4 * SLOW_S * 1e9


def test_the_interpreter_is_left_as_it_was(opened):
    opened(2)
    before = sys.getswitchinterval()
    asking.block(2, MS, 100 * MS, 2, 0)
    assert sys.getswitchinterval() == before
    assert gc.isenabled()


def test_a_server_that_is_gone_is_one_error(opened, server, tmp_path):
    opened(4)
    server.dead = True
    before = threading.active_count()
    for step in (
        lambda: asking.block(2, 50 * MS, 2000 * MS, 5, 0),
        lambda: asking.serve(2, 500.0, 100, [1], {"queue": 10**6}, str(tmp_path / "answer")),
        lambda: measure.block(2, 50 * MS, 2000 * MS, 5, 0),
    ):
        with pytest.raises(WorkError) as raised:
            step()
        assert raised.value.code == "SERVER_UNREACHABLE"
        assert gc.isenabled()
    assert threading.active_count() <= before


def test_a_secret_is_for_its_owner_alone(opened, monkeypatch):
    _, artifact = opened(1)
    assert stat.S_IMODE(artifact.stat().st_mode) == 0o600
    found = Connection.load(artifact)
    assert found.headers == {"x-secret": "s3cret"}
    assert "s3cret" not in repr(found)
    with pytest.raises(FileExistsError):
        found.save(artifact)


def test_a_connection_is_no_runtime_that_a_bundle_could_name():
    assert not {"asking", "served", "remote", "connection", ""} & set(registry.names("runtimes"))


def test_no_server_is_asked_without_open(monkeypatch):
    monkeypatch.setattr(asking, "_asking", None)
    with pytest.raises(InternalError):
        asking.block(2, 1, 1, 1, 1)
