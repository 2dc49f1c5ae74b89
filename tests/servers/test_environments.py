"""The mechanism that makes environments of serving stacks, with a wheel made on the spot: no package index is asked.

Real stacks are installed by their own tests.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.servers import environments, pinning
from tests.servers.environments import BrokenError, UnavailableError, python_environment

PYTHON_STACKS = {"triton", "kserve", "mlserver", "mlflow", "ray-serve"}
ADDRESS = re.compile(r"://|\b[\w-]+\.(?:org|com|io|net|dev|internal|local)\b|index-url|find-links", re.IGNORECASE)
PINNED = re.compile(
    r"^([\w.-]+)(?:\[[\w,-]+\])?==[\w.!+]+(?: ;[^\\]*)? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", re.MULTILINE
)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path) -> Path:
    """A folder of environments of this test's own."""
    monkeypatch.setenv("DEPLOYKIT_SERVERS", str(tmp_path / "servers"))
    monkeypatch.setattr(environments, "_refused", {})
    return tmp_path / "servers"


def requirements(folder: Path, *, tag: str = "py3-none-any", text: str = "one", digest: str = "") -> Path:
    """A requirements file that pins `tiny`, a real wheel in `folder` whose module holds `text`."""
    folder.mkdir(exist_ok=True)
    wheel = folder / f"tiny-1.0-{tag}.whl"
    info = "tiny-1.0.dist-info"
    files = {
        "tiny.py": f"TEXT = {text!r}\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in {**files, f"{info}/RECORD": "".join(f"{name},,\n" for name in files)}.items():
            archive.writestr(name, content)
    found = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
    listed = folder / "tiny.txt"
    listed.write_text(f"--no-index\n--find-links {folder}\ntiny==1.0 \\\n    --hash=sha256:{found}\n")
    return listed


def says(binaries: Path) -> str:
    """What the `tiny` of an environment holds, told by that environment's own Python."""
    program = "import sys, tiny; assert sys.prefix != sys.base_prefix; print(tiny.TEXT)"
    argv = [binaries / "python", "-I", "-c", program]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def test_an_environment_is_made_once_and_holds_what_is_pinned_and_nothing_else(tmp_path, home, monkeypatch):
    listed = requirements(tmp_path / "wheels")
    binaries = python_environment("tiny", listed)
    assert says(binaries) == "one"
    assert binaries.parent.parent == home
    site = next((binaries.parent / "lib").glob("python3*/site-packages"))
    assert {path.name for path in site.glob("*.dist-info")} == {"tiny-1.0.dist-info"}
    assert list(site.glob("__pycache__/tiny.*.pyc"))  # compiled: servers start from it

    monkeypatch.setattr(environments, "_tool", lambda *_: pytest.fail("it was made a second time"))
    assert python_environment("tiny", listed) == binaries


def test_what_an_interrupted_run_left_is_made_again(tmp_path, home):
    listed = requirements(tmp_path / "wheels")
    place = python_environment("tiny", listed).parent
    next(place.glob("lib/python3*/site-packages/tiny.py")).unlink()
    (place / "left").write_text("behind")
    (place / environments.WHOLE).unlink()
    assert says(python_environment("tiny", listed)) == "one"
    assert not (place / "left").exists()


def test_an_interrupt_while_installing_leaves_nothing_that_counts_as_whole(tmp_path, home, monkeypatch):
    listed = requirements(tmp_path / "wheels")
    real = environments._tool

    def interrupted(argv: list[str], cwd: Path) -> None:
        real(argv, cwd)
        if "sync" in argv:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(environments, "_tool", interrupted)
        with pytest.raises(KeyboardInterrupt):
            python_environment("tiny", listed)
    place = next(path for path in home.iterdir() if path.is_dir())
    assert not (place / environments.WHOLE).exists()
    assert says(python_environment("tiny", listed)) == "one"


def test_other_requirements_are_another_environment(tmp_path, home):
    first = python_environment("tiny", requirements(tmp_path / "first"))
    second = python_environment("tiny", requirements(tmp_path / "second", text="two"))
    assert first != second
    assert (says(first), says(second)) == ("one", "two")


def test_the_digest_sees_requirements_python_and_place(monkeypatch, tmp_path):
    digests = [environments.digest(b"one"), environments.digest(b"two")]
    with monkeypatch.context() as patch:
        patch.setattr(environments.platform, "python_version", lambda: "3.12.1")
        digests.append(environments.digest(b"one"))
    monkeypatch.setenv("DEPLOYKIT_SERVERS", str(tmp_path / "moved"))  # console scripts hold their environment's path
    digests.append(environments.digest(b"one"))
    assert len(set(digests)) == 4


def test_two_processes_make_one_environment_once(tmp_path, home):
    listed = requirements(tmp_path / "wheels")
    program = """
import sys, time
from pathlib import Path
from tests.servers import environments
real = environments._tool
def counted(argv, cwd):
    with open(sys.argv[2], "a") as calls:
        calls.write("call\\n")
    time.sleep(0.5)  # long enough for the other process to come to the lock
    real(argv, cwd)
environments._tool = counted
Path(sys.argv[2] + "." + sys.argv[3]).touch()
while len(list(Path(sys.argv[2]).parent.glob("calls.*"))) < 2:
    time.sleep(0.01)
print(environments.python_environment("tiny", Path(sys.argv[1])))
"""
    calls = tmp_path / "calls"
    argv = [sys.executable, "-c", program, str(listed), str(calls)]
    both = [
        subprocess.Popen([*argv, name], cwd=environments.ROOT, stdout=subprocess.PIPE, text=True) for name in ("a", "b")
    ]
    answers = [process.communicate(timeout=120)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0] == answers[1]
    assert says(Path(answers[0])) == "one"
    assert calls.read_text() == "call\n" * 2  # one `uv venv` and one `uv pip sync`


def test_a_wheel_with_another_digest_is_refused_and_is_no_reason_to_skip(tmp_path, home):
    listed = requirements(tmp_path / "wheels", digest="0" * 64)
    with pytest.raises(BrokenError, match="Hash mismatch"):
        python_environment("tiny", listed)
    assert not list(home.glob(f"*/{environments.WHOLE}"))


@pytest.mark.parametrize("ci", ["", "true"])
def test_no_wheel_for_this_python_skips_in_one_line_and_fails_in_ci(tmp_path, monkeypatch, ci):
    listed = requirements(tmp_path / "tiny", tag="cp27-cp27m-win32")
    monkeypatch.setattr(environments, "REQUIREMENTS", listed.parent)
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(environments.sys, "platform", "linux")
    monkeypatch.setattr(environments.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(environments.sys, "version_info", (3, 11, 7))
    outcome = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(outcome, match="no release for this Python and platform") as refusal:
        environments.environment("tiny")
    assert "\n" not in str(refusal.value)


def test_ci_of_another_platform_may_skip(monkeypatch):
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(environments.sys, "platform", "darwin")
    assert not environments.expected_here()


def test_an_index_out_of_reach_is_asked_once(tmp_path, monkeypatch):
    listed = tmp_path / "absent.txt"
    listed.write_text(f"no-such-thing-{tmp_path.name}==1.0 \\\n    --hash=sha256:{'0' * 64}\n".replace("_", "-"))
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    asked = []

    def make() -> Path:
        asked.append(1)
        return python_environment("absent", listed)

    for _ in range(2):
        with pytest.raises(UnavailableError, match="no package index in reach"):
            environments._remembered("absent", make)
    assert len(asked) == 1


def test_npm_installs_from_a_lock_without_addresses(tmp_path, monkeypatch):
    monkeypatch.setattr(environments.shutil, "which", lambda _: "npm")
    ran = []
    monkeypatch.setattr(
        environments, "_tool", lambda argv, cwd: ran.append((argv[1:3], sorted(p.name for p in cwd.iterdir())))
    )
    place = environments.node_environment("web", environments.REQUIREMENTS / "web")
    assert ran == [(["ci", "--ignore-scripts"], ["package-lock.json", "package.json"])]
    assert (place / environments.WHOLE).exists()


def test_old_environments_are_pruned_and_current_ones_stay(tmp_path, home, monkeypatch):
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path / "pins")
    listed = requirements(tmp_path / "pins")
    old = python_environment("tiny", listed).parent
    listed.write_text(listed.read_text() + "# changed\n")
    new = python_environment("tiny", listed).parent
    (home / "ort-1.19.2-0123456789abcdef").mkdir()
    assert environments.prune() == [old.name]
    assert new.exists()
    assert (home / "ort-1.19.2-0123456789abcdef").exists()


def test_every_stack_has_its_pins():
    assert set(environments.stacks()) == PYTHON_STACKS
    assert {path.stem for path in pinning.SOURCES.glob("*.in")} == PYTHON_STACKS


@pytest.mark.parametrize("stack", sorted(PYTHON_STACKS))
def test_a_stack_is_pinned_whole_with_digests_and_without_addresses(stack):
    text = (environments.REQUIREMENTS / f"{stack}.txt").read_text()
    body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    assert not PINNED.sub("", body)  # nothing but `name==version` and digests
    pinned = {match[1].lower().replace("_", "-") for match in PINNED.finditer(body)}
    asked = (pinning.SOURCES / f"{stack}.in").read_text().splitlines()
    assert {re.split(r"[\[=<>;# ]", line)[0] for line in asked} <= pinned
    assert "onnxruntime" in pinned
    assert not ADDRESS.search(text)


def test_the_npm_stack_is_pinned_whole_with_digests_and_without_addresses():
    project = environments.REQUIREMENTS / "web"
    wanted = json.loads((project / "package.json").read_text())["dependencies"]
    lock = json.loads((project / "package-lock.json").read_text())["packages"]
    assert set(wanted) == {"onnxruntime-node", "onnxruntime-web"}
    for name, version in wanted.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert lock[f"node_modules/{name}"]["version"] == version
    assert all(package["integrity"].startswith("sha512-") for place, package in lock.items() if place)
    assert not any("://" in (project / file).read_text() for file in ("package.json", "package-lock.json"))


def test_addresses_are_taken_out_of_a_lock():
    package = {
        "version": "1.0.0",
        "resolved": "https://registry.invalid/a.tgz",
        "integrity": "sha512-x",
        "funding": {"url": "https://a.invalid"},
    }
    lock = {"name": "n", "packages": {"": {"dependencies": {"a": "1.0.0"}}, "node_modules/a": package}}
    assert pinning.without_addresses(lock)["packages"] == {
        "": {"dependencies": {"a": "1.0.0"}},
        "node_modules/a": {"version": "1.0.0", "integrity": "sha512-x"},
    }
