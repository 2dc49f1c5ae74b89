"""The user's own code as a source: what it may return, and how its mistakes are told."""

import copy
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from deploykit.capture.outputs import with_outputs
from deploykit.errors import DeploykitError, UsageError, WorkError
from deploykit.model import SourceSpec
from deploykit.signature import Dim
from deploykit.sources._weights import save_weights
from deploykit.sources.python import Source

TWO_INPUTS = Path(__file__).parent.parent / "fixtures" / "two_inputs.py"

HEAD = """
import torch
from torch import nn

class Add(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(3, 3)
        self.drop = nn.Dropout()
    def forward(self, a, b, shift=None):
        return self.scale(self.drop(a)) + b
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Write `body` behind HEAD into a file, and load `build` (or `name`) from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def loader(body, name="build", **options):
        (tmp_path / "user.py").write_text(HEAD + textwrap.dedent(body))
        return Source().load(SourceSpec.parse(f"python:user.py:{name}", **options))

    return loader


def returning(value):
    return f"def build():\n    return {value}\n"


def test_two_inputs_fixture():
    first, again, other = (Source().load(SourceSpec.parse(f"python:{TWO_INPUTS}:build", seed=s)) for s in (1, 1, 2))
    assert [str(spec) for spec in first.signature.inputs] == ["left:float32[N,32]", "right:float32[N,16]"]
    assert first.signature.dims == (Dim("N"),)
    assert {name: array.shape for name, array in first.example.items()} == {"left": (2, 32), "right": (2, 16)}
    assert torch.equal(first.module.scores.weight, again.module.scores.weight)
    assert not torch.equal(first.module.scores.weight, other.module.scores.weight)
    assert "train_mode" not in first.notes
    with torch.no_grad():
        outputs = first.module(torch.randn(512, 32), torch.randn(512, 16))
    assert [tuple(output.shape) for output in outputs] == [(512, 8), (512, 1)]
    assert all(0.5 < float(output.std()) < 2 for output in outputs)


def test_module_form_finds_the_current_directory_and_leaves_the_path_alone(tmp_path, monkeypatch):
    package = tmp_path / "zoo_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sizes.py").write_text("WIDTH = 5")
    (package / "nets.py").write_text(
        "from torch import nn\nfrom zoo_for_test.sizes import WIDTH\n"
        "class Nets:\n    @staticmethod\n    def build():\n        import torch\n"
        "        from zoo_for_test import sizes\n        return nn.Linear(WIDTH, 1), torch.zeros(1, sizes.WIDTH)\n"
    )
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    loaded = Source().load(SourceSpec.parse("python:zoo_for_test.nets:Nets.build"))
    assert str(loaded.signature.inputs[0]) == "input:float32[N,5]"
    assert sys.path == path


def test_file_form_finds_its_neighbours_and_hides_nobody(tmp_path):
    (tmp_path / "neighbour_for_test.py").write_text("WIDTH = 4")
    (tmp_path / "json.py").write_text(
        "import torch\nfrom neighbour_for_test import WIDTH\n"
        "class Net(torch.nn.Linear):\n    pass\n"
        "def build():\n    return Net(WIDTH, 1), torch.zeros(1, WIDTH)\n"
    )
    loaded = Source().load(SourceSpec.parse(f"python:{tmp_path}/json.py:build"))
    import json

    assert hasattr(json, "loads")
    assert getattr(sys.modules[type(loaded.module).__module__], "Net") is type(loaded.module)  # noqa: B009 (reads as meant)


@pytest.mark.parametrize(
    ("examples", "inputs"),
    [
        ("(torch.ones(4, 3), torch.zeros(4, 3))", ["a:float32[N,3]", "b:float32[N,3]"]),
        ("[torch.ones(4, 3), torch.zeros(1, 3)]", ["a:float32[4,3]", "b:float32[1,3]"]),
        ("(torch.ones(4, 3), torch.tensor(1))", ["a:float32[4,3]", "b:int64[]"]),
        ("{'b': torch.zeros(1, 3), 'a': torch.ones(1, 3)}", ["a:float32[N,3]", "b:float32[N,3]"]),
    ],
)
def test_signature_from_examples(load, examples, inputs):
    loaded = load(returning(f"Add(), {examples}"))
    assert [str(spec) for spec in loaded.signature.inputs] == inputs
    assert list(loaded.example) == ["a", "b"]
    rows = 2 if loaded.signature.dims else 4
    assert loaded.example["a"].shape == (rows, 3)
    assert (loaded.example["a"] == 1).all()
    with torch.no_grad():
        assert loaded.module(*map(torch.from_numpy, loaded.example.values())).shape == (rows, 3)


def test_example_rows_are_the_users_rows(load):
    body = returning("nn.Linear(3, 3), torch.arange(15.0).view(5, 3).requires_grad_()")
    assert np.array_equal(load(body).example["input"], np.arange(6.0, dtype=np.float32).reshape(2, 3))


def test_inputs_from_the_command_line(load):
    texts = ("b:float32[N,H,3]", "a:float32[N,H,3]")
    first, again, other = (load(returning("Add()"), inputs=texts, seed=seed) for seed in (1, 1, 2))
    assert [spec.name for spec in first.signature.inputs] == ["a", "b"]
    assert first.signature.dims == (Dim("N"), Dim("H"))
    assert first.example["a"].shape == (2, 32, 3)
    assert np.array_equal(first.example["a"], again.example["a"])
    assert not np.array_equal(first.example["a"], other.example["a"])
    assert not np.array_equal(first.example["a"], first.example["b"])


@pytest.mark.parametrize(
    ("dtype", "fits"),
    [
        ("int64", lambda a: set(np.unique(a)) == {0, 1}),
        ("bool", lambda a: set(np.unique(a)) == {False, True}),
        ("float16", lambda a: abs(a.astype(np.float32).std() - 1) < 0.2),
        ("complex64", lambda a: abs(a.imag.std() - 1) < 0.2 and abs(a.real.std() - 1) < 0.2),
    ],
)
def test_drawn_values_suit_their_dtype(load, dtype, fits):
    array = load(returning("nn.Identity()"), inputs=(f"input:{dtype}[N,100]",)).example["input"]
    assert (array.dtype.name, array.shape) == (dtype, (2, 100))
    assert fits(array)


def test_train_mode_is_noted_and_left(load):
    loaded = load(returning("Add(), (torch.ones(2, 3), torch.ones(2, 3))"))
    assert loaded.notes["train_mode"] == "was in train mode; switched to eval"
    assert not any(part.training for part in loaded.module.modules())
    partly = (
        "def build():\n    m = Add().eval()\n    m.drop.train()\n    return m, (torch.ones(2, 3), torch.ones(2, 3))\n"
    )
    assert "train_mode" in load(partly).notes


def test_class_and_instance_as_callable(load):
    text = ("input:float32[N,3]",)
    assert type(load("class Net(nn.Identity):\n    pass\n", "Net", inputs=text).module).__name__ == "Net"
    assert isinstance(load("net = nn.Linear(3, 2)\n", "net", inputs=text).module, torch.nn.Linear)


def test_checkpoint(load, tmp_path):
    torch.manual_seed(77)
    trained = torch.nn.Linear(3, 2)
    save_weights(trained, tmp_path / "weights")
    loaded = load(returning("nn.Linear(3, 2), torch.ones(1, 3)"), checkpoint=str(tmp_path / "weights"))
    assert torch.equal(loaded.module.weight, trained.weight)
    assert loaded.notes["weights"] == "checkpoint"


@pytest.mark.parametrize(
    ("value", "inputs", "code", "words"),
    [
        ("Add()", (), "NO_INPUTS", r"add --input NAME:DTYPE\[dims\] for NAME in a, b"),
        ("Add()", ("a:float32[N,3]", "c:float32[N,3]"), "INPUT_NAMES", "forward takes a, b, shift; given were a, c"),
        ("Add()", ("a:float32[N,3]",), "INPUT_NAMES", "given were a;"),
        ("Add()", ("a:float32[N,3]", "a:float32[N,3]"), "INPUT_NAMES", "twice"),
        ("Add(), (torch.ones(1), ) * 4", (), "INPUT_NAMES", "forward takes a, b, shift: too many positional arguments"),
        ("Add(), {'a': torch.ones(1)}", (), "INPUT_NAMES", "missing a required argument: 'b'"),
        ("Add(), {'a': torch.ones(1), 'c': torch.ones(1)}", (), "INPUT_NAMES", "given were a, c"),
        ("Add(), torch.ones(1)", (), "INPUT_NAMES", "missing a required argument: 'b'"),
        ("Add(), (torch.ones(2, 3), [1, object()])", (), "BAD_EXAMPLE", "input b_1: the example is a object"),
        ("Add(), (1, 2)", (), "BAD_EXAMPLE", "hold no tensor"),
        ("Add(), (torch.ones(2, 3), torch.ones(2, 3))", ("c:float32[N,3]",), "INPUT_NAMES", "no tensor is called c"),
        ("Add(), (torch.ones(2, 3), torch.ones(2, 3))", ("a:float32[N,4]",), "BAD_EXAMPLE", "the example is float32"),
        ("Add()", ("a:float32[N=2..8/2,3]", "b:float32[N,3]"), "BAD_INPUT", "a batch goes in steps of 1"),
        ("Add(), (torch.ones(2, 3), torch.ones(2, 3).bfloat16())", (), "BAD_EXAMPLE", "input b: bfloat16"),
        ("Add(), (torch.ones(0, 3), torch.ones(0, 3))", (), "BAD_EXAMPLE", "input a: the example is empty"),
        ("Add(), 'images'", (), "BAD_EXAMPLE", "the example inputs are a str"),
        ("Add", (), "NOT_A_MODULE", "returned a type"),
        ("(1, 2, 3)", (), "NOT_A_MODULE", "a tuple of int, int, int"),
        ("None", (), "NOT_A_MODULE", "returned a NoneType"),
    ],
)
def test_what_cannot_be_used_is_a_usage_error(load, value, inputs, code, words):
    with pytest.raises(UsageError, match=rf"error\[{code}\].*{words}"):
        load(returning(value), inputs=inputs)


NESTED = """
import dataclasses, typing

