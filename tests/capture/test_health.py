import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deploykit.capture import health, state
from deploykit.errors import WorkError
from deploykit.model import LoadedModel
from deploykit.signature import Dim, Signature, TensorSpec

SOURCE = Path(__file__).read_text().splitlines()


class Forward(nn.Module):
    """A module of one function; `parts` become its submodules, `state` its buffers."""

    def __init__(self, function, state=None, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)
        for name, value in (state or {}).items():
            self.register_buffer(name, value)
        self.calls = 0

    def forward(self, x):
        return self.function(self, x)


def loaded(module, example=None):
    x = np.random.default_rng(0).standard_normal((2, 50)).astype(np.float32) if example is None else example
    signature = Signature((TensorSpec("x", x.dtype.name, ("N", *x.shape[1:])),), dims=(Dim("N"),))
    return LoadedModel(module.eval(), signature, {"x": x})


def refused(model):
    with pytest.raises(WorkError) as caught:
        health.check(model)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(50, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.ReLU()),
        Forward(lambda m, x: {"a": x.sum(), "b": [None, x > 0, x.long()]}),
        Forward(lambda m, x: x[:, :0]),
        Forward(lambda m, x: x * float("inf")),
        Forward(lambda m, x: torch.complex(x, x)),
    ],
)
def test_a_pure_module_is_healthy_whatever_it_answers(module):
    health.check(loaded(module))


def test_a_module_in_train_mode_is_named():
    model = loaded(nn.Sequential(nn.Linear(50, 4), nn.Sequential(nn.ReLU(), nn.Dropout(0.5))))
    model.module[1][1].train()
    error = refused(model)
    assert error.code == "TRAIN_MODE"
    assert "1.1 (Dropout)" in str(error)
    assert "eval()" in error.hint
    model.module.train()
    assert "the model (Sequential)" in str(refused(model))


def count_up(module, x):
    module.count += 1
    return x


def count_in_place(module, x):
    module.inner.running.mul_(0.9).add_(0.1 * x.mean())
    return x


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("running", torch.ones(3), persistent=False)


@pytest.mark.parametrize(
    ("module", "buffer"),
    [
        (Forward(count_up, state={"count": torch.tensor(0)}), "buffer count"),
        (Forward(count_in_place, inner=Inner()), "buffer inner.running"),
    ],
)
def test_a_buffer_that_forward_changes_is_named(module, buffer):
    error = refused(loaded(module))
    assert (error.code, error.subject) == ("STATEFUL_REFERENCE", buffer)
    line = int(error.message.rpartition("test_health.py:")[2])
    assert "+= 1" in SOURCE[line - 1] or "add_(" in SOURCE[line - 1]


def test_batch_norm_left_in_train_mode_under_an_eval_parent_is_found_before_its_counter_moves():
    model = loaded(nn.Sequential(nn.Linear(50, 4), nn.BatchNorm1d(4)))
    model.module[1].train()
    assert refused(model).code == "TRAIN_MODE"
    assert model.module[1].num_batches_tracked == 0


def counted(module, x):
    module.calls += 1
    return x * module.calls


@pytest.mark.parametrize(
    "module",
    [
        Forward(lambda m, x: nn.functional.dropout(m.layer(x)), layer=nn.Linear(50, 30)),
        Forward(lambda m, x: x + torch.rand_like(x)),
        Forward(lambda m, x: torch.where(torch.rand_like(x) < 0.5, x, torch.nan)),
    ],
)
def test_a_forward_that_answers_twice_differently_is_no_reference(module):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        error = refused(loaded(module))
    assert (error.code, error.subject) == ("REFERENCE_NONDETERMINISTIC", "output output")


@pytest.mark.parametrize(
    ("function", "where"),
    [
        (lambda m, x: m.head(x), "head.1 (aten.bernoulli_)"),
        (lambda m, x: m.head[0](x) + torch.randn(2, 30), "the model (aten.randn)"),
    ],
)
def test_whose_forward_draws_random_numbers_is_told(function, where):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Sequential(nn.Linear(50, 30), Forward(lambda m, x: nn.functional.dropout(x, 0.1)))
        error = refused(loaded(Forward(function, head=head)))
    said = f"two calls with the same input differ: {where} at test_health.py:"
    assert error.message.startswith(said)
    line = int(error.message.removeprefix(said).split()[0])
    assert ("dropout" if "bernoulli" in where else "randn") in SOURCE[line - 1]


def test_integers_must_repeat_exactly():
    def flips(module, x):
        return torch.tensor([1_000_000, next(ticks)])

    ticks = iter(range(9))
    assert refused(loaded(Forward(flips))).code == "REFERENCE_NONDETERMINISTIC"


class Settings:
    def __init__(self):
        self.seen = 0


