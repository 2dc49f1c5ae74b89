"""Real child processes: crashes, hangs, full memories and full disks are one ordinary error each."""

import os
import signal
import time

import psutil
import pytest

from deploykit import child
from deploykit.errors import DeploykitError, InternalError, StorageError, UsageError, WorkError
from deploykit.isolation import Inline, Limits, Pool, Worker

STEPS = """
import os, signal, sys, time

def add(a, b): return a + b
def talk(note): note("one"); note("two"); return "done"
def die(): print("last words", flush=True); os.kill(os.getpid(), signal.SIGSEGV)
def leave(): sys.exit(7)
def hang():
    import subprocess
    child = subprocess.Popen(["sleep", "1000"])
    print(child.pid, flush=True)
    time.sleep(1000)
def spawn():
    import subprocess
    return subprocess.Popen(["sleep", "1000"]).pid
def eat(): return len(bytearray(3 << 30))
def fill(path):
    with open(path, "wb") as stream:
        for _ in range(4): stream.write(b"x" * (1 << 20))
def wrong(): raise ValueError("a\\nb")
def odd(): return {1, 2}
def burn():
    while True: pass
def environment(name): return os.environ.get(name)
"""


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Steps of the tests' own, found by the child through an extension of the package's path."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "trial.py").write_text(STEPS)
    (folder / "sitecustomize.py").write_text(
        f"import deploykit.steps\ndeploykit.steps.__path__.append({str(folder)!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def test_a_worker_answers_and_passes_notes_on(steps):
    heard = []
    with Worker() as worker:
        assert worker.call("trial:add", a=2, b=3) == 5
        assert worker.call("trial:talk", note=heard.append) == "done"
    assert heard == ["one", "two"]


def test_a_segmentation_fault_is_an_error_with_the_last_words(steps):
    with Worker() as worker:
        with pytest.raises(WorkError) as caught:
            worker.call("trial:die")
        assert not worker.alive
    assert caught.value.code == "WORKER_CRASHED"
    assert caught.value.exit_code == 4
    assert "SIGSEGV" in caught.value.message
    assert "last words" in caught.value.message


def test_leaving_on_its_own_is_a_crash_too(steps):
    with Worker() as worker, pytest.raises(WorkError, match="exit status 7"):
        worker.call("trial:leave")


def test_a_hang_is_killed_with_its_whole_group(steps):
    with Worker() as worker:
        grandchild = worker.call("trial:spawn")
        started = time.monotonic()
        with pytest.raises(WorkError) as caught:
            worker.call("trial:hang", timeout_s=0.5)
        assert time.monotonic() - started < 2.5
    assert caught.value.code == "TIME_LIMIT"
    for _ in range(50):
        if not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.02)
    else:
        pytest.fail("the grandchild outlived its group")


def test_too_much_memory_is_an_error_and_the_worker_lives_on(steps):
    with Worker(Limits(memory_bytes=1 << 30)) as worker:
        with pytest.raises(WorkError) as caught:
            worker.call("trial:eat")
        assert caught.value.code == "MEMORY_LIMIT"
        assert worker.call("trial:add", a=1, b=1) == 2


def test_too_large_a_file_is_a_storage_error(steps, tmp_path):
    with Worker(Limits(file_bytes=1 << 20)) as worker, pytest.raises(StorageError) as caught:
        worker.call("trial:fill", path=str(tmp_path / "big"))
    assert caught.value.exit_code == 6


def test_too_much_cpu_time_ends_the_worker(steps):
    with Worker(Limits(cpu_s=1)) as worker, pytest.raises(WorkError, match="SIGXCPU"):
        worker.call("trial:burn", timeout_s=20)


def test_errors_cross_the_border_with_everything(steps):
    with Worker() as worker:
        with pytest.raises(WorkError) as caught:
            worker.call("trial:wrong")
        assert caught.value.message == "ValueError: a"
        assert "Traceback" in caught.value.detail
        with pytest.raises(InternalError):
            worker.call("trial:odd")
        with pytest.raises(DeploykitError):
            worker.call("no_such_step:at_all")
        assert worker.call("trial:add", a=1, b=1) == 2


def test_a_dead_parent_takes_its_children_along(steps):
    """The child is killed by the kernel even while it is busy and cannot notice that its pipe closed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        worker = Worker()
        worker.call("trial:add", a=1, b=1)
        os.write(writer, str(worker.pid).encode())
        child.send(worker._to, {"step": "trial:burn", "arguments": {}})
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(writer)
    orphan = int(os.read(reader, 20))
    os.close(reader)
    os.waitpid(pid, 0)
    for _ in range(100):
        if not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.02)
    os.kill(orphan, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


def test_a_pool_replaces_the_dead(steps):
    with Pool() as pool:
        first = pool.worker("torch")
        assert pool.worker("torch") is first
        with pytest.raises(WorkError):
            first.call("trial:die")
        second = pool.worker("torch")
        assert second is not first
        assert second.call("trial:add", a=1, b=2) == 3
        pool.retire("torch")
        assert not second.alive
        with pytest.raises(WorkError):
            pool.worker("torch").call("trial:die")


def test_pausing_stops_the_clock_of_a_worker(steps):
    with Worker() as worker:
        worker.call("trial:add", a=1, b=1)
        worker.pause()
        deadline = time.monotonic() + 2  # a signal arrives when the kernel gets to it
        while psutil.Process(worker.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline
        worker.resume()
        assert worker.call("trial:add", a=1, b=1) == 2


def test_inline_maps_errors_like_a_child(monkeypatch):
    with pytest.raises(WorkError):
        Inline().call("live:no_such_function")
    with pytest.raises(InternalError, match="no model"):
        Inline().call("live:current")


def test_limits_follow_the_model_and_the_environment(monkeypatch):
    gib = 1 << 30
    assert Limits.for_model(0).memory_bytes == 4 * gib
    assert Limits.for_model(2 * gib).memory_bytes == 12 * gib
    monkeypatch.setenv("DEPLOYKIT_MEMORY_GB", "1.5")
    assert Limits.for_model(2 * gib).memory_bytes == 1.5 * gib
    for text in ("-1", "lots"):
        monkeypatch.setenv("DEPLOYKIT_MEMORY_GB", text)
        with pytest.raises(UsageError):
            Limits.for_model(0)