@dataclasses.dataclass
class Batch:
    image: torch.Tensor
    scale: float

class Pair(typing.NamedTuple):
    left: torch.Tensor
    right: torch.Tensor

class Takes(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.layer, self.answer = nn.Linear(3, 3), answer
    def forward(self, {parameters}):
        return self.layer({used}) * self.answer
"""


@pytest.mark.parametrize(
    ("parameters", "used", "args", "kwargs", "inputs"),
    [
        ("batch", "batch['a'] + batch['b'][0]", "({'a': X, 'b': [X, None]},)", "{}", ["batch_a", "batch_b_0"]),
        ("*tensors", "tensors[0] - tensors[1]", "(X, X + 1)", "{}", ["tensors_0", "tensors_1"]),
        ("x, *, shift", "x + shift", "(X,)", "{'shift': X}", ["x", "shift"]),
        ("x, scale, flag=False", "x * scale if flag else x", "(X, 2.5, True)", "{}", ["x"]),
        ("x, y=None, z=None", "x + z", "()", "{'z': X, 'x': X}", ["x", "z"]),
        ("batch", "batch.image * batch.scale", "(Batch(X, 0.5),)", "{}", ["batch_image"]),
        ("pair", "pair.left + pair.right", "(Pair(X, X),)", "{}", ["pair_left", "pair_right"]),
        ("states, x", "x + states[0][1]", "([(X, X)], X)", "{}", ["states_0_0", "states_0_1", "x"]),
        ("**named", "named['a'] + named['b']", "()", "{'a': X, 'b': X}", ["a", "b"]),
    ],
)
def test_nested_arguments_become_named_tensors(load, parameters, used, args, kwargs, inputs):
    body = NESTED.format(parameters=parameters, used=used) + (
        f"X = torch.arange(12.0).view(4, 3)\ndef build():\n    return Takes(2.0), {args}, {kwargs}\n"
    )
    loaded = load(body)
    assert [str(spec) for spec in loaded.signature.inputs] == [f"{name}:float32[N,3]" for name in inputs]
    assert [name for name, _ in loaded.module.named_parameters()] == ["layer.weight", "layer.bias"]
    assert type(loaded.module).__name__ == "Takes"
    module, own_args, own_kwargs = sys.modules["_deploykit_source_user"].build()
    copied = copy.deepcopy(loaded.module)
    copied.layer.load_state_dict(module.layer.state_dict())
    with torch.no_grad():
        expected = module(*own_args, **own_kwargs)[:2]
        actual = copied(*map(torch.from_numpy, loaded.example.values()))
    assert torch.equal(actual, expected)


def test_a_dict_is_arguments_by_name_or_the_one_argument(load):
    by_name = NESTED.format(parameters="x, y", used="x + y") + returning(
        "Takes(1.0), {'y': torch.ones(2, 3), 'x': torch.ones(2, 3)}"
    )
    assert [spec.name for spec in load(by_name).signature.inputs] == ["x", "y"]
    one = NESTED.format(parameters="batch", used="batch['x']") + returning("Takes(1.0), {'x': torch.ones(2, 3)}")
    assert [spec.name for spec in load(one).signature.inputs] == ["batch_x"]


def test_constants_of_the_example_are_told(load):
    body = NESTED.format(parameters="x, scale, mode", used="x * scale") + returning(
        "Takes(1.0), (torch.ones(1, 3), 2.5, 'fast')"
    )
    notes = load(body).notes
    assert notes["constants"] == "part of the model: scale=2.5, mode=fast"
    assert notes["example"] == "its one row was repeated to 2: exporters fix a batch of 1"


def test_input_texts_give_the_dims_of_an_example(load):
    body = NESTED.format(parameters="batch", used="batch['a']") + returning("Takes(1.0), {'a': torch.ones(1, 7, 3)}")
    loaded = load(body, inputs=("batch_a:float32[N=1..16,T=4..64/4,3]",))
    assert loaded.signature.dims == (Dim("N", 1, 16), Dim("T", 4, 64, 4))
    assert loaded.example["batch_a"].shape == (2, 4, 3)
    assert not loaded.drawn


def test_keyword_only_parameters_are_described_by_name(load):
    body = NESTED.format(parameters="x, y=None, *, z", used="x + z") + returning("Takes(1.0)")
    loaded = load(body, inputs=("z:float32[N,3]", "x:float32[N,3]"))
    assert [spec.name for spec in loaded.signature.inputs] == ["x", "z"]
    assert loaded.drawn


@pytest.mark.parametrize("parameters", ["self, **named", "self"])
def test_forward_without_parameters_takes_no_example(load, parameters):
    body = f"class Net(nn.Module):\n    def forward({parameters}):\n        return None\n" + returning(
        "Net(), torch.ones(2, 3)"
    )
    with pytest.raises(UsageError, match=r"INPUT_NAMES.*too many positional arguments"):
        load(body)


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("missing.py:build", "NOT_FOUND"),
        ("no_such_package_here:build", "NOT_FOUND"),
        ("torch.no_such_module:build", "NOT_FOUND"),
        ("torch.nn:no_such_layer", "UNKNOWN_CALLABLE"),
        ("torch:__version__", "UNKNOWN_CALLABLE"),
        ("torch.nn", "BAD_SOURCE"),
        ("", "BAD_SOURCE"),
    ],
)
def test_targets_that_do_not_exist(target, code):
    with pytest.raises(UsageError) as refused:
        Source().load(SourceSpec.parse(f"python:{target}"))
    assert refused.value.code == code


def test_callables_on_offer_are_named(load):
    with pytest.raises(UsageError, match=r"UNKNOWN_CALLABLE.*has no bild.*Add, build"):
        load(returning("Add()"), name="bild")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def build():\n    return nn.Linear(3)\n", r"TypeError: .*out_features.* \(user\.py:13\)"),
        ("def build():\n    torch.zeros(2) @ torch.zeros(3)\n", r"RuntimeError: .* \(user\.py:13\)"),
        ("1 / 0\n", r"ZeroDivisionError: division by zero \(user\.py:12\)"),
        ("def build(:\n", r"SyntaxError: .* \(user\.py:12\)"),
        ("import no_such_package_here\n", r"ModuleNotFoundError: .* \(user\.py:12\)"),
        ("def build():\n    raise SystemExit(3)\n", r"SystemExit: 3 \(user\.py:13\)"),
        ("def build(size):\n    return Add()\n", r"TypeError: .*size"),
    ],
    ids=["call", "operator", "import time", "syntax", "its own import", "exit", "arguments"],
)
def test_the_users_error_is_told_with_its_place(load, tmp_path, body, words):
    with pytest.raises(WorkError, match=rf"error\[SOURCE_ERROR\].*{words}") as failed:
        load(body)
    assert str(tmp_path) not in str(failed.value)


def test_a_module_that_fails_to_import_another_is_the_users_error(tmp_path, monkeypatch):
    (tmp_path / "broken_for_test.py").write_text("import no_such_package_here\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DeploykitError, match=r"SOURCE_ERROR.*\(broken_for_test\.py:1\)"):
        Source().load(SourceSpec.parse("python:broken_for_test:build"))


def test_weights_without_shapes_get_them_from_the_example(load):
    body = """
        def build():
            return nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2)), torch.rand(3, 5)
    """
    made = load(body)
    assert [tuple(p.shape) for p in made.module.parameters()] == [(4, 5), (4,), (2, 4), (2,)]
    assert "lazy" in made.notes
    drawn = load(body.replace(", torch.rand(3, 5)", ""), inputs=("input:float32[N,7]",))
    assert tuple(drawn.module[0].weight.shape) == (4, 7)


@pytest.mark.parametrize(
    "wrapped",
    ["torch.compile(net)", "nn.Sequential(torch.compile(net[0]), net[1])"],
)
def test_compiled_modules_are_taken_out_of_their_wrappers(load, wrapped):
    body = f"""
        def build():
            net = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
            return {wrapped}, torch.rand(3, 3)
    """
    made = load(body)
    assert [type(part).__name__ for part in made.module.modules()] == ["Sequential", "Linear", "Tanh"]
    assert made.notes["compiled"] == "torch.compile's wrapper was taken off"


def test_an_input_without_dims_stays_one(load):
    body = """
        class Scaled(nn.Module):
            def forward(self, x, t, on):
                return torch.where(on, x * t, x)

        def build():
            return Scaled(), (torch.ones(4, 3), torch.tensor(2.0), torch.tensor(True))
    """
    made = load(body)
    assert [made.example[name].shape for name in ("x", "t", "on")] == [(4, 3), (), ()]
    assert [spec.shape for spec in with_outputs(made).outputs] == [(4, 3)]
    drawn = load(body.replace(", (torch.ones(4, 3), torch.tensor(2.0), torch.tensor(True))", ""),
                 inputs=("x:float32[N,3]", "t:float32[]", "on:bool[]"))  # fmt: skip
    assert [drawn.example[name].shape for name in ("x", "t", "on")] == [(2, 3), (), ()]
    assert [spec.shape for spec in with_outputs(drawn).outputs] == [("N", 3)]


def test_one_dim_of_two_sizes_is_refused(load):
    body = """
        class Both(nn.Module):
            def forward(self, a, b):
                return a.sum(1) + b.sum(1)

        def build():
            return Both(), (torch.ones(2, 5), torch.ones(2, 7))
    """
    with pytest.raises(UsageError, match="T is 7 in this example, and 5") as caught:
        load(body, inputs=("a:float32[N,T]", "b:float32[N,T]"))
    assert caught.value.code == "BAD_EXAMPLE"


@pytest.mark.parametrize("signature", ["**batch", "*args, **batch"])
def test_a_dict_goes_into_a_forward_that_takes_any_name(load, signature):
    body = f"""
        class Any(nn.Module):
            def forward(self, {signature}):
                return batch["x"] + batch["y"]

        def build():
            return Any(), {{"x": torch.ones(2, 3), "y": torch.ones(2, 3)}}
    """
    made = load(body)
    assert [spec.name for spec in made.signature.inputs] == ["x", "y"]


def test_a_positional_only_parameter_is_described_by_its_name(load):
    body = """
        class Only(nn.Module):
            def forward(self, x, /):
                return x * 2

        def build():
            return Only()
    """
    assert [spec.name for spec in load(body, inputs=("x:float32[N,3]",)).signature.inputs] == ["x"]


def test_modules_compiled_in_place_are_taken_as_they_are(load):
    body = """
        def build():
            net = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
            net[0].compile()
            net.compile()
            return net, torch.rand(3, 3)
    """
    made = load(body)
    assert all(vars(part).get("_compiled_call_impl") is None for part in made.module.modules())
    assert "compiled" in made.notes
