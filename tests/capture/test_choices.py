"""Index outputs are traced back to the scores they were chosen from."""

import numpy as np
import pytest
import torch

from deploykit.capture import choices
from deploykit.capture.calling import call
from deploykit.capture.watch import Watch
from deploykit.reference import IndexOutput
from tests.fixtures.forwards import Forward, normal

X = normal(4, 5)


def traced(function, x=X):
    """`IndexOutput` and scores of every output that indexes, and all outputs."""
    watch, module = Watch(), Forward(function).eval()
    outputs = call(module, {"x": x}, within=lambda tensors: watch.over(module, tensors))
    found = {name: watch.choices.output(tensor) for name, tensor in outputs}
    scores = {n: watch.choices.scores(t, found[n]) for n, t in outputs if found[n]}
    return {n: index for n, index in found.items() if index}, scores, {n: t.numpy() for n, t in outputs}


def best(scores, output, index):
    """Whether every index of `output` is what ranks so: gathered scores run from the best on."""
    lead = np.asarray(output if index.axis is None else np.moveaxis(output, index.axis, -1), dtype=np.int64)
    lead = lead[..., None] if index.axis is None else lead
    gathered = np.take_along_axis(scores, lead, -1)
    ranked = np.sort(scores, axis=-1)[..., ::-1] if index.largest else np.sort(scores, axis=-1)
    return np.array_equal(gathered, ranked[..., : gathered.shape[-1]])


@pytest.mark.parametrize(
    ("function", "axis", "largest", "lead"),
    [
        (lambda m, x: x.argmax(1), None, True, (4,)),
        (lambda m, x: x.argmin(-1), None, False, (4,)),
        (lambda m, x: x.argmax(0), None, True, (5,)),
        (lambda m, x: x.argmax(), None, True, ()),
        (lambda m, x: x.argmax(1, keepdim=True), 1, True, (4,)),
        (lambda m, x: x.argmax(1, keepdim=True).squeeze(1), None, True, (4,)),
        (lambda m, x: x.argmax(1)[None], None, True, (1, 4)),
        (lambda m, x: x.argmax(1).to(torch.int32), None, True, (4,)),
        (lambda m, x: x.max(dim=1).indices, None, True, (4,)),
        (lambda m, x: x.min(dim=0, keepdim=True)[1], 0, False, (5,)),
        (lambda m, x: x.topk(3).indices, 1, True, (4,)),
        (lambda m, x: x.topk(2, dim=0, largest=False).indices, 0, False, (5,)),
        (lambda m, x: x.topk(1).indices, 1, True, (4,)),
        (lambda m, x: x.topk(1).indices[:, 0], None, True, (4,)),
        (lambda m, x: x.topk(3).indices.T, 0, True, (4,)),
        (lambda m, x: x.topk(3).indices[:, :2].contiguous(), 1, True, (4,)),
        (lambda m, x: x.topk(3).indices.flip(0).flip(0).clone().detach(), 1, True, (4,)),
        (lambda m, x: x.sort(dim=1, descending=True).indices, 1, True, (4,)),
        (lambda m, x: x.sort(stable=True).indices, 1, False, (4,)),
        (lambda m, x: x.argsort(dim=0), 0, False, (5,)),
        (lambda m, x: m.layer(x).softmax(-1).argmax(-1), None, True, (4,)),
        (lambda m, x: x.reshape(2, 2, 5).argmax(2).reshape(4), None, True, (4,)),
        (lambda m, x: x.reshape(2, 2, 5).topk(2, dim=1).indices.permute(1, 2, 0), 0, True, (5, 2)),
    ],
)  # fmt: skip
def test_the_scores_of_an_index_output_are_found_through_views_and_casts(function, axis, largest, lead):
    found, scores, outputs = traced(function)
    assert found == {"output": IndexOutput(axis, largest)}
    assert scores["output"].dtype == np.float64
    assert scores["output"].shape[:-1] == lead
    assert best(scores["output"], outputs["output"], found["output"])


def test_parts_of_an_answer_keep_their_own_rows():
    found, scores, outputs = traced(lambda m, x: [*x.argmax(1).split([1, 3]), x.argmax(1)[1:3]])
    assert [array.shape for array in scores.values()] == [(1, 5), (3, 5), (2, 5)]
    assert all(best(scores[name], outputs[name], found[name]) for name in outputs)
    assert np.array_equal(scores["output_2"], X[1:3])


def test_scores_are_those_before_anybody_changed_them():
    def spoil(module, x):
        scores = module.layer(x)
        top = scores.argmax(1)
        scores.zero_()
        return top

    found, scores, outputs = traced(spoil)
    assert best(scores["output"], outputs["output"], found["output"])
    assert scores["output"].any()


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x.argmax(1) + 1,  # another number
        lambda m, x: x.argmax(1).add_(1),
        lambda m, x: x.argmax(1).float(),  # a float: judged as one
        lambda m, x: torch.tensor([7, 8, 9, 10, 11])[x.argmax(1)],
        lambda m, x: (x > 0).long().argmax(1),  # chosen among integers: exact
        lambda m, x: (x * 3).long(),
        lambda m, x: x.topk(2).values,
        lambda m, x: torch.stack([x.argmax(1), x.argmin(1)]),
    ],
)
def test_what_is_no_index_into_scores_is_none(function):
    assert traced(function)[0] == {}


def test_large_scores_are_left_out(monkeypatch):
    monkeypatch.setattr(choices, "MAX_SCORES", 19)
    assert traced(lambda m, x: x.argmax(1))[0] == {}
    assert traced(lambda m, x: x[1:].argmax(1))[0] != {}


def test_an_empty_batch_has_scores_without_rows():
    found, scores, _ = traced(lambda m, x: x.topk(2).indices, X[:0])
    assert found == scores == {}


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_the_axis_found_on_the_example_holds_at_every_batch_size(rows):
    """With one row every axis of size one looks alike."""
    functions = [
        (lambda m, x: x.topk(1).indices, 1), (lambda m, x: x.argmax(1), None),
        (lambda m, x: x.topk(3).indices, 1), (lambda m, x: x.argmax(0, keepdim=True), 0),
    ]  # fmt: skip
    for function, axis in functions:
        watch, module = Watch(), Forward(function).eval()
        ((_, tensor),) = call(module, {"x": X[:rows]}, within=lambda t, w=watch, m=module: w.over(m, t))
        scores = watch.choices.scores(tensor, IndexOutput(axis, True))
        assert scores.shape[-1] == (rows if axis == 0 else 5)
        assert best(scores, tensor.numpy(), IndexOutput(axis, True))
