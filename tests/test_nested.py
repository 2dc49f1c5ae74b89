from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch.utils import _pytree as pytree

from deploykit.errors import UsageError
from deploykit.nested import joined, key, register_dataclasses, unique


@dataclass
class Inner:
    x: torch.Tensor


@dataclass
class Outer:
    inner: Inner
    scale: float


@pytest.mark.parametrize(
    ("names", "taken", "found"),
    [
        (["a", "b"], [], ("a", "b")),
        (["a", "a", "a"], [], ("a", "a_out", "a_out_")),
        (["a", "b"], ["a", "a_out"], ("a_out_", "b")),
    ],
)
def test_names_are_made_distinct(names, taken, found):
    assert unique(names, taken) == found


def test_names_are_made_of_the_keys_on_the_way():
    leaves, _ = pytree.tree_flatten_with_path({"a/b": [1, (2,)]})
    assert [joined(key(step) for step in path) for path, _ in leaves] == ["a_b_0", "a_b_1_0"]
    assert key(SimpleNamespace(name="field")) == "field"
    assert key(3) == "3"


def test_dataclasses_are_looked_into_however_deep():
    value = [Outer(Inner(torch.ones(1)), 2.0)]
    register_dataclasses(value)
    register_dataclasses(value)
    leaves, _ = pytree.tree_flatten_with_path(value)
    assert [joined(key(step) for step in path) for path, _ in leaves] == ["0_inner_x", "0_scale"]


def test_a_field_that_the_constructor_does_not_take_is_refused_and_not_lost():
    @dataclass
    class Late:
        x: torch.Tensor
        top: torch.Tensor = field(init=False)

        def __post_init__(self):
            self.top = self.x.max()

    with pytest.raises(UsageError, match="field top of Late") as caught:
        register_dataclasses([Late(torch.ones(2))])
    assert caught.value.code == "BAD_OUTPUT"
