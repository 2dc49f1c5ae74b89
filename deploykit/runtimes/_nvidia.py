"""What NVIDIA's driver tells about this process."""

from __future__ import annotations

import os
import subprocess

_MIB = 1 << 20
_QUERY = ("nvidia-smi", "--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits")
_SECONDS = 20


def process_memory(pid: int | None = None) -> tuple[int | None, str]:
    """Bytes of device memory that a process holds, its CUDA context included; or None and why it cannot be told.

    Args:
        pid: the process; None takes this one.
    """
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None, "nvidia-smi does not answer"
    if done.returncode != 0:
        return None, "nvidia-smi does not answer"
    held: list[int] = []
    for line in done.stdout.splitlines():
        number, _, memory = (part.strip() for part in line.partition(","))
        if number == str(pid or os.getpid()):
            if not memory.isdecimal():
                return None, "nvidia-smi does not tell the memory of a process here"
            held.append(int(memory) * _MIB)
    # in a container the driver knows this process by another number
    return (sum(held), "") if held else (None, "nvidia-smi does not list this process")
