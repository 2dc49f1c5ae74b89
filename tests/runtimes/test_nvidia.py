import os

import pytest

from deploykit.runtimes import _nvidia


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A `nvidia-smi` that prints what it is given and checks what it is asked."""

    def install(text, status=0):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(
            "#!/bin/sh\n"
            '[ "$1" = "--query-compute-apps=pid,used_gpu_memory" ] || exit 9\n'
            '[ "$2" = "--format=csv,noheader,nounits" ] || exit 9\n'
            f"cat <<'END'\n{text}\nEND\nexit {status}\n"
        )
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return install


def test_memory_of_this_process_over_all_devices(driver):
    driver(f"1, 99\n{os.getpid()}, 300\n{os.getpid()}, 12")
    assert _nvidia.process_memory() == (312 << 20, "")
    assert _nvidia.process_memory(1) == (99 << 20, "")


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        ("1, 99", 0, "does not list this process"),
        ("", 0, "does not list this process"),
        ("{pid}, [N/A]", 0, "does not tell the memory"),
        ("no devices were found", 6, "does not answer"),
    ],
)
def test_what_cannot_be_told_has_a_reason(driver, text, status, reason):
    driver(text.format(pid=os.getpid()), status)
    memory, said = _nvidia.process_memory()
    assert memory is None
    assert reason in said


def test_no_driver(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _nvidia.process_memory() == (None, "nvidia-smi does not answer")
