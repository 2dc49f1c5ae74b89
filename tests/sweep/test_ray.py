"""What the Ray engine does without Ray: addresses, and what became of tasks; with a cluster: tests/servers."""

import socket
import threading
from hashlib import sha256
from types import SimpleNamespace

import pytest

from deploykit.errors import StorageError, UsageError, WorkError
from deploykit.sweep import ray


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "local", "h:x", "h:0", "h:65536", "[::1]:"])
def test_what_is_no_address_is_said(address):
    with pytest.raises(UsageError) as caught:
        ray._check(address)
    assert caught.value.code == "BAD_ADDRESS"
    assert "HOST:PORT" in caught.value.hint


def test_nobody_there_is_said_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(WorkError) as caught:
        ray._check(f"127.0.0.1:{port}")
    assert caught.value.code == "NO_CLUSTER"
    assert "ray start --head" in caught.value.hint


@pytest.mark.parametrize("answers", [b"HTTP/1.0 400 Bad Request\r\n\r\n", b"", b"\0\0\0"])
def test_something_else_that_listens_is_no_cluster(answers):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answers)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(WorkError) as caught:
            ray._check(f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert caught.value.code == "NO_CLUSTER"
    assert "something else" in caught.value.message


class NodeDiedError(Exception):
    pass


class TaskError(Exception):
    def __init__(self, text, cause=None):
        super().__init__(text)
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "exit_code", "code", "hint"),
    [
        (NodeDiedError("Task failed.\nThe node is dead."), 4, "WORKER_LOST", "task.retries"),
        (TaskError("ModuleNotFoundError: No module named 'deploykit'"), 4, "PACKAGE_MISSING", "every node"),
        (TaskError("x", StorageError("disk", "is full", "free some", "DISK_FULL")), 6, "DISK_FULL", "free some"),
        (TaskError(""), 4, "WORKER_LOST", "logs"),
    ],
)
def test_a_task_that_ray_gave_up_is_its_cells_result(error, exit_code, code, hint):
    half = ray._lost(error)
    assert (half.exit_code, half.code) == (exit_code, code)
    assert hint in half.hint
    assert "\n" not in half.reason


def test_a_file_that_changed_since_it_was_planned_is_not_sent(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"before")
    put = []
    session = ray._Session(SimpleNamespace(put=lambda data: put.append(data) or data), None, 1)
    assert session._put(sha256(b"before").hexdigest(), tmp_path / "w.bin") == b"before"
    (tmp_path / "w.bin").write_bytes(b"after")
    with pytest.raises(ray._ChangedError, match=r"w\.bin"):
        session._put(sha256(b"other").hexdigest(), tmp_path / "w.bin")
    assert put == [b"before"]
