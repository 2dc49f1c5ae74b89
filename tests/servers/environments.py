"""Environments of real serving stacks: one per stack, made from what a handoff pins, kept between runs.

`environment("triton")` is the `bin` folder of a virtual environment with exactly the packages of
`deploykit/handoff/requirements/triton.txt`; `node_modules("web")` is the same for npm; `onnxruntime("1.19.2")` holds
that release and numpy. They lie in `.servers/` at the project root, or where DEPLOYKIT_SERVERS points. The folder's
name has the digest of what is in it, a file written last says that it is whole, and a lock lets one process make it
while the others wait. `python -m tests.servers.environments` makes them all.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "deploykit" / "handoff" / "requirements"
WHOLE = ".whole"
"""Written into an environment after everything else; its text is the seconds that making it took."""
NPM_FILES = ("package.json", "package-lock.json")
LOCK_SECONDS = 1800.0
"""How long one process waits for another that makes the same environment: the largest takes minutes on a cold cache."""
OFFLINE = ("error sending request", "network was disabled", "ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ENOTCACHED")
"""What uv and npm say when no package index can be reached."""
NO_WHEEL = ("no wheels with a matching", "EBADPLATFORM")
"""What uv and npm say when a release is not there for this Python or platform."""


class UnavailableError(Exception):
    """This environment cannot be had here; the message says why in one line."""


class BrokenError(Exception):
    """Making the environment failed for a reason that has to be looked at."""


def stacks() -> tuple[str, ...]:
    """Names of the Python stacks: one requirements file each."""
    return tuple(sorted(path.stem for path in REQUIREMENTS.glob("*.txt")))


def home() -> Path:
    """The folder that holds all environments."""
    return Path(os.environ.get("DEPLOYKIT_SERVERS") or ROOT / ".servers").absolute()


def environment(stack: str) -> Path:
    """The `bin` folder of the environment of `stack`; skips the test where there cannot be one, fails it in CI."""
    return _or_skip(stack, lambda: python_environment(stack, REQUIREMENTS / f"{stack}.txt"))


def node_modules(stack: str = "web") -> Path:
    """The folder with `package.json` and `node_modules` of an npm stack: import from a script inside or below it."""
    return _or_skip(stack, lambda: node_environment(stack, REQUIREMENTS / stack))


def onnxruntime(version: str) -> Path:
    """The `bin` folder of an environment with this onnxruntime, and numpy; nothing else of deploykit runs there.

    Releases before 1.19 are built against numpy 1 and fail to import with numpy 2.
    """
    release = tuple(int(part) for part in version.split(".")[:2])
    python: str | None = sys.executable
    if release < (1, 17) and sys.version_info >= (3, 12):  # no wheel for 3.12 before 1.17; CI's 3.11 covers them
        python = shutil.which("python3.11")
    if python is None:
        pytest.skip(f"onnxruntime {version} needs Python 3.11, and there is none here")
    packages = (f"onnxruntime=={version}", "numpy<2" if release < (1, 19) else "numpy>=2")
    return _or_skip(f"onnxruntime {version}", lambda: loose_environment(f"ort-{version}", *packages, python=python))


def python_environment(name: str, requirements: Path) -> Path:
    """Make or find the virtual environment of one fully pinned requirements file.

    Returns:
        Its `bin` folder.

    Raises:
        UnavailableError: no wheel for this Python or platform, no uv, or no package index in reach.
        BrokenError: uv failed for another reason, a digest that does not fit for one.
    """

    def make(place: Path) -> None:
        _venv(place)
        _uv("pip", "sync", "--require-hashes", "--compile-bytecode", "--python", place / "bin/python", requirements)

    return _once(name, requirements.read_bytes(), make) / "bin"


def loose_environment(name: str, *packages: str, python: str = sys.executable) -> Path:
    """As `python_environment`, of a few packages whose dependencies are resolved now, for the interpreter `python`."""

    def make(place: Path) -> None:
        _venv(place, python)
        _uv("pip", "install", "--only-binary", ":all:", "--python", place / "bin/python", *packages)

    return _once(name, "\n".join((*packages, python)).encode(), make) / "bin"


def node_environment(name: str, project: Path) -> Path:
    """As `python_environment`, for a folder with `package.json` and `package-lock.json`; returns the folder."""

    def make(place: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise UnavailableError("there is no npm on this machine")
        place.mkdir(parents=True)
        for file in NPM_FILES:
            shutil.copyfile(project / file, place / file)
        _tool([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], place)

    return _once(name, _project(project), make)


def _project(project: Path) -> bytes:
    return b"".join((project / file).read_bytes() for file in NPM_FILES)


def _or_skip(name: str, make: Callable[[], Path]) -> Path:
    try:
        return _remembered(name, make)
    except UnavailableError as reason:
        if expected_here():
            pytest.fail(f"the environment of {name} has to be there in CI: {reason}", pytrace=False)
        pytest.skip(f"no environment of {name}: {reason}")


def expected_here() -> bool:
    """In CI on the platform that all stacks support a missing environment is a failure."""
    supported = (
        sys.platform == "linux" and platform.machine() == "x86_64" and sys.version_info[:2] in {(3, 11), (3, 12)}
    )
    return os.environ.get("CI", "").lower() in {"true", "1"} and supported


_refused: dict[tuple[Path, str], UnavailableError] = {}


def _remembered(name: str, make: Callable[[], Path]) -> Path:
    """One try per process: twenty tests of one stack do not wait twenty times for an index that is not there."""
    key = (home(), name)
    if key in _refused:
        raise _refused[key]
    try:
        return make()
    except UnavailableError as reason:
        _refused[key] = reason
        raise


def digest(content: bytes) -> str:
    """What an environment's name ends in: all that decides what is in it, and the places that are written into it."""
    here = (platform.python_version(), sys.platform, platform.machine(), sys.base_prefix, str(home()))
    return hashlib.sha256("\0".join(here).encode() + b"\0" + content).hexdigest()[:16]


