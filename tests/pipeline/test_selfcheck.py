"""Mutants of real artifacts through the real gate: it catches them, and says so when it could not have."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from deploykit.bundle import Bundle
from deploykit.errors import StorageError, WorkError
from deploykit.isolation import Pool
from deploykit.mutation import make
from deploykit.pipeline import selfcheck
from deploykit.pipeline.judging import Gate
from deploykit.pipeline.selfcheck import self_check
from deploykit.results import Check


@pytest.fixture(scope="module")
def pool():
    with Pool() as shared:
        yield shared


def checked(bundle, variant, pool, limits=None, **options):
    gate = Gate(Bundle(bundle), limits=limits or {})
    record = gate.bundle.manifest.variant(variant)
    artifact = gate.bundle.file_of(variant)
    with tempfile.TemporaryDirectory() as folder:
        answers = gate.answers(record, artifact, pool, Path(folder))
        return self_check(gate, record, artifact, pool, answers, **{"seconds": 60.0, **options})


@pytest.mark.parametrize("variant", ["onnx", "torchscript", "torch-export"])
def test_every_killable_mutant_of_a_sound_model_is_caught(tiny_bundle, pool, variant):
    before = {path: path.read_bytes() for path in tiny_bundle.rglob("*") if path.is_file()}
    found = checked(tiny_bundle, variant, pool)
    assert (found.verdict, found.code) == ("pass", ""), found
    assert found.tried >= 10
    assert found.killed == found.killable >= 8
    assert found.eager_sqnr_db > 60
    assert found.smallest < 1e-4
    assert found.smallest_place
    assert {path: path.read_bytes() for path in tiny_bundle.rglob("*") if path.is_file()} == before


def test_a_blinded_gate_is_found_out(tiny_bundle, pool):
    found = checked(tiny_bundle, "onnx", pool, {"max_r": 1e9, "warn_r": 1e9})
    assert (found.verdict, found.code) == ("fail", "GATE_BLIND")
    assert found.killed < found.killable
    assert "max_r 4 → 1e+09" in found.reason


def test_a_gate_loosened_a_little_still_sees(tiny_bundle, pool):
    found = checked(tiny_bundle, "onnx", pool, {"max_r": 8.0})
    assert found.verdict == "pass"


def test_four_are_tried_however_short_the_time_is(tiny_bundle, pool):
    found = checked(tiny_bundle, "onnx", pool, seconds=0.0)
    assert found.tried == selfcheck.MIN_TRIED
    assert found.verdict == "pass"


def test_the_same_seed_finds_the_same(tiny_bundle, pool):
    first, second = (checked(tiny_bundle, "onnx", pool, seed=5) for _ in range(2))
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)


def test_a_mutant_that_kills_the_worker_is_a_mutant_that_was_caught(tiny_bundle, pool, monkeypatch):
    real, calls = Gate.answers, []

    def answers(self, record, artifact, pool, folder, **options):
        calls.append(artifact)
        if len(calls) == 2:  # the first mutant
            raise WorkError("sessions:answer", "the worker process died of SIGSEGV", "leave it out", "WORKER_CRASHED")
        return real(self, record, artifact, pool, folder, **options)

    monkeypatch.setattr(Gate, "answers", answers)
    found = checked(tiny_bundle, "onnx", pool)
    assert found.mutants[0].code == "WORKER_CRASHED"
    assert found.mutants[0].moved == float("inf")
    assert found.verdict == "pass"


def test_what_the_file_shows_counts_as_seen(tiny_bundle, pool):
    """A gate whose values are blind, but which looks at the weights themselves."""
    original = Bundle(tiny_bundle).file_of("onnx").read_bytes()

    def examine(path, answers):
        assert answers.order
        if path.read_bytes() == original:
            return []
        return [Check("weights", "weights", "", "fail", "WEIGHT_INTEGRITY", "steps", 3.0, 0.5, "moved")]

    found = checked(tiny_bundle, "onnx", pool, {"max_r": 1e9, "warn_r": 1e9}, examine=examine)
    assert found.verdict == "pass"
    assert "WEIGHT_INTEGRITY" in {mutant.code for mutant in found.mutants}


def test_what_failed_before_is_no_evidence_of_sight(tiny_bundle, pool):
    """A check that the sound artifact fails, too, sees no mutant."""

    def examine(path, answers):
        return [Check("weights", "weights", "", "fail", "WEIGHT_INTEGRITY", "steps", 3.0, 0.5, "always")]

    found = checked(tiny_bundle, "onnx", pool, {"max_r": 1e9, "warn_r": 1e9}, examine=examine)
    assert found.code == "GATE_BLIND"


def test_an_artifact_that_cannot_be_edited_is_inconclusive_and_no_error(tiny_bundle, pool, tmp_path):
    """Judged as one format, stored as another: the answers are there, the index of the archive is not."""
    gate = Gate(Bundle(tiny_bundle))
    record = gate.bundle.manifest.variant("torchscript")
    with tempfile.TemporaryDirectory() as folder:
        answers = gate.answers(record, gate.bundle.file_of("torchscript"), pool, Path(folder))
        (tmp_path / "model.pt").write_bytes(b"no archive")
        found = self_check(gate, record, tmp_path / "model.pt", pool, answers, seconds=5.0)
    assert (found.verdict, found.code, found.tried) == ("inconclusive", "PROBE_POWER", 0)
    assert "not an archive of torch" in found.reason


def test_a_full_disk_is_not_a_caught_mutant(tiny_bundle, pool, monkeypatch):
    real = Gate.answers

    def answers(self, record, artifact, pool, folder, **options):
        if "deploykit-mutants-" in str(artifact):
            raise StorageError("model.onnx", "the disk is full", "make room")
        return real(self, record, artifact, pool, folder, **options)

    monkeypatch.setattr(Gate, "answers", answers)
    with pytest.raises(StorageError):
        checked(tiny_bundle, "onnx", pool)


POWERLESS = """\
import torch
from torch import nn


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x) - 1000.0))


class Drowned(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x))) * 1e-6 + 100.0


def constant():
    torch.manual_seed(0)
    return Constant(), torch.rand(2, 6)


def drowned():
    torch.manual_seed(0)
    return Drowned(), torch.rand(2, 6)
"""


@pytest.fixture(scope="module", params=["constant", "drowned"])
def powerless(request, cli, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "models.py").write_text(POWERLESS)
    done = cli(
        "export", f"python:{folder / 'models.py'}:{request.param}", "-o", folder / "bundle", "--variants", "onnx"
    )
    assert done.returncode == 0, done.stderr
    return folder / "bundle"


def test_a_probe_that_hardly_moves_the_model_is_inconclusive(powerless, pool):
    found = checked(powerless, "onnx", pool)
    assert (found.verdict, found.code) == ("inconclusive", "PROBE_POWER"), found
    assert found.eager_sqnr_db < 60


def test_the_time_follows_verifys_own():
    assert selfcheck.seconds_for(0.0) == pytest.approx(1.0)
    assert selfcheck.seconds_for(10.0) == pytest.approx(3.0)
    assert make.DOZEN == 12


@pytest.mark.parametrize(
    ("moved", "low", "high", "expected"),
    [(200.0, 7, 25, 14), (1.5, 7, 25, 16), (0.3, 0, 7, 5), (0.0, 0, 7, 3), (float("inf"), 7, 25, 16)],
)
def test_the_search_goes_where_one_budget_would_be_moved(moved, low, high, expected):
    assert selfcheck._next(7, moved, low, high) == expected
