"""Every known model gets the verdict and the code that it deserves: broken ones are caught, sound ones pass."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from torture.known import Build, Expected, Foreign, Known, Made, built
from torture.tables import FOREIGN, KNOWN

import deploykit
from deploykit.bundle import Bundle
from deploykit.diagnosis import CODES
from deploykit.errors import DeploykitError
from deploykit.results import VariantReport

TESTS = Path(__file__).parents[1]
SLOW_SECONDS = 1200  # a network of millions of weights, six variants, on two shared cores


def parameters(rows: Sequence[Known | Foreign]) -> list:
    """One test per row; a gap of the product is a strict xfail, so that mending it is noticed."""
    found = []
    for row in rows:
        marks = [pytest.mark.slow, pytest.mark.timeout(SLOW_SECONDS)] if row.slow else []
        if row.gap:
            marks.append(pytest.mark.xfail(strict=True, reason=row.gap))
        found.append(pytest.param(row, id=row.id, marks=marks))
    return found


def export(made: Made, target: Path, variants: list[str], options: dict) -> Bundle:
    samples = None
    if made.samples is not None:
        samples = target.with_suffix(".npz")
        np.savez(samples, **made.samples)
    return deploykit.export(
        made.module,
        made.inputs,
        target,
        variants=variants,
        inputs=made.described,
        samples=samples,
        options=options,
    )


def check(report: VariantReport, expected: Expected) -> None:
    said = f"{report.name}: {report.verdict} {report.code}: {report.reason}"
    told = {one.code for one in report.checks if one.verdict != "fail"}
    assert report.verdict == expected.verdict, said
    assert report.code in expected.codes, said
    assert re.search(expected.says, report.reason), said
    assert set(expected.warns) <= told, f"{said}; it tells {sorted(told)}"


def variants_of(build: Build, slow: bool) -> list[str]:
    """Every variant that some row needs of this model: it is exported once for all of them."""
    rows = [row for row in (*KNOWN, *FOREIGN) if row.build is build and row.slow == slow]
    names = [[row.base] if isinstance(row, Foreign) else [] if row.options else list(row.expect) for row in rows]
    return list(dict.fromkeys(name for some in names for name in some))


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory):
    """The live model of a row and its bundle, made when it is first asked for."""
    ready: dict[tuple[Build, bool], tuple[Made, Bundle]] = {}

    def find(row: Known | Foreign) -> tuple[Made, Bundle]:
        key = (row.build, row.slow)
        if key not in ready:
            made = built(row.build)
            ready[key] = made, export(made, tmp_path_factory.mktemp("known") / "model", variants_of(*key), {})
        return ready[key]

    return find


@pytest.mark.parametrize("known", parameters([row for row in KNOWN if not row.refused]))
def test_known_model(known, bundle_of, tmp_path):
    if known.options:
        bundle = export(built(known.build), tmp_path / "model", list(known.expect), known.options)
    else:
        bundle = bundle_of(known)[1]
    for report in deploykit.verify(bundle.path, variants=list(known.expect)).variants:
        check(report, known.expect[report.name])


@pytest.mark.parametrize("known", parameters([row for row in KNOWN if row.refused]))
def test_unfit_reference(known, tmp_path):
    with pytest.raises(DeploykitError) as caught:
        export(built(known.build), tmp_path / "model", list(known.expect), known.options)
    assert caught.value.code == known.refused, str(caught.value)
    assert re.search(known.says, str(caught.value)), str(caught.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("row", parameters(FOREIGN))
def test_foreign_artifact(row, bundle_of, tmp_path):
    model, bundle = bundle_of(row)
    artifact = tmp_path / "foreign.model"  # what it is, its content says
    if row.write is not None:
        row.write(model, artifact)
    else:
        proto = onnx.load(bundle.path / str(bundle.manifest.variant(row.base).file))
        row.edit(proto)
        onnx.save(proto, artifact)
    (report,) = deploykit.verify(bundle.path, artifact=artifact, precision=row.precision, trust_code=True).variants
    check(report, row.expect)


def test_every_row_has_its_own_name():
    names = [row.id for row in (*KNOWN, *FOREIGN)]
    assert len(names) == len(set(names))


def expected_codes() -> set[str]:
    """Every code that some row of the tables must bring out."""
    found = {row.refused for row in KNOWN}
    for expected in (*(one for row in KNOWN for one in row.expect.values()), *(row.expect for row in FOREIGN)):
        found |= {*expected.codes, *expected.warns}
    return found - {""}


ELSEWHERE = {
    "ALREADY_REDUCED": "pipeline/test_onnx_source.py",
    "BAD_ANSWER": "test_endpoint.py",
    "BASELINE_DRIFT": "pipeline/test_baseline.py",
    "BASELINE_INPUTS": "parity/test_drift.py",
    "BASELINE_OTHER_MODEL": "pipeline/test_baseline.py",
    "CONCURRENT_ANSWERS": "pipeline/test_remote.py",
    "GATE_BLIND": "pipeline/test_selfcheck.py",
    "NOT_READY": "test_endpoint.py",
    "NOT_VERIFIED": "pipeline/test_handoff.py",
    "PREFLIGHT_FAILED": "pipeline/test_reexport.py",
    "PREPROCESS_MISMATCH": "pipeline/test_preprocessed.py",
    "PROBE_POWER": "pipeline/test_selfcheck.py",
    "PROVIDER_FALLBACK": "cli/test_end_to_end.py",
    "QDQ_MISMATCH": "quantization/test_behaviour.py",
    "REFERENCE_DRIFT": "cli/test_verify_in_ci.py",
    "REQUEST_REFUSED": "test_endpoint.py",
    "RUN_ERROR": "parity/test_judge.py",
    "SATURATION_RISK": "pipeline/test_quantized.py",
    "SERVER_ERROR": "test_endpoint.py",
    "SERVER_OUTPUTS": "pipeline/test_remote.py",
    "SERVER_UNREACHABLE": "pipeline/test_remote.py",
    "SOURCE_FINISHED": "pipeline/test_onnx_source.py",
    "TARGET_CANNOT_LOAD": "pipeline/test_reexport.py",
    "TARGET_CANNOT_SERVE": "pipeline/test_handoff.py",
    "TARGET_TOO_OLD": "pipeline/test_reexport.py",
    "TIME_LIMIT": "test_isolation.py",
    "UNTRUSTED_CODE": "cli/test_end_to_end.py",
    "WORKER_CRASHED": "test_isolation.py",
    "WRONG_INPUT_ACCEPTED": "pipeline/test_remote.py",
    "WRONG_INPUT_CRASHES": "pipeline/test_remote.py",
}
"""Codes that need another machine, another command, a server or a broken process, and the test that brings them out."""


def test_every_diagnosis_is_brought_out_by_some_model():
    assert set(CODES) - expected_codes() <= set(ELSEWHERE)
    for code, file in ELSEWHERE.items():
        assert code in (TESTS / file).read_text(), f"{code} is not in {file}"
