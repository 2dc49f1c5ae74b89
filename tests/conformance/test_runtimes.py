"""What every runtime keeps: files of others opened in a fresh process answer as eager does; bad ones are refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from deploykit import registry
from deploykit.session import CPU, CUDA

ONLY = os.environ.get("CONFORMANCE_ONLY")
SLOW = {"torch-compile"}
"""It compiles C++ for every batch: a minute and more."""

RUNTIMES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name in registry.names("runtimes")
    if ONLY in {None, name}
]
MADE = ("exporters", "transforms")
VARIANTS = [(kind, name) for kind in MADE for name in registry.names(kind) if ONLY in {None, name}]

LIMITS = {"fp32": 1.05e-5, "fp16": 1.2e-3, "int8-dynamic": 4.2e-2, "int8-static": 5.4e-2}
"""Root mean square error over the deviation of the output, by precision: three times the worst measured over all models
and batches (3.5e-6, 4.0e-4, 1.4e-2, 1.8e-2). A row given for every row is at 1.5e-1 or more: see the control below."""


def runtime_of(kind, name):
    plugin = registry.load(kind, name)
    return plugin.runtime if kind == "exporters" else registry.load("exporters", plugin.base).runtime


@pytest.mark.parametrize(("kind", "name"), VARIANTS)
def test_answers_as_eager_at_every_batch(kind, name, answered):
    answers = answered(runtime_of(kind, name))["answers"]
    mine = {key: value for key, value in answers.items() if key.startswith(f"{kind}/{name}/")}
    assert mine
    limit = LIMITS.get(registry.load(kind, name).precision, LIMITS["fp32"])
    for key, value in mine.items():
        assert set(value["distances"]) == {"1", "2", "3", "7"}
        assert max(value["distances"].values()) < limit, key


@pytest.mark.parametrize("batch", [2, 3, 7])
@pytest.mark.parametrize("model", ["mlp", "plain", "two"])
def test_control_the_limits_can_fail(model, batch, folders, exported):
    stored = np.load(folders[0] / f"expected-{model}-{batch}.npz")
    for name in stored.files:
        expected = stored[name]
        for broken in (np.repeat(expected[:1], batch, axis=0), np.roll(expected, 1, axis=-1)):
            distance = np.sqrt(np.mean((expected - broken) ** 2)) / np.std(expected)
            assert distance > 2 * max(LIMITS.values())


def test_eager_runtime_takes_the_recorded_weights(answered):
    if ONLY is not None:
        pytest.skip("one plugin is under test")
    # the source builds other weights, so an answer as expected shows that the file's were loaded
    assert max(answered("eager")["answers"]["eager/plain"]["distances"].values()) < LIMITS["fp32"]


@pytest.mark.parametrize("name", RUNTIMES)
def test_says_what_really_runs(name, answered):
    found = answered(name)
    assert CPU in found["providers"]
    for value in found["answers"].values():
        assert value["provider"] == CPU
        assert value["threads"] in {1, None}
        assert not value["phases"], "the CPU needs no transfer"


@pytest.mark.parametrize("name", RUNTIMES)
def test_wrong_feeds_are_this_calls_error(name, answered):
    for value in answered(name)["answers"].values():
        assert value["wrong_feeds"]["error"] == "RUN_ERROR", value["wrong_feeds"]


@pytest.mark.parametrize("kind", ["empty", "text", "cut"])
@pytest.mark.parametrize("name", RUNTIMES)
def test_garbage_is_refused(name, kind, answered):
    refusal = answered(name)["refusals"][kind]
    assert refusal.get("error") == "LOAD_ERROR", refusal
    assert not any(path in refusal["line"] for path in (str(Path(sys.prefix)), ".cc:", ".cpp:", "/bad/", "\n"))


@pytest.mark.parametrize("name", RUNTIMES)
def test_missing_file(name, answered):
    assert answered(name)["refusals"]["missing"].get("error") == "NOT_FOUND"


@pytest.mark.parametrize("provider", [CUDA, "NoSuchExecutionProvider"])
@pytest.mark.parametrize("name", RUNTIMES)
def test_a_provider_that_cannot_run_is_never_the_cpu_in_silence(name, provider, answered):
    found = answered(name)
    if provider in found["providers"]:
        pytest.skip(f"{provider} works here")
    assert found["refusals"][provider].get("error") == "PROVIDER_FALLBACK", found["refusals"][provider]
    assert f"asked for {provider}, would have run on {CPU}" in found["refusals"][provider]["line"]


@pytest.mark.parametrize("name", RUNTIMES)
def test_nothing_is_printed(name, answered):
    assert not answered(name)["said"]


@pytest.mark.parametrize("name", RUNTIMES)
def test_only_the_torch_stack_imports_torch(name, answered):
    assert answered(name)["torch"] is (registry.load("runtimes", name).stack == "torch")