def _once(name: str, content: bytes, make: Callable[[Path], None]) -> Path:
    """The folder of `content`, made by `make` unless it is whole already.

    It is made in place, since console scripts hold the path of their environment; what an interrupted run left has no
    `WHOLE` file and is removed first.
    """
    place = home() / f"{name}-{digest(content)}"
    if (place / WHOLE).exists():
        return place
    home().mkdir(parents=True, exist_ok=True)
    with FileLock(home() / f".{place.name}.lock", timeout=LOCK_SECONDS):
        if (place / WHOLE).exists():
            return place
        shutil.rmtree(place, ignore_errors=True)
        started = time.monotonic()
        make(place)
        (place / WHOLE).write_text(f"{time.monotonic() - started:.1f}\n")
    return place


@functools.cache
def uv_path() -> str:
    """The installer: the one beside this Python, or any on the path."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise UnavailableError("there is no uv on this machine; make setup installs it")
    return found


def _venv(place: Path, python: str = sys.executable) -> None:
    _uv("venv", "--python", python, place)


def _uv(*arguments: object) -> None:
    _tool([uv_path(), "--quiet", "--no-config", *map(str, arguments)], home())


def _tool(argv: list[str], cwd: Path) -> None:
    """Run an installer; its failure is one of the two errors, with the line that says what happened."""
    environment = {**os.environ, "ONNXRUNTIME_NODE_INSTALL": "skip"}  # npm's package would fetch CUDA files by script
    environment.pop("VIRTUAL_ENV", None)
    done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    said = done.stderr.strip() or done.stdout.strip()
    for signs, what in ((NO_WHEEL, "no release for this Python and platform"), (OFFLINE, "no package index in reach")):
        if any(sign in said for sign in signs):
            raise UnavailableError(what)
    raise BrokenError(f"{Path(argv[0]).name} ended with {done.returncode}:\n{said[-3000:]}")


def size_bytes(place: Path) -> int:
    """Bytes on disk below a folder; a hard link into the installer's cache counts in full."""
    return sum(path.lstat().st_size for path in place.rglob("*"))


def prune() -> list[str]:
    """Remove environments whose requirements have changed; those of single onnxruntime releases stay.

    Returns:
        The names of the removed folders.
    """
    current = {f"{stack}-{digest((REQUIREMENTS / f'{stack}.txt').read_bytes())}" for stack in stacks()}
    if (REQUIREMENTS / "web").exists():
        current.add(f"web-{digest(_project(REQUIREMENTS / 'web'))}")
    known = {name.rpartition("-")[0] for name in current}
    old = [path for path in sorted(home().iterdir()) if path.name.rpartition("-")[0] in known and path.is_dir()]
    removed = [path for path in old if path.name not in current]
    for path in removed:
        shutil.rmtree(path)
    return [path.name for path in removed]


def main(names: list[str]) -> int:
    """Make the environments of all stacks, or of those named, and say what each one costs."""
    for name in names or [*stacks(), "web"]:
        started = time.monotonic()
        if name == "web":
            place = node_environment("web", REQUIREMENTS / "web")
        else:
            place = python_environment(name, REQUIREMENTS / f"{name}.txt").parent
        seconds = time.monotonic() - started
        print(f"{name:10} {seconds:7.1f} s {size_bytes(place) / 1e6:8.0f} MB  {place.name}", flush=True)
    for name in prune() if not names else []:
        print(f"removed    {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
