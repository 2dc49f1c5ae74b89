"""Integers: how far eager lets an index go is found by asking it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.capture.ranges import UNBOUNDED, limits, widened
from deploykit.model import LoadedModel
from deploykit.signature import Dim, Signature, TensorSpec


class Table(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, 3)

    def forward(self, tokens, scale):
        return self.table(tokens).sum(1) * scale


class Sum(nn.Module):
    def forward(self, tokens, scale):
        return tokens.sum(1, keepdim=True) * scale


def loaded(module: nn.Module) -> LoadedModel:
    specs = (TensorSpec("tokens", "int64", ("N", 8)), TensorSpec("scale", "float32", ("N", 1)))
    example = {"tokens": np.zeros((2, 8), np.int64), "scale": np.ones((2, 1), np.float32)}
    return LoadedModel(module.eval(), Signature(specs, (), (Dim("N"),)), example)


@pytest.mark.parametrize("rows", [2, 3, 100, 128, 129, 30_522])
def test_the_example_spans_the_whole_table(rows):
    found = widened(loaded(Table(rows))).example
    assert (found["tokens"].min(), found["tokens"].max()) == (0, rows - 1)
    assert np.array_equal(found["scale"], np.ones((2, 1)))


def test_an_integer_that_is_no_index_gets_a_modest_range():
    found = widened(loaded(Sum())).example["tokens"]
    assert (found.min(), found.max()) == (0, UNBOUNDED)
    assert torch.from_numpy(found).shape == (2, 8)


@pytest.mark.parametrize("rows", [127, 128, 129, 200])
def test_a_table_as_long_as_the_modest_range_is_an_index_all_the_same(rows):
    assert limits(loaded(Table(rows))) == {"tokens": rows - 1}


def test_no_limit_of_an_integer_that_is_no_index():
    assert limits(loaded(Sum())) == {}


def test_a_spread_that_eager_refuses_is_not_taken():
    class Sorted(nn.Module):
        def forward(self, tokens, scale):
            if (tokens[:, 1:] > tokens[:, :-1]).any():
                raise ValueError("not sorted")
            return tokens.float() * scale

    assert widened(loaded(Sorted())).example["tokens"].max() == 0
