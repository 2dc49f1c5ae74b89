"""A matrix: what its cells are, and one clear line for everything that is wrong with it."""

import re
from pathlib import Path

import pytest

from deploykit import matrix
from deploykit.errors import UsageError

TWO = """
schema = 1
[defaults]
variants = ["onnx"]
bench = { quick = true, batch = 1 }
task = { timeout_s = 60 }
[[model]]
name = "a"
source = "python:models.py:a"
[[model]]
name = "b"
source = "python:models.py:b"
task.cpus = 2
[[setting]]
name = "small"
[[setting]]
name = "large"
bench.batch = [32, 64]
seed = 3
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / "models.py").write_text("")
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "one.py").write_text("")

    def written(text):
        path = tmp_path / "m.toml"
        path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
        return path

    return written


def labels(cells):
    return [cell.label for cell in cells]


def test_a_cell_is_defaults_model_and_setting_on_top_of_each_other(write, tmp_path):
    cells = matrix.read(write(TWO))
    assert labels(cells) == ["a × small", "a × large", "b × small", "b × large"]
    last = cells[-1]
    assert last.recipe.bench.batch == "32,64"
    assert last.recipe.bench.quick is True
    assert (last.recipe.seed, last.recipe.variants) == (3, "onnx")
    assert last.recipe.source == f"python:{tmp_path}/models.py:b"
    assert (last.task.cpus, last.task.timeout_s) == (2, 60.0)
    assert cells[0].recipe.bench.batch == "1"
    assert (cells[0].task.cpus, cells[0].recipe.seed) == (1, None)


def test_without_settings_there_is_one_and_models_are_named_by_their_source(write):
    text = 'schema = 1\n[[model]]\nsource = "torchvision:resnet18"\n[[model]]\nsource = "mlp"\n'
    assert labels(matrix.read(write(text))) == ["resnet18 × default", "mlp × default"]


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ('[[exclude]]\nmodel = "b"', ["a × small", "a × large"]),
        ('[[exclude]]\nmodel = "b"\nsetting = "l*"', ["a × small", "a × large", "b × small"]),
        ('[[include]]\nsetting = "small"', ["a × small", "b × small"]),
        ('[[include]]\nmodel = "a"\n[[include]]\nsetting = "small"', ["a × small", "a × large", "b × small"]),
        ('[[include]]\nmodel = "[ab]"\n[[exclude]]\nsetting = "small"', ["a × large", "b × large"]),
    ],
)
def test_include_keeps_and_exclude_takes_away(write, rules, left):
    assert labels(matrix.read(write(f"{TWO}\n{rules}\n"))) == left


def test_files_that_travel_lie_below_the_matrix(write, tmp_path):
    cells = matrix.read(write(TWO.replace('models.py:a"', 'models.py:a"\nfiles = ["layers/*.py"]')))
    assert cells[0].files == (tmp_path / "layers" / "one.py",)
    assert cells[2].files == ()


MODEL = '[[model]]\nsource = "mlp"\n'
WRONG = [
    ("", "schema", "schema = 1"),
    ("schema = 2\n" + MODEL, "schema", "schema = 1"),
    ("schema = true\n" + MODEL, "schema", "schema = 1"),
    ("schema = 1\n", "names no model", "[[model]]"),
    ("schema = 1\nmodel = []\n", "names no model", "[[model]]"),
    ("schema = 1\nmodel = 3\n", "model", "docs/sweep.md"),
    ("schema = 1\nsetting = []\n" + MODEL, "setting: is empty", "leave it out"),
    ("schema = 1\n[[modle]]\n" + MODEL, "modle", "did you mean model?"),
    ("schema = 1\n" + MODEL + MODEL, "two are called mlp", "a name of its own"),
    ("schema = 1\n" + MODEL + '[[setting]]\nname = "x"\n[[setting]]\nname = "x"\n', "two are called x", "name"),
    ("schema = 1\n[[model]]\nname = 'x'\n", "source", "source ="),
    ("schema = 1\n[[model]]\nsource = 3\n", "source", "source ="),
    ("schema = 1\n[[model]]\nsource = 'nope:x'\n", "source", "one of"),
    ("schema = 1\n[[model]]\nsource = ''\n", "source", "source ="),
    ("schema = 1\n" + MODEL + "varaints = 'onnx'\n", "varaints", "did you mean variants?"),
    ("schema = 1\n" + MODEL + "variants = 'onnx,nope'\n", "variants", "some of"),
    ("schema = 1\n" + MODEL + "bench.threads = -1\n", "bench.threads", "see docs"),
    ("schema = 1\n" + MODEL + "bench = 3\n", "bench", "see docs"),
    ("schema = 1\n" + MODEL + "seed = nan\n", "seed", "number"),
    ("schema = 1\n" + MODEL + "task.cpus = 0\n", "task: cpus", "timeout_s"),
    ("schema = 1\n" + MODEL + "task.cpu = 1\n", "task: cpu", "cpus"),
    ("schema = 1\n" + MODEL + "task.timeout_s = inf\n", "task: timeout_s", "cpus"),
    ("schema = 1\n" + MODEL + "output = 'x'\n", "output: has no place", "names its bundles"),
    ("schema = 1\n" + MODEL + "handoff.to = 'triton'\n", "handoff: has no place", "afterwards"),
    ("schema = 1\n" + MODEL + "bench.tune = 'latency'\n", "bench.tune: has no place", "afterwards"),
    ("schema = 1\n" + MODEL + "verify.junit = 'x.xml'\n", "verify.junit: has no place", "all cells"),
    ("schema = 1\n" + MODEL + "files = ['nothing/*.py']\n", "nothing/*.py", "below the matrix"),
    ("schema = 1\n" + MODEL + "files = ['../*']\n", "../*", "below the matrix"),
    ("schema = 1\n" + MODEL + "files = ['/etc/passwd']\n", "/etc/passwd", "below the matrix"),
    ("schema = 1\n" + MODEL + "files = ['']\n", "files", "docs/sweep.md"),
    ("schema = 1\n" + MODEL + "name = 'a/b'\n", "name", "docs/sweep.md"),
    ("schema = 1\n" + MODEL + "[[exclude]]\nmodel = 'mpl'\n", "mpl fits none", "did you mean mlp?"),
    ("schema = 1\n" + MODEL + "[[exclude]]\nmodle = 'mlp'\n", "modle", "docs/sweep.md"),
    ("schema = 1\n" + MODEL + "[[exclude]]\n", "no cell is left", "take one"),
    ("schema = 1\nschema = 1\n" + MODEL, "is no TOML", "toml.io"),
    (b"\xff\xfe\x00", "is no text", "docs/sweep.md"),
    ("a" * (1 << 20 | 1), "is larger than", "check the path"),
    ("schema = 1\n" + MODEL + "".join(f"[[setting]]\nseed = {n}\n" for n in range(10_001)), "10001 cells", "split"),
]


@pytest.mark.parametrize(("text", "said", "hint"), WRONG, ids=[said for _, said, _ in WRONG])
def test_what_is_wrong_is_said_in_one_line_with_its_place(write, text, said, hint):
    with pytest.raises(UsageError) as caught:
        matrix.read(write(text))
    assert caught.value.code in {"BAD_MATRIX", "BAD_RECIPE"}
    line = str(caught.value)
    assert re.search(re.escape(said), f"{caught.value.subject}: {caught.value.message}"), line
    assert hint in caught.value.hint, line


def test_a_folder_or_nothing_is_no_matrix(tmp_path):
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(UsageError) as caught:
            matrix.read(path)
        assert caught.value.code == "NOT_FOUND"


def test_the_home_of_a_matrix_is_the_same_however_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    names = ("m.toml", "../project/m.toml", str(tmp_path / "project/m.toml"))
    assert {matrix.home(Path(name)) for name in names} == {tmp_path / "project"}
