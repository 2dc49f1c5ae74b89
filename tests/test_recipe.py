"""Recipes as data: what is taken, what is refused with which words, and what reaches a command line."""

from __future__ import annotations

import os
import threading
import tomllib
from pathlib import Path

import pytest

from deploykit import toml_text
from deploykit.errors import LINE_LIMIT, UsageError
from deploykit.recipe import MAX_BYTES, TABLES, Recipe, named_for

WHOLE = """\
schema = 1
source = "python:models.py:build"
inputs = ["image:float32[N,3,8,8]", "size:int64[N]"]
checkpoint = "weights.safetensors"
samples = "data/samples.npz"
preprocess = "imagenet"
trust_code = true
seed = 3
variants = ["onnx", "onnx-int8-static"]
keep_float = ["a", "b"]
target = "ort:1.19"
output = "out/mine"
on = "cpu"
[options.onnx]
opset = 18
[training]
epochs = 2
lr = 0.5
[budget]
max_r = 6
[budget.logits]
max_r = 8
[verify]
self_check = false
baseline = "parity.json"
[bench]
batch = [1, 8]
threads = 2
compile = true
[gates]
goal = "size"
size = "10MB"
against = "@threads=1"
[[handoff]]
to = "triton"
output = "~/triton"
[[handoff]]
to = "mlflow"
output = "/srv/mlflow"
"""


def test_paths_are_relative_to_the_recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    (tmp_path / "deploykit.toml").write_text(WHOLE)
    recipe = Recipe.read(tmp_path / "deploykit.toml")
    assert recipe.source == f"python:{tmp_path}/models.py:build"
    assert recipe.checkpoint == f"{tmp_path}/weights.safetensors"
    assert recipe.samples == f"{tmp_path}/data/samples.npz"
    assert recipe.output == recipe.bundle == f"{tmp_path}/out/mine"
    assert recipe.verify.baseline == f"{tmp_path}/parity.json"
    assert [one.output for one in recipe.handoff] == ["/home/somebody/triton", "/srv/mlflow"]
    assert recipe.gates.against == "@threads=1"


def test_a_recipe_in_the_working_directory_keeps_short_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("deploykit.toml").write_text(WHOLE)
    recipe = Recipe.read(Path("deploykit.toml"))
    assert (recipe.source, recipe.output) == ("python:models.py:build", "out/mine")


@pytest.mark.parametrize("source", ["python:pkg.models:build", "torchvision:resnet18", "mlp"])
def test_sources_that_name_no_file_stay(source, tmp_path):
    (tmp_path / "resnet18").mkdir()
    assert Recipe.of({"schema": 1, "source": source}, tmp_path).source == source


def test_a_bundle_beside_the_recipe_is_compared_with_and_a_variant_is_a_name(tmp_path):
    (tmp_path / "released").mkdir()
    for text, expected in (("released@threads=1", f"{tmp_path}/released@threads=1"), ("onnx", "onnx")):
        assert Recipe.of({"schema": 1, "gates": {"against": text}}, tmp_path).gates.against == expected


def test_what_is_written_is_the_same_recipe(tmp_path):
    (tmp_path / "deploykit.toml").write_text(WHOLE)
    recipe = Recipe.read(tmp_path / "deploykit.toml")
    assert Recipe.parse(recipe.to_toml()) == recipe
    assert Recipe.parse(Recipe.of({"schema": 1}).to_toml()) == Recipe.of({"schema": 1})


def test_only_what_is_named_reaches_a_command():
    recipe = Recipe.parse(WHOLE)
    values = {command: {k: v.value for k, v in named_for(command, recipe).items()} for command in _COMMANDS}
    assert values["export"] == {
        "source": "python:models.py:build", "inputs": ("image:float32[N,3,8,8]", "size:int64[N]"),
        "checkpoint": "weights.safetensors", "samples": "data/samples.npz", "preprocess": "imagenet",
        "trust_code": True, "seed": 3, "variants": "onnx,onnx-int8-static", "keep_float": "a,b",
        "release": "ort:1.19", "output": "out/mine", "epochs": 2, "lr": 0.5,
    }  # fmt: skip
    assert values["run"] == {
        **values["export"], "on": "cpu", "batch": "1,8", "threads": 2, "compiled": True, "goal": "size",
        "size": "10MB", "against": "@threads=1",
    }  # fmt: skip
    assert values["verify"] == {
        "bundle": "out/mine", "on": "cpu", "trust_code": True, "self_check": False, "baseline": "parity.json"
    }  # fmt: skip
    assert values["bench"] == {
        "bundle": "out/mine", "on": "cpu", "trust_code": True, "seed": 3, "source": "python:models.py:build",
        "batch": "1,8", "threads": 2, "compiled": True, "goal": "size", "size": "10MB", "against": "@threads=1",
    }  # fmt: skip
    assert named_for("bench", recipe)["batch"].key == "bench.batch"


