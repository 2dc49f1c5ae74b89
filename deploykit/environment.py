"""Fingerprint of the machine and the packages: what a number depends on. Names no host, no user and no path."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "deploykit", "torch", "torchvision", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "numpy",
)  # fmt: skip

BUILDERS = ("timm", "transformers", "safetensors")
"""Packages that build models of their own: another version of them may build another model."""

FLAGS = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "sve", "bf16",
)  # fmt: skip
"""CPU flags that decide which kernels an engine picks."""

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "KMP_AFFINITY", "CUDA_VISIBLE_DEVICES")
_VARIABLE_PREFIX = "ORT_"

_GPU_SECONDS = 10.0


def packages() -> dict[str, str]:
    """Versions of everything installed that a finished cell of a sweep depends on."""
    return {name: found for name in (*PACKAGES, *BUILDERS) if (found := _version(name))}


def fingerprint() -> dict[str, Any]:
    """What this machine is, as JSON data; whatever the system does not tell is None."""
    cpu = _cpu_info()
    flags = set((cpu.get("flags") or cpu.get("Features") or "").split())
    load = _quietly(os.getloadavg)
    return {
        "cpu": cpu_name(cpu),
        "cpu_flags": [flag for flag in FLAGS if flag in flags],
        "cores": {"affinity": _affinity(), "quota": cgroup_cores(), "usable": usable_cores()},
        "hypervisor": "hypervisor" in flags if flags else None,
        "governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "transparent_hugepages": _chosen(_text(Path("/sys/kernel/mm/transparent_hugepage/enabled"))),
        "memory_bytes": _memory_bytes(),
        "system": platform.system() or None,
        "kernel": platform.release() or None,
        "machine": platform.machine() or None,
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "gpu": _gpus(),
        "variables": {name: _value(name) for name in sorted(os.environ) if _relevant(name)},
        "load_average": None if load is None else [round(value, 2) for value in load],
    }


def cpu_name(cpu: dict[str, str] | None = None) -> str | None:
    """The CPU's model, None where the system does not tell; `cpu` is /proc/cpuinfo where that was read already."""
    cpu = _cpu_info() if cpu is None else cpu
    return cpu.get("model name") or cpu.get("Model") or platform.machine() or None


def usable_cores() -> int:
    """Cores this process may really use: its affinity mask, cut to the cgroup's quota rounded up; at least 1."""
    quota = cgroup_cores()
    cores = _affinity() or os.cpu_count() or 1
    return cores if quota is None else max(1, min(cores, int(-(-quota // 1))))


def cgroup_cores(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The smallest CPU quota on the way from this process's control group to the root, in cores; None where none is.

    cgroup v2 writes `cpu.max` (`200000 100000` or `max 100000`), v1 `cpu.cfs_quota_us` (-1: none) and
    `cpu.cfs_period_us` (kernel documentation, admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst).
    """
    found = [cores for folder in control_groups(proc, root) if (cores := _quota(folder)) is not None]
    return min(found, default=None)


def control_groups(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[Path]:
    """The process's own control groups that can limit the CPU, and all above them."""
    for line in (_text(proc) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for base in (root / controllers, root / "cpu") if controllers else (root, root / "unified"):
            group = base / path.lstrip("/")
            yield group
            yield from (above for above in group.parents if above.is_relative_to(base))


def _quota(folder: Path) -> float | None:
    unified = (_text(folder / "cpu.max") or "").split()
    quota, period = unified if len(unified) == 2 else ("", "")
    if not unified:
        quota, period = _text(folder / "cpu.cfs_quota_us") or "", _text(folder / "cpu.cfs_period_us") or ""
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:  # `max`, `-1`, or no such files
        return None
    return int(quota) / int(period)


def _affinity() -> int | None:
    ask = getattr(os, "sched_getaffinity", None)  # absent on macOS
    return None if ask is None else len(ask(0))


def _cpu_info() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    found: dict[str, str] = {}
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def _memory_bytes() -> int | None:
    pages = _quietly(lambda: os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return pages if pages and pages > 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> list[dict[str, str]] | None:
    """Name and driver of each GPU as nvidia-smi tells them; None without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=_GPU_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    names = ("name", "driver", "memory")
    return [dict(zip(names, map(str.strip, line.split(",")), strict=False)) for line in said.splitlines() if line]


def _relevant(name: str) -> bool:
    return name in _VARIABLES or name.startswith(_VARIABLE_PREFIX)


def _value(name: str) -> str:
    """The variable's value, unless it is a path: that would name the machine."""
    value = os.environ[name]
    return "(a path)" if os.sep in value else value


def _text(path: Path) -> str | None:
    text = _quietly(lambda: path.read_text(encoding="utf-8", errors="replace"))
    return text.strip() if text else None


def _chosen(text: str | None) -> str | None:
    """`always [madvise] never` as `madvise`."""
    return text.partition("[")[2].partition("]")[0] or None if text else None


def _quietly(ask: Any) -> Any:
    try:
        return ask()
    except (OSError, ValueError, AttributeError):
        return None
