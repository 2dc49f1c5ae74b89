"""What `deploykit serve` decides before anything starts."""

from __future__ import annotations

import json
import shutil

import pytest

from deploykit.bundle import Bundle
from deploykit.environment import usable_cores
from deploykit.errors import DeploykitError
from deploykit.pipeline import offering
from deploykit.pipeline.identity import identity
from deploykit.pipeline.offering import ServeRequest, choose
from deploykit.tuned import TunedRecord
from tests.fixtures import served


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return served.bundle(tmp_path_factory.mktemp("offering") / "served")


@pytest.fixture
def bundle(shared, tmp_path):
    shutil.copytree(shared, tmp_path / "served")
    return Bundle(tmp_path / "served")


def chosen(bundle: Bundle, **changes):
    return choose(bundle, ServeRequest(bundle.path, **changes))


def measured(bundle: Bundle, variant: object, model: object = None) -> None:
    report = {"protocol": {"model": model or identity(bundle.manifest)}, "recommendation": {"variant": variant}}
    bundle.write_report("bench.json", json.dumps(report))


def test_without_a_benchmark_it_is_onnx(bundle):
    found = chosen(bundle)
    assert (found.record.name, found.choice) == ("onnx", "no benchmark of this bundle recommends another")


def test_what_the_benchmark_of_this_model_recommends(bundle):
    measured(bundle, "torchscript")
    found = chosen(bundle)
    assert (found.record.name, found.choice) == ("torchscript", "the benchmark recommends it")
    assert chosen(bundle, variant="onnx").choice == "it was asked for"


@pytest.mark.parametrize(
    "write",
    [
        lambda bundle: measured(bundle, "torchscript", {"digest": "of another model"}),
        lambda bundle: measured(bundle, "gone"),
        lambda bundle: measured(bundle, ["torchscript"]),
        lambda bundle: bundle.write_report("bench.json", "[]"),
        lambda bundle: bundle.write_report("bench.json", "{" * 10_000),
        lambda bundle: bundle.write_report("bench.json", '{"protocol": 1, "recommendation": 2}'),
    ],
)
def test_a_report_that_says_nothing_about_this_model_is_left_aside(bundle, write):
    write(bundle)
    assert chosen(bundle).record.name == "onnx"


def test_a_report_behind_a_link_is_not_read(bundle, tmp_path):
    report = bundle.path / "reports/verify.json"
    report.rename(tmp_path / "elsewhere.json")
    report.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(DeploykitError) as caught:
        chosen(bundle)
    assert caught.value.code == "NOT_VERIFIED"


def tuned(bundle: Bundle, settings: str, goal: str = "latency") -> None:
    record = bundle.manifest.variant("onnx")
    found = TunedRecord(goal=goal, provider="CPUExecutionProvider", settings=settings, batch=1, cores=1)
    fresh = record.model_copy(update={"tuned": (found,)})
    others = tuple(one for one in bundle.manifest.variants if one.name != "onnx")
    bundle.manifest = bundle.manifest.model_copy(update={"variants": (fresh, *others)})


def test_settings_come_from_tuning_then_from_the_words(bundle):
    assert chosen(bundle).settings.words == "spinning=off"
    assert chosen(bundle, session="default").settings.words == ""
    assert chosen(bundle, session="spinning=on,threads=1").settings.words == "threads=1"
    tuned(bundle, "threads=1,graph_level=extended")
    assert chosen(bundle).settings.words == "threads=1,graph_level=extended"
    assert chosen(bundle, session="graph_level=all").settings.words == "threads=1"
    assert chosen(bundle, goal="memory").settings.words == "spinning=off"
    assert chosen(bundle, session="default").settings.words == ""


def test_as_many_runs_at_a_time_as_have_cores(bundle):
    cores = usable_cores()
    assert chosen(bundle).rules.concurrency == 1
    assert chosen(bundle, session="threads=1").rules.concurrency == cores
    assert chosen(bundle, session=f"threads={cores + 1}").rules.concurrency == 1
    assert chosen(bundle, session="threads=1,binding=on").rules.concurrency == 1
    assert chosen(bundle, variant="torchscript").rules.concurrency == 1
    assert chosen(bundle, concurrency=7).rules.concurrency == 7


def test_names_of_hosts(bundle):
    assert set(chosen(bundle, host="127.0.0.2").rules.hosts) == {"localhost", "127.0.0.1", "::1", "127.0.0.2"}
    assert chosen(bundle, allow_remote=True).rules.hosts == ()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "127.8.8.8"])
def test_loopback_needs_nobodys_leave(bundle, host):
    with offering.listening(ServeRequest(bundle.path, host=host, port=0)) as sock:
        assert offering.url_of(sock).startswith("http://[::1]:" if ":" in sock.getsockname()[0] else "http://127.")
