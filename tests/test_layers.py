"""The one rule: nouns are files at the root, verbs are folders, and arrows point down. Walked with `ast`, nothing runs.

Every rule is also tried on a small tree that breaks it: a rule that cannot fail guards nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "deploykit"

VERBS = {
    "sources", "training", "campaign", "capture", "exporters", "transforms", "runtimes", "parity", "quantization",
    "mutation", "localization", "benchmark", "recommend", "report", "handoff", "serve", "remote", "sweep",
}  # fmt: skip
JOINS = {"steps", "pipeline", "cli", "api", "pytest_plugin", "__main__", "__init__"}

ALLOWED = {
    "noun": {"noun"},
    "verb": {"noun"},  # and itself
    "steps": {"noun", "verb", "steps"},
    "pipeline": {"noun", "verb", "pipeline"},
    "cli": {"noun", "verb", "pipeline", "cli", "__init__"},  # __init__ holds the version
    "api": {"noun", "verb", "steps", "pipeline"},
    "pytest_plugin": {"noun", "verb", "api"},
    "__init__": {"noun", "api"},
    "__main__": {"noun", "cli"},
}
"""Layer to the layers it may import, statically, at any depth of a file."""

FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "core", "misc"}
MAX_FILE, MAX_FUNCTION, MAX_COMMAND = 400, 50, 65


def modules(package: Path) -> dict[str, Path]:
    """Dotted name below the package to file; a folder's `__init__` has the folder's name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        inner = parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts
        found[".".join(inner)] = path
    return found


def layer(module: str) -> str:
    """What a module is: a noun, a verb, or one of the joins by name."""
    top = module.split(".", maxsplit=1)[0]
    if top in JOINS:
        return top
    return "verb" if top in VERBS else "noun"


def imports(package: Path, module: str, *, top_level: bool = False) -> Iterator[tuple[str, int]]:
    """Modules of the package that `module` imports, with the line; relative imports are resolved.

    With `top_level` only what really runs when the module is imported: not in functions, not under TYPE_CHECKING.
    """
    known = modules(package)
    tree = ast.parse(known[module].read_text())
    for node in _running(tree) if top_level else ast.walk(tree):
        for name in _named(node, module, known[module].name == "__init__.py", package.name):
            head, _, rest = name.partition(".")
            if head == package.name:
                yield _longest(rest, known), node.lineno


