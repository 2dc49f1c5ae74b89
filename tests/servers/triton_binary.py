"""The real `tritonserver` binary from the wheel of nvidia-pytriton, with the one backend that the wheel has: python."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.servers.environments import environment
from tests.servers.running import clean_environment

STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class Triton:
    """How to start the binary: `argv` is completed with `--model-repository=...` and the ports."""

    argv: tuple[str, ...]
    env: dict[str, str]


def triton(place: Path) -> Triton:
    """Lay out a backend folder below `place` (an empty folder of the test's own) and say how to start the server.

    The wheel has one stub per Python release, apart from the backend that looks for it beside itself. The moved stub no
    longer finds the wheel's bundled libraries, nor always this Python's own, so both go to LD_LIBRARY_PATH; PYTHONPATH
    gives the embedded interpreter the environment's packages. Without the stub's libraries the server does not fail, it
    waits for ever.
    """
    binaries = environment("triton")
    site = next((binaries.parent / "lib").glob("python3*/site-packages"))
    bundled = site / "pytriton" / "tritonserver"
    backend = place / "backends" / "python"
    shutil.copytree(bundled / "backends" / "python", backend)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    shutil.copy(bundled / "python_backend_stubs" / version / STUB, backend / STUB)
    env = clean_environment(
        PATH=f"{binaries}{os.pathsep}{os.environ['PATH']}",
        PYTHONPATH=str(site),
        LD_LIBRARY_PATH=f"{site / 'nvidia_pytriton.libs'}:{Path(sys.base_prefix) / 'lib'}",
    )
    argv = (
        str(bundled / "bin" / "tritonserver"),
        f"--backend-directory={place / 'backends'}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--allow-metrics=false",  # it would listen on a port of its own
    )
    return Triton(argv, env)
