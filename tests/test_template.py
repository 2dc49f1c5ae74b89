"""Real templates and their forks: one import, processes of their own, and the same deaths as any child."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import psutil
import pytest

from deploykit import child, forks, registry, template
from deploykit.errors import StorageError, WorkError
from deploykit.forks import POSSIBLE, Template, Templates, UnfitError
from deploykit.isolation import Limits, Worker

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="forks are for Linux")

STEPS = """
import os, signal, sys, time

def add(a, b): return a + b
def facts():
    import engine
    from deploykit.template import inherited
    return {
        "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0), "session": os.getsid(0),
        "imported": engine.MARK, "import_ms": inherited.import_ms,
        "open": sorted(os.readlink(p) for n in range(3, 64) if os.path.islink(p := f"/proc/self/fd/{n}")),
    }
def missing(names): return [name for name in names if name not in sys.modules]
def die(): print("last words", flush=True); os.kill(os.getpid(), signal.SIGSEGV)
def leave(): print("bye"); sys.exit(7)
def hang(): time.sleep(1000)
def eat(): return len(bytearray(3 << 30))
def burn():
    while True: pass
def fill(path):
    with open(path, "wb") as stream:
        for _ in range(4): stream.write(b"x" * (1 << 20))
def say(): print("only here", flush=True); return 1
"""

ENGINE = """
import os, time
import numpy  # with the threads that OpenBLAS starts
MARK = f"{os.getpid()} {time.monotonic_ns()}"
end = time.process_time() + 0.02
while time.process_time() < end: pass
"""

ODD = {
    "threaded": "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n",
    "broken": "import no_such_package\n",
    "crashing": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
    "leaving": "raise SystemExit(3)\n",
    "hanging": "import time\ntime.sleep(1000)\n",
}


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """Steps and engines of the tests' own, found through an extension of the package's path."""
    (tmp_path / "trial.py").write_text(STEPS)
    (tmp_path / "engine.py").write_text(ENGINE)
    for name, text in ODD.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "sitecustomize.py").write_text(
        f"import deploykit.steps\ndeploykit.steps.__path__.append({str(tmp_path)!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.fixture
def made(engine):
    """Makes templates that end with the test."""
    found = []

    def make(*imports, **limits):
        found.append(Template(imports or ("engine",), Limits(**limits)))
        return found[-1]

    yield make
    for one in found:
        one.close()


def gone(pid):
    """The process ends soon; a zombie has ended."""
    for _ in range(150):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_forks_are_processes_of_their_own_with_one_import(made):
    source = made()
    with source.worker() as first, source.worker() as second:
        one, other = first.call("trial:facts"), second.call("trial:facts")
        again = first.call("trial:facts")
    assert one["imported"] == other["imported"]
    assert one["imported"].startswith(f"{source.pid} ")
    assert one["import_ms"] == other["import_ms"] >= 20
    assert one["parent"] == other["parent"] == source.pid
    assert len({one["pid"], other["pid"], source.pid, os.getpid()}) == 4
    assert again == one
    for facts, worker in ((one, first), (other, second)):
        assert facts["pid"] == worker.pid == facts["group"] == facts["session"]
        assert len([name for name in facts["open"] if name.startswith("pipe:")]) == 2, facts["open"]
        assert not [name for name in facts["open"] if name.startswith("socket:")], facts["open"]
    assert not set(one["open"]) & set(other["open"]) - {name for name in one["open"] if name.startswith("/")}


def test_a_process_of_its_own_inherits_nothing(engine):
    with Worker() as worker:
        assert worker.call("trial:facts")["import_ms"] == 0


def test_a_fork_holds_the_pages_that_its_template_held(made):
    """Else a fork's peak memory would be that of a process without the engine's libraries."""
    with made("engine").worker() as fork, Worker() as fresh:
        fresh.call("trial:facts")  # imports the engine
        ours, theirs = (one.call("measure:memory")["peak_rss_bytes"] for one in (fork, fresh))
    assert 0.9 < ours / theirs < 1.1


def test_resident_files_are_what_the_system_counts():
    pages = template.resident_files()
    assert all(start % template.PAGE == length % template.PAGE == 0 < length for start, length in pages)
    # `shared` leaves out pages of files that were written to and are private memory since
    assert 0.9 < sum(length for _, length in pages) / psutil.Process().memory_info().shared < 1.5


def test_a_crash_is_told_by_its_signal_and_last_words(made):
    source = made()
    with source.worker() as worker, source.worker() as other:
        with pytest.raises(WorkError) as caught:
            worker.call("trial:die")
        assert not worker.alive
        assert other.call("trial:add", a=1, b=2) == 3
    assert caught.value.code == "WORKER_CRASHED"
    assert "the worker process died of SIGSEGV (last words)" in caught.value.message
    assert not psutil.pid_exists(worker.pid), "not reaped"
    with source.worker() as worker:
        assert worker.call("trial:add", a=1, b=1) == 2


def test_leaving_is_told_by_its_status(made):
    with made().worker() as worker, pytest.raises(WorkError, match=r"exit status 7 \(bye\)"):
        worker.call("trial:leave")


def test_a_hang_is_a_time_limit(made):
    source = made()
    with source.worker() as worker:
        started = time.monotonic()
        with pytest.raises(WorkError) as caught:
            worker.call("trial:hang", timeout_s=0.3)
        assert time.monotonic() - started < 2.5
    assert caught.value.code == "TIME_LIMIT"
    assert not psutil.pid_exists(worker.pid)


def test_pause_and_resume(made):
    with made().worker() as worker:
        worker.pause()
        deadline = time.monotonic() + 2
        while psutil.Process(worker.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline
        worker.resume()
        assert worker.call("trial:add", a=1, b=1) == 2
        worker.pause()
    assert not psutil.pid_exists(worker.pid)


def test_limits_hold_in_a_fork(made, tmp_path):
    source = made(memory_bytes=1 << 30, file_bytes=1 << 20, cpu_s=1)
    with source.worker() as worker:
        with pytest.raises(WorkError) as caught:
            worker.call("trial:eat")
        assert caught.value.code == "MEMORY_LIMIT"
        with pytest.raises(StorageError):
            worker.call("trial:fill", path=str(tmp_path / "big"))
        with pytest.raises(WorkError, match="SIGXCPU"):
            worker.call("trial:burn", timeout_s=20)


def test_nothing_outlives_close(made):
    source = made()
    workers = [source.worker() for _ in range(3)]
    for worker in workers[:2]:
        worker.call("trial:add", a=1, b=1)
    child.send(workers[0]._to, {"step": "trial:burn", "arguments": {}})
    workers[2].close()  # at once, before it has answered anything
    assert not psutil.pid_exists(workers[2].pid)
    source.close()
    source.close()
    assert not psutil.pid_exists(source.pid)
    assert all(gone(worker.pid) for worker in workers)
    with pytest.raises(WorkError, match="SIGKILL"):
        workers[1].call("trial:add", a=1, b=1)
    workers[0].close()
    with pytest.raises(UnfitError, match="closed"):
        source.worker()


def test_a_dead_parent_takes_template_and_forks_along(engine):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            source = Template(("engine",), Limits())
            worker = source.worker()
            worker.call("trial:add", a=1, b=1)
            child.send(worker._to, {"step": "trial:burn", "arguments": {}})
            os.write(writer, f"{source.pid} {worker.pid}".encode())
            time.sleep(0.2)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(writer)
    orphans = [int(text) for text in os.read(reader, 40).split()]
    os.close(reader)
    os.waitpid(pid, 0)
    assert len(orphans) == 2
    assert [orphan for orphan in orphans if not gone(orphan)] == []


def test_a_dead_template_takes_its_forks_along(made):
    source = made()
    with source.worker() as worker:
        worker.call("trial:add", a=1, b=1)
        os.kill(source.pid, signal.SIGKILL)
        assert gone(worker.pid)
        with pytest.raises(WorkError) as caught:
            worker.call("trial:add", a=1, b=1)
    assert caught.value.code == "WORKER_CRASHED"
    with pytest.raises(UnfitError, match="died"):
        source.worker()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("threaded", "1 threads are alive"),
        ("broken", "No module named 'no_such_package'"),
        ("crashing", "it died"),
        ("leaving", "it died"),
        ("hanging", "no answer within 2 s"),
    ],
)
def test_what_cannot_be_forked_says_why(name, reason, made, monkeypatch):
    monkeypatch.setattr(forks, "READY_SECONDS", 2.0 if name == "hanging" else 60.0)
    source = made(name)
    with pytest.raises(UnfitError, match=reason):
        source.worker()
    assert reason in source.unfit()
    assert not psutil.pid_exists(source.pid)


@dataclass
class Plugin:
    imports: tuple[str, ...] = ()


@pytest.fixture
def plugins(engine, monkeypatch):
    known = {name: Plugin((name,)) for name in ("engine", "threaded", "broken")}
    known |= {"twin": Plugin(("engine",)), "silent": object(), "later": Plugin(("engine", "no_such_part"))}
    monkeypatch.setattr(registry, "load", lambda kind, name: known[name])


def test_templates_give_fresh_processes_where_they_cannot_fork(plugins):
    names = ["engine", "twin", "threaded", "broken", "silent", "later"]
    with Templates(names, Limits()) as templates:
        templates.settle(name for name in names if name != "broken")
        found = {}
        for name in names:
            with templates.worker(name) as worker:
                found[name] = worker.call("trial:facts")
        said = templates.said()
    assert found["engine"]["parent"] == found["twin"]["parent"] != os.getpid()
    assert found["later"]["parent"] not in {found["engine"]["parent"], os.getpid()}
    assert {found[name]["parent"] for name in ("threaded", "broken", "silent")} == {os.getpid()}
    assert said["forked"] is True
    assert "threads are alive" in said["not_forked"]["threaded"]
    assert "names no imports" in said["not_forked"]["silent"]
    assert not psutil.pid_exists(found["engine"]["parent"])


def test_without_a_fork_the_report_says_so(plugins):
    with Templates(["threaded"], Limits()) as templates:
        templates.settle(["threaded"])
        assert templates.said()["forked"] is False


def test_an_interrupt_leaves_no_process_behind(plugins):
    pids = []

    def interrupted():
        with Templates(["engine", "later"], Limits()) as templates, templates.worker("engine") as worker:
            pids.extend([worker.pid, *(one.pid for one in templates._templates.values())])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(pids) == 3
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_an_interrupt_while_a_fork_is_made_leaves_no_process_behind(made, monkeypatch):
    """The answer to the request comes, and must not be taken for that to the next one."""
    source = made()
    with source.worker() as worker:
        worker.call("trial:add", a=1, b=1)

        def interrupted(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(forks.select, "select", interrupted)
            with pytest.raises(KeyboardInterrupt):
                source.worker()
    assert worker.pid != source.pid
    assert gone(worker.pid)
    assert not psutil.pid_exists(source.pid)


ENGINES = sorted({registry.load("runtimes", name).imports for name in registry.names("runtimes")})


@pytest.mark.parametrize("imports", ENGINES, ids=lambda imports: imports[-1])
def test_every_engine_can_be_forked_after_its_import(imports, made):
    """Every module that a plugin names is there in this version of the engine, and none leaves a thread behind."""
    with made(*imports).worker() as worker:
        assert worker.call("trial:missing", names=imports) == []


def test_the_far_end_is_no_command():
    ran = subprocess.run([sys.executable, "-m", "deploykit.template"], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "not a command for people" in ran.stderr
    assert "Traceback" not in ran.stderr