_COMMANDS = ("export", "run", "verify", "bench")


def test_every_name_that_reaches_a_command_is_one_of_its_parameters():
    from deploykit.cli import app

    recipe = Recipe.parse(WHOLE)
    later = {"preprocess", "trust_code"}  # of the source
    beside = {"compiled", "against"}  # recipe_replay.py makes requests of them
    for command in _COMMANDS:
        known = {one.name for one in app.group.get_command(None, command).params}
        assert set(named_for(command, recipe)) - known - later - (beside if command == "run" else set()) == set()


def test_budgets_are_flat():
    assert Recipe.parse(WHOLE).budget == {"max_r": 6.0, "logits.max_r": 8.0}


def said(text: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        Recipe.parse(text)
    assert caught.value.code == "BAD_RECIPE"
    assert len(str(caught.value)) <= LINE_LIMIT
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("suorce = 'mlp'", "suorce", "did you mean source?"),
        ("keep-float = 'auto'", "keep-float", "did you mean keep_float?"),
        ("threads = 2", "threads", "it belongs into [bench]"),
        ("[bench]\ntreads = 2", "bench.treads", "did you mean threads?"),
        ("[bench]\nseed = 2", "bench.seed", "it belongs to the top of the file, before any [table]"),
        ("[gate]\nsize = '1MB'", "gate", "did you mean gates?"),
        ("[[handoff]]\nto = 'triton'\noutput = 'x'\nvarient = 'onnx'", "handoff[0].varient", "did you mean variant?"),
        ("[options.onnx]\nopste = 3", "options.onnx.opste", "did you mean opset?"),
        ("[options.onyx]\nopset = 3", "options.onyx", "did you mean onnx?"),
    ],
)
def test_an_unknown_key_is_named_with_what_may_have_been_meant(text, key, hint):
    error = said(f"schema = 1\n{text}")
    assert (error.subject, error.hint) == (f"deploykit.toml: {key}", hint)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("source = 3", "source"),
        ("source = ''", "source"),
        ("source = 'pyhton:x'", "source"),
        ("inputs = 'x:float32[N]'", "inputs"),
        ("inputs = ['x']", "inputs[0]"),
        ("inputs = ['x:float32[-1]']", "inputs[0]"),
        ("inputs = ['x:float32[N]', 'y:float12[N]']", "inputs[1]"),
        ("checkpoint = ['a']", "checkpoint"),
        ("seed = -1", "seed"),
        ("seed = 4294967296", "seed"),
        ("seed = 1.0", "seed"),
        ("seed = true", "seed"),
        ("seed = nan", "seed"),
        ("seed = 2020-01-01", "seed"),
        ("trust_code = 'yes'", "trust_code"),
        ("variants = []", "variants"),
        ("variants = ['onyx']", "variants"),
        ("variants = [['onnx']]", "variants"),
        ("keep_float_target = -3", "keep_float_target"),
        ("target = 'ort:0.1'", "target"),
        ("options = 3", "options"),
        ("[options]\nonnx = 3", "options.onnx"),
        ("[options.onnx]\nopset = '18'", "options.onnx.opset"),
        ("[options.onnx]\nopset = inf", "options.onnx.opset"),
        ("variants = 'torchscript'\n[options.onnx]\nopset = 18", "options.onnx"),
        ("[training]\nepochs = 0", "training.epochs"),
        ("[training]\nlr = nan", "training.lr"),
        ("[training]\noptimizer = 'lion'", "training.optimizer"),
        ("[budget]\nmax_r = '6'", "budget.max_r"),
        ("[budget.logits]\nmax_r = inf", "budget.logits.max_r"),
        ("[bench]\nbatch = -1", "bench.batch"),
        ("[bench]\nbatch = [1, 0]", "bench.batch"),
        ("[bench]\nbatch = 1.5", "bench.batch"),
        ("[bench]\nbatch = '1,x'", "bench.batch"),
        ("[bench]\nbatch = ''", "bench.batch"),
        ("[bench]\nbatch = []", "bench.batch"),
        ("[bench]\nbatch = 99999999999999999999999", "bench.batch"),
        ("[bench]\nthreads = 0", "bench.threads"),
        ("[bench]\nquick = 1", "bench.quick"),
        ("[[bench]]\nbatch = 1", "bench"),
        ("[gates]\ngoal = 'fast'", "gates.goal"),
        ("[gates]\nsize = 10", "gates.size"),
        ("[gates]\nsize = 'ten'", "gates.size"),
        ("[gates]\nlatency_p90 = '5 parsecs'", "gates.latency_p90"),
        ("[gates]\nmax_accuracy_drop = '101%'", "gates.max_accuracy_drop"),
        ("[gates]\nmax_accuracy_drop = '0%'", "gates.max_accuracy_drop"),
        ("[gates]\nmin_throughput = '0/s'", "gates.min_throughput"),
        ("handoff = 'triton'", "handoff"),
        ("[handoff]\nto = 'triton'", "handoff[0].output"),
        ("[handoff]\nto = 'tritno'\noutput = 'x'", "handoff[0].to"),
        ("[handoff]\nto = 'triton'\noutput = 'x'\nversion = 0", "handoff[0].version"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(text, key):
    error = said(f"schema = 1\n{text}")
    assert error.subject == f"deploykit.toml: {key}"
    assert error.hint


@pytest.mark.parametrize("text", ["", "schema = 2", "schema = true", "schema = 1.0", "schema = '1'"])
def test_the_schema_is_named(text):
    assert "schema = 1" in said(text).hint


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"schema = 1\nschema = 1\n", "no TOML"),
        (b"schema = 1\n[bench]\nbatch = 1\n[bench]\nthreads = 1\n", "no TOML"),
        (b"schema = 1\nseed = " + b"9" * 5000, "no TOML"),
        (b"schema = 1\nx = " + b"[" * 100_000, "no"),
        (b"\x00\xff\x00", "UTF-8"),
        (b"\x7fELF" + bytes(range(128)), "no TOML"),
        (b"#" * (MAX_BYTES + 1), "larger"),
    ],
)
def test_files_that_are_no_recipe(raw, word, tmp_path):
    (tmp_path / "x.toml").write_bytes(raw)
    with pytest.raises(UsageError, match=word) as caught:
        Recipe.read(tmp_path / "x.toml")
    assert caught.value.code == "BAD_RECIPE"
    assert str(tmp_path / "x.toml") in caught.value.subject


