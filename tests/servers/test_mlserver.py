"""The folder for MLServer: its own command serves it, and answers the reference over JSON and gRPC."""

import shutil

import pytest

from tests.servers.onnx_folders import add_net, spoil, started, walk
from tests.servers.served_onnx import Served


@pytest.fixture(scope="module")
def there(tiny_bundle, tmp_path_factory):
    """The folder's server; beside the two versions it has a copy with a changed weight, and another model."""
    folder = walk("mlserver", tiny_bundle, tmp_path_factory.mktemp("walk"))
    shutil.copytree(folder / "models/tiny/2", folder / "models/changed/1")
    spoil(folder / "models/changed/1")
    add_net("mlserver", folder)
    settings = folder / "models/changed/1/model-settings.json"
    settings.write_text(settings.read_text().replace('"tiny"', '"changed"'))
    with started("mlserver", folder, tmp_path_factory.mktemp("log") / "log", everywhere=False) as there:
        yield there


class TestMLServer(Served):
    wires = ("json", "auto")
    named = ("tiny 1", "tiny 2")


def test_it_listens_on_loopback_only(there):
    own = there.server.own()
    found = [connection for process in (own, *own.children(recursive=True)) for connection in process.net_connections()]
    assert {one.laddr.ip.removeprefix("::ffff:") for one in found if one.status == "LISTEN"} == {"127.0.0.1"}
