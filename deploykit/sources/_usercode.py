"""Finding and calling what a `python:` source names, with the user's own mistakes told as theirs."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from deploykit.errors import DeploykitError, UsageError, WorkError

_LIBRARIES = tuple(sysconfig.get_paths()[key] for key in ("stdlib", "purelib", "platlib"))
_OURS = str(Path(__file__).parent.parent)


def call_target(target: str) -> Any:
    """Import `MODULE:CALLABLE` or `FILE.py:CALLABLE` and call it; a module instance is returned as it is.

    Raises:
        UsageError: NOT_FOUND, UNKNOWN_CALLABLE, or the target has another form.
        WorkError: SOURCE_ERROR, the user's code raised.
    """
    from torch import nn

    where, _, name = target.rpartition(":")
    if not where or not name:
        hint = "write python:package.module:callable or python:path/to/file.py:callable"
        raise UsageError(f"python:{target}", "names no module and callable", hint, "BAD_SOURCE")
    is_file = where.endswith(".py")
    with _first_on_path(Path(where).resolve().parent if is_file else Path.cwd()):
        module = _load_file(where) if is_file else _load_module(where)
        built = _attribute(module, name, where)
        return built if isinstance(built, nn.Module) else _guarded(built, f"python:{target}")


def _load_file(where: str) -> ModuleType:
    file = Path(where)
    if not file.is_file():
        raise UsageError(where, "no such file", "check the path", "NOT_FOUND")
    # its own prefix, so that a user's `json.py` hides nobody's json
    name = f"_deploykit_source_{file.stem}"
    spec = spec_from_file_location(name, file.resolve())
    if spec is None or spec.loader is None:
        raise UsageError(where, "not a Python file", "name a .py file", "NOT_FOUND")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, pickle and torch.export look their classes' module up there
    loader = spec.loader
    try:
        _guarded(lambda: loader.exec_module(module), where)
    except DeploykitError:
        sys.modules.pop(name, None)
        raise
    return module


def _load_module(where: str) -> ModuleType:
    def load() -> ModuleType:
        try:
            return import_module(where)
        except ModuleNotFoundError as error:
            # a module that the user's code itself fails to import is the code's error, not a wrong name
            if error.name is not None and f"{where}.".startswith(f"{error.name}."):
                hint = "check the name; the current directory is on the path"
                raise UsageError(f"python:{where}", f"no module named {error.name}", hint, "NOT_FOUND") from error
            raise

    module: ModuleType = _guarded(load, f"python:{where}")
    return module


def _attribute(module: ModuleType, name: str, where: str) -> Callable[[], Any]:
    try:
        found = reduce(getattr, name.split("."), module)
    except AttributeError as error:
        offered = [
            n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__
        ]
        hint = f"it defines {', '.join(offered)}" if offered else "it defines no callable"
        raise UsageError(where, f"has no {name}", hint, "UNKNOWN_CALLABLE") from error
    if not callable(found):
        raise UsageError(where, f"{name} is not callable", "name a function that builds the model", "UNKNOWN_CALLABLE")
    return found


def _guarded(function: Callable[[], Any], subject: str) -> Any:
    try:
        return function()
    except DeploykitError:
        raise
    except (Exception, SystemExit) as error:  # whatever foreign code raises; Ctrl-C goes through
        message = f"{type(error).__name__}: {error} ({_place(error)})"
        raise WorkError(subject, message, "run the callable on its own first", "SOURCE_ERROR") from error


def _place(error: BaseException) -> str:
    """`file.py:line` of the innermost frame that is the user's, without the path of this machine."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_library(f.filename)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside the file"


def _is_library(file: str) -> bool:
    return file.startswith(("<", _OURS, *_LIBRARIES))


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    """`folder` leads `sys.path` while the user's code is imported and called."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