def test_no_file_and_a_directory_are_not_found(tmp_path):
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(UsageError) as caught:
            Recipe.read(path)
        assert caught.value.code == "NOT_FOUND"


def test_a_pipe_is_read_and_lies_nowhere(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("schema = 1\nsamples = 'a.npz'\n"))
    writer.start()
    assert Recipe.read(pipe).samples == "a.npz"
    writer.join()


def test_reading_runs_no_code(tmp_path):
    (tmp_path / "models.py").write_text("raise SystemExit('read')")
    (tmp_path / "deploykit.toml").write_text(WHOLE)
    assert Recipe.read(tmp_path / "deploykit.toml").source == f"python:{tmp_path}/models.py:build"


@pytest.mark.parametrize(("table", "key"), [(t, k) for t, model in TABLES.items() for k in model.model_fields])
def test_every_example_of_a_key_is_taken(table, key):
    field = TABLES[table].model_fields[key]
    for example in field.examples or ():
        beside = {"to": "triton", "output": "x"} if table == "handoff" else {}
        data = {key: example} if not table else {table: {**beside, key: example}}
        assert Recipe.parse("schema = 1\n" + toml_text.dumps(data))


def test_a_lone_handoff_is_a_list_of_one():
    recipe = Recipe.parse("schema = 1\n[handoff]\nto = 'triton'\noutput = 'x'\n")
    assert [one.to for one in recipe.handoff] == ["triton"]
    assert tomllib.loads(recipe.to_toml())["handoff"] == [{"to": "triton", "output": "x"}]


@pytest.mark.parametrize(
    ("text", "made"),
    [("transformers:gpt2", "{}/gpt2"), ("transformers:gpt2:cache", "{}/gpt2:cache"), ("timm:gpt2", "gpt2")],
)
def test_a_folder_beside_the_recipe_is_meant_whatever_stands_behind_it(tmp_path, text, made):
    (tmp_path / "gpt2").mkdir()
    found = Recipe.parse(f'schema = 1\nsource = "{text}"', tmp_path)
    assert str(found.source) == f"{text.split(':')[0]}:{made.format(tmp_path)}"


@pytest.mark.parametrize("text", ["~nobody-of-that-name/x.npz", "a\\u0000b"])
def test_what_no_file_can_be_called_is_said(tmp_path, text):
    with pytest.raises(UsageError) as caught:
        Recipe.parse(f'schema = 1\nsource = "mlp"\nsamples = "{text}"', tmp_path)
    assert caught.value.code == "BAD_RECIPE"


def test_a_key_of_two_thousand_parts_is_a_wrong_recipe(tmp_path):
    with pytest.raises(UsageError) as caught:
        Recipe.parse(f"schema = 1\n{'.'.join('a' * 2000)} = 1", tmp_path)
    assert caught.value.code == "BAD_RECIPE"