def _running(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


def _named(node: ast.AST, module: str, is_package: bool, root: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            here = [root, *(module.split(".") if module != "__init__" else [])]
            up = node.level - (1 if is_package and module != "__init__" else 0)
            base = ".".join([*here[: len(here) - up], *([base] if base else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    dynamic = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}
    if dynamic and node.args and isinstance(node.args[0], ast.Constant):
        return [str(node.args[0].value)]
    return []


def _longest(name: str, known: dict[str, Path]) -> str:
    """The module that `name` (perhaps with an attribute at its end) means."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or "__init__"


def wrong_arrows(package: Path) -> list[str]:
    found = []
    for module in modules(package):
        own = layer(module)
        for target, line in imports(package, module):
            same_verb = own == "verb" and target.split(".")[0] == module.split(".")[0]
            if layer(target) not in ALLOWED[own] and not same_verb:
                found.append(f"{module}:{line} ({own}) imports {target} ({layer(target)})")
    return found


def cycles(package: Path) -> list[str]:
    """Modules that import each other when they are imported, as `a -> b -> a`."""
    graph = {m: sorted({t for t, _ in imports(package, m, top_level=True)} - {m}) for m in modules(package)}
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> None:
        if module in way:
            found.append(" -> ".join([*way[way.index(module) :], module]))
        elif module not in done:
            for target in graph[module]:
                visit(target, [*way, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def unknown_folders(package: Path) -> list[str]:
    folders = {path.parent.relative_to(package).parts[0] for path in package.glob("*/**/*.py")}
    return sorted(folders - VERBS - JOINS)


def busy_inits(package: Path) -> list[str]:
    """Folder `__init__` files that hold more than a docstring."""
    return [
        str(path.relative_to(package))
        for path in package.glob("*/**/__init__.py")
        if [node for node in ast.parse(path.read_text()).body if not _is_docstring(node)]
    ]


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def junk_drawers(package: Path) -> list[str]:
    return [module for module in modules(package) if FORBIDDEN_NAMES & {p.strip("_") for p in module.split(".")}]


def long_ones(package: Path) -> list[str]:
    found = []
    for module, path in modules(package).items():
        text = path.read_text()
        limit = MAX_COMMAND if path.name.endswith("_command.py") else MAX_FILE
        if (lines := len(text.splitlines())) > limit:
            found.append(f"{module} has {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1 - _docstring_lines(node)
                if length > MAX_FUNCTION:
                    found.append(f"{module}.{node.name} has {length} lines without its docstring")
    return found


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    return (first.end_lineno or 0) - first.lineno + 1 if _is_docstring(first) else 0


HEAVY = {"torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "sklearn"}


def heavy_at_the_top(package: Path) -> list[str]:
    """Foreign giants that a noun, a pipeline or a command would load when it is merely imported."""
    found = []
    for module, path in modules(package).items():
        if layer(module) in {"verb", "steps"} and not _is_plugin(module):
            continue
        for node in _running(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{module}:{node.lineno} imports {n}" for n in names if n.split(".")[0] in HEAVY]
    return found


def _is_plugin(module: str) -> bool:
    """Files that `registry.load` imports in the parent, to read their class attributes."""
    folder, _, name = module.partition(".")
    return folder in {"sources", "exporters", "transforms", "runtimes"} and not name.startswith("_")


RULES = [wrong_arrows, cycles, unknown_folders, busy_inits, junk_drawers, long_ones, heavy_at_the_top]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_deploykit_keeps(rule):
    assert rule(PACKAGE) == []


def test_the_walk_sees_the_whole_package():
    found = modules(PACKAGE)
    assert {"errors", "pipeline.run", "cli.app", "steps.live", "__main__", "__init__", "api"} <= set(found)
    arrows = {(m, t) for m in found for t, _ in imports(PACKAGE, m)}
    assert {("api", "pipeline.export"), ("pipeline.run", "pipeline.bench"), ("__main__", "cli.app")} <= arrows
    assert len(arrows) > 100


SOUND = {
    "__init__.py": '"""Doc."""\nfrom importlib import import_module\n',
    "__main__.py": "from deploykit.cli import app\n",
    "errors.py": "import os\n",
    "bundle.py": "from deploykit.errors import A\n",
    "api.py": "from deploykit.pipeline import run\nfrom deploykit.steps import live\n",
    "parity/__init__.py": '"""Doc."""\n',
    "parity/judge.py": "from deploykit.parity.compare import x\nfrom deploykit import bundle\n",
    "parity/compare.py": "from deploykit.errors import A\n",
    "benchmark/stats.py": "import numpy\n",
    "exporters/onnx.py": "def f():\n    import torch\n",
    "steps/live.py": "import torch\nfrom deploykit.parity import judge\n",
    "pipeline/run.py": "from deploykit.parity.judge import x\nfrom deploykit.pipeline import other\n",
    "pipeline/other.py": "from deploykit.errors import A\n",
    "cli/app.py": "from deploykit.pipeline.run import run\n",
}


@pytest.fixture
def tree(tmp_path):
    """Writes a package like ours, with some files changed."""

    def write(**changed: str) -> Path:
        root = tmp_path / "deploykit"
        for name, text in {**SOUND, **{key.replace("__SLASH__", "/"): text for key, text in changed.items()}}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root

    return write


def test_a_sound_tree_keeps_every_rule(tree):
    package = tree()
    assert [rule.__name__ for rule in RULES if rule(package)] == []


LONG = "def f():\n" + "    x = 1\n" * 60
BROKEN = [
    (wrong_arrows, "errors.py", "from deploykit.parity import judge\n"),
    (wrong_arrows, "errors.py", "def f():\n    from deploykit.parity import judge\n"),
    (wrong_arrows, "errors.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import deploykit.cli.app\n"),
    (wrong_arrows, "errors.py", "from importlib import import_module\nimport_module('deploykit.pipeline.run')\n"),
    (wrong_arrows, "errors.py", "from .parity import judge\n"),
    (wrong_arrows, "parity/judge.py", "from ..benchmark import stats\n"),
    (wrong_arrows, "parity/judge.py", "from deploykit.benchmark.stats import x\n"),
    (wrong_arrows, "parity/judge.py", "import deploykit.pipeline.run as r\n"),
    (wrong_arrows, "parity/judge.py", "import deploykit\n"),
    (wrong_arrows, "steps/live.py", "from deploykit.pipeline import run\n"),
    (wrong_arrows, "steps/live.py", "from deploykit.cli import app\n"),
    (wrong_arrows, "pipeline/run.py", "from deploykit.steps import live\n"),
    (wrong_arrows, "pipeline/run.py", "from deploykit.steps.live import current\n"),
    (wrong_arrows, "pipeline/run.py", "from deploykit import api\n"),
    (wrong_arrows, "cli/app.py", "from deploykit.steps import live\n"),
    (wrong_arrows, "api.py", "from deploykit.cli import app\n"),
    (cycles, "errors.py", "from deploykit import bundle\n"),
    (cycles, "parity/compare.py", "from .judge import x\n"),
    (cycles, "errors.py", "try:\n    from deploykit.bundle import x\nexcept ImportError:\n    pass\n"),
    (unknown_folders, "tools/x.py", ""),
    (busy_inits, "parity/__init__.py", "from deploykit.parity.judge import x\n"),
    (busy_inits, "benchmark/__init__.py", '"""Doc."""\n__all__ = []\n'),
    (junk_drawers, "utils.py", ""),
    (junk_drawers, "parity/_helpers.py", ""),
    (junk_drawers, "common/x.py", ""),
    (long_ones, "errors.py", "x = 1\n" * 401),
    (long_ones, "errors.py", LONG),
    (long_ones, "errors.py", "class A:\n" + "".join(f"    {line}\n" for line in LONG.splitlines())),
    (long_ones, "cli/a_command.py", "x = 1\n" * 66),
    (heavy_at_the_top, "errors.py", "import torch\n"),
    (heavy_at_the_top, "pipeline/run.py", "from onnx import numpy_helper\n"),
    (heavy_at_the_top, "exporters/onnx.py", "import torch.nn as nn\n"),
]


@pytest.mark.parametrize(("rule", "file", "text"), BROKEN)
def test_a_broken_tree_is_found_out(tree, rule, file, text):
    found = rule(tree(**{file.replace("/", "__SLASH__"): text}))
    assert found
    assert file.removesuffix(".py").replace("/", ".").split(".")[0] in " ".join(found)


def test_imports_in_functions_make_no_cycle(tree):
    late = "def f():\n    from deploykit import bundle\n"
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from deploykit import bundle\n"
    assert cycles(tree(**{"errors.py": late})) == cycles(tree(**{"errors.py": typed})) == []