def remembered(module, x):
    module.seen.append(x.shape)
    return x


def in_a_dict(module, x):
    module.seen["calls"] += 1
    return x


def in_an_object(module, x):
    module.seen.seen += 1
    return x


def in_a_tensor(module, x):
    module.seen += x.mean()
    return x


def drawn_from(module, x):
    return x * (next(module.seen) > 100)


def later(module, x):
    module.seen += 1
    return x if module.seen < 50 else x * 2


@pytest.mark.parametrize(
    ("function", "start"),
    [
        (later, 0),
        (remembered, []),
        (in_a_dict, {"calls": 0}),
        (in_an_object, Settings()),
        (in_a_tensor, torch.zeros(())),
        (drawn_from, itertools.count()),
    ],
)
def test_state_in_a_plain_attribute_is_named_with_its_module(function, start):
    inner = Forward(function)
    inner.seen = start
    error = refused(loaded(nn.Sequential(nn.Linear(50, 4), nn.Sequential(inner))))
    assert (error.code, error.subject) == ("STATEFUL_REFERENCE", "attribute 1.0.seen")


def test_a_counter_that_moves_the_answer_is_state_and_no_randomness():
    error = refused(loaded(Forward(counted)))
    assert (error.code, error.subject) == ("STATEFUL_REFERENCE", "attribute calls")


def test_a_counter_shared_by_the_class_is_named():
    class Shared(Forward):
        total = 0

    def up(module, x):
        Shared.total += 1
        return x

    error = refused(loaded(Shared(up)))
    assert (error.code, error.subject) == ("STATEFUL_REFERENCE", "attribute Shared.total")


def test_what_settles_in_the_first_calls_is_a_cache():
    def cached(module, x):
        if not module.table:
            module.table["scale"] = torch.linspace(0, 1, x.shape[1])
            module.shapes = [tuple(x.shape)]
        module.last = x * module.table["scale"]
        return module.last

    module = Forward(cached)
    module.table = {}
    health.check(loaded(module))
    assert module.shapes == [(2, 50)]


def test_a_parameter_that_forward_trains_is_named():
    def step(module, x):
        module.layer.bias.data.add_(1e-3)
        return module.layer(x)

    error = refused(loaded(Forward(step, layer=nn.Linear(50, 3))))
    assert (error.code, error.subject) == ("STATEFUL_REFERENCE", "parameter layer.bias")


@pytest.mark.parametrize(
    "change", [lambda x: x.add_(1), lambda x: x.relu_(), lambda x: x[0].zero_(), lambda x: x.mul_(1 + 2**-22)]
)
def test_an_input_changed_in_place_is_named(change):
    def forward(module, x):
        change(x)
        return x.sum()

    error = refused(loaded(Forward(forward)))
    assert (error.code, error.subject) == ("INPUT_MUTATED", "input x")


def test_weights_that_are_nan_answer_twice_alike_and_are_left_to_the_recorder():
    module = nn.Linear(50, 4)
    with torch.no_grad():
        module.weight[1] = torch.nan
    health.check(loaded(module))
    with torch.no_grad():
        module.weight[:] = torch.nan
    health.check(loaded(module))


def test_checking_leaves_the_model_as_it_was():
    model = loaded(nn.Sequential(nn.Linear(50, 4), nn.BatchNorm1d(4)))
    before, x = state.digest(model.module), model.example["x"].copy()
    health.check(model)
    assert state.digest(model.module) == before
    assert np.array_equal(model.example["x"], x)


def test_the_digest_sees_every_bit_every_name_and_buffers_that_are_not_saved():
    def digest(change=None):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 3), Inner())
        if change:
            with torch.no_grad():
                change(module)
        return state.digest(module)

    with torch.random.fork_rng():
        whole = digest()
        assert digest() == whole
        others = {
            digest(lambda m: m[0].weight.copy_(m[0].weight.T.clone())),
            digest(lambda m: m[0].bias.mul_(1 + 2**-23)),
            digest(lambda m: m[1].running.add_(1)),
            digest(lambda m: m.half()),
            digest(lambda m: m.register_buffer("empty", torch.zeros(0))),
            digest(lambda m: m.register_buffer("scalar", torch.tensor(1))),
        }
    assert len(others | {whole}) == 7


def test_the_digest_of_special_dtypes_is_taken_from_their_bytes():
    def digest(tensor):
        return state.digest(Forward(None, state={"b": tensor}))

    tensors = [
        torch.zeros(4, dtype=d) for d in (torch.bool, torch.bfloat16, torch.complex64, torch.uint8, torch.float16)
    ]
    assert len({digest(t) for t in tensors}) == 5
    assert digest(torch.ones(4, 2).T) == digest(torch.ones(2, 4))
