"""What was imported: the user's files by content, installed packages by version, nothing of deploykit's."""

from __future__ import annotations

import platform
import sys
from hashlib import sha256
from types import ModuleType

from deploykit.steps.imported import imported


def test_a_file_of_the_users_is_there_by_content(tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text("x = 1\n")
    module = ModuleType("mine_of_a_user")
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, "mine_of_a_user", module)
    assert imported()["files"]["mine_of_a_user"] == sha256(b"x = 1\n").hexdigest()
    file.write_text("x = 2\n")
    assert imported()["files"]["mine_of_a_user"] == sha256(b"x = 2\n").hexdigest()
    file.unlink()
    assert "mine_of_a_user" not in imported()["files"]


def test_packages_are_there_by_version_and_deploykit_and_the_standard_library_are_not():
    import numpy as np

    found = imported()
    assert found["packages"]["numpy"] == np.__version__
    assert found["python"] == platform.python_version()
    assert not [name for name in found["files"] if name.split(".")[0] in {"deploykit", "json", "os", "numpy"}]
