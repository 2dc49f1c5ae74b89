"""Training is right, good enough, and repeats."""

import time

import pytest
import torch
from torch import nn

from deploykit.errors import UsageError, WorkError
from deploykit.sources._mlp_net import MLP
from deploykit.training import data
from deploykit.training.evaluate import accuracy
from deploykit.training.loop import TrainConfig, fit


@pytest.fixture(scope="module")
def splits():
    return data.digits()


def train(splits, config, on_epoch=None):
    torch.manual_seed(config.seed)
    module = MLP(splits.mean, splits.std)
    return module, fit(module, splits, config, on_epoch)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_defaults_reach_95_percent(splits, optimizer):
    seen = []
    start = (
        time.process_time()
    )  # a busy machine is not a slow training; one thread works, so this is the quiet wall time
    module, losses = train(splits, TrainConfig(optimizer=optimizer), lambda epoch, loss: seen.append((epoch, loss)))
    assert time.process_time() - start < 20
    assert accuracy(module, splits.test_images, splits.test_labels) >= 0.95
    assert seen == list(enumerate(losses, start=1))
    assert losses[-1] < losses[0] / 10
    assert not module.training


def test_same_seed_gives_the_same_bits_and_another_does_not(splits):
    threads = torch.get_num_threads()
    first, losses = train(splits, TrainConfig(epochs=2))
    again, losses_again = train(splits, TrainConfig(epochs=2))
    other, _ = train(splits, TrainConfig(epochs=2, seed=1))
    assert losses == losses_again
    assert torch.get_num_threads() == threads
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.hidden.weight, other.hidden.weight)


def test_step_is_the_gradient_of_the_mean_nll(splits):
    """One SGD step on one batch against the update computed by hand from the cross-entropy of the logits."""
    torch.manual_seed(0)
    module = MLP(splits.mean, splits.std)
    one = data.Splits(
        **{**vars(splits), "train_images": splits.train_images[:32], "train_labels": splits.train_labels[:32]}
    )
    pixels = torch.flatten((one.train_images - splits.mean) / splits.std, 1)
    logits = module.output(torch.relu(module.hidden(pixels)))
    loss = nn.functional.cross_entropy(logits, one.train_labels)
    gradient = torch.autograd.grad(loss, module.hidden.weight)[0]
    expected = module.hidden.weight.detach() - 0.01 * gradient
    losses = fit(module, one, TrainConfig(epochs=1, momentum=0))
    assert losses[0] == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(module.hidden.weight.detach(), expected, atol=1e-6, rtol=1e-5)


def test_divergence_is_an_error_with_a_way_out(splits):
    with pytest.raises(WorkError, match=r"TRAINING_DIVERGED.*lower --lr"):
        train(splits, TrainConfig(lr=1e30))


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "lion"}, {"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"momentum": 1.0},
    ],
)  # fmt: skip
def test_impossible_settings_are_usage_errors(wrong):
    with pytest.raises(UsageError, match="BAD_TRAINING"):
        TrainConfig(**wrong)


def test_accuracy_counts_in_eval_mode_and_puts_modes_back(splits):
    class Oracle(nn.Module):
        """Right about every label but those of class 0, and only in eval mode."""

        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(10))
            self.frozen = nn.Dropout().eval()

        def forward(self, images):
            assert not self.training
            assert not torch.is_grad_enabled()
            right = nn.functional.one_hot(self.labels, 10).float()
            right[:, 0] = 0.5
            right[self.labels == 0, 1] = 1
            return right + self.bias

    oracle = Oracle().train()
    oracle.frozen.eval()
    oracle.labels = splits.test_labels
    zeros = int((splits.test_labels == 0).sum())
    assert accuracy(oracle, splits.test_images, splits.test_labels) == (700 - zeros) / 700
    assert (oracle.training, oracle.frozen.training) == (True, False)
