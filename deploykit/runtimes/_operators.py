"""Operators of packages beside torch that an artifact calls: they exist once their package is imported."""

from __future__ import annotations

import re
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("torchvision", "torchaudio")
"""Packages whose operators have their own name as namespace."""

_CALLED = re.compile(rb"\bops\.(\w+)\.")


def register(artifact: Path) -> None:
    """Import the packages of which the archive (TorchScript or `.pt2`) calls operators; others are left to torch.

    Raises:
        RuntimeError: such a package is not installed here.
    """
    for package in PACKAGES:
        if package in _namespaces(artifact):
            if not find_spec(package):
                raise RuntimeError(f"it calls operators of {package}, which is not installed here")
            import_module(package)


def _namespaces(artifact: Path) -> set[str]:
    """Of every operator that the program's code or graph names; empty for what is no archive, as torch will say."""
    if not zipfile.is_zipfile(artifact):
        return set()
    with zipfile.ZipFile(artifact) as archive:
        texts = [archive.read(name) for name in archive.namelist() if name.endswith((".json", ".py"))]
    return {found.decode() for text in texts for found in _CALLED.findall(text)}
