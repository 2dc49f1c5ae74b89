"""Every known model gets the verdict and the code that it deserves: broken ones are caught, sound ones pass."""

from __future__ import annotations

import re
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


def parameters(rows: tuple[Known | Foreign, ...]) -> list:
    """One test per row; a gap of the product is a strict xfail, so that mending it is noticed."""
    found = []
    for row in rows:
        marks = [pytest.mark.slow] if row.slow else []
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


@pytest.mark.parametrize("known", parameters(KNOWN))
def test_known_model(known, tmp_path):
    made = built(known.build)
    if known.refused:
        with pytest.raises(DeploykitError) as caught:
            export(made, tmp_path / "model", list(known.expect), known.options)
        assert caught.value.code == known.refused, str(caught.value)
        assert re.search(known.says, str(caught.value)), str(caught.value)
        return
    bundle = export(made, tmp_path / "model", list(known.expect), known.options)
    reports = deploykit.verify(bundle.path, variants=list(known.expect)).variants
    for report in reports:
        check(report, known.expect[report.name])


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """The bundle of a foreign artifact's model, made when it is first asked for."""
    made: dict[tuple[Build, str], tuple[Made, Bundle]] = {}

    def base(row: Foreign) -> tuple[Made, Bundle]:
        key = (row.build, row.base)
        if key not in made:
            model = built(row.build)
            made[key] = model, export(model, tmp_path_factory.mktemp("base") / "model", [row.base], {})
        return made[key]

    return base


@pytest.mark.parametrize("row", parameters(FOREIGN))
def test_foreign_artifact(row, bases, tmp_path):
    model, bundle = bases(row)
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
    "BASELINE_DRIFT": "pipeline/test_baseline.py",
    "BASELINE_INPUTS": "parity/test_drift.py",
    "BASELINE_OTHER_MODEL": "pipeline/test_baseline.py",
    "GATE_BLIND": "pipeline/test_selfcheck.py",
    "PROBE_POWER": "pipeline/test_selfcheck.py",
    "PROVIDER_FALLBACK": "cli/test_end_to_end.py",
    "QDQ_MISMATCH": "quantization/test_behaviour.py",
    "REFERENCE_DRIFT": "cli/test_verify_in_ci.py",
    "SATURATION_RISK": "pipeline/test_quantized.py",
    "TIME_LIMIT": "test_isolation.py",
    "UNTRUSTED_CODE": "cli/test_end_to_end.py",
    "WORKER_CRASHED": "test_isolation.py",
}
"""Codes that need another machine, another command or a broken process, and the test that brings them out."""


def test_every_diagnosis_is_brought_out_by_some_model():
    assert set(CODES) - expected_codes() <= set(ELSEWHERE)
    for code, file in ELSEWHERE.items():
        assert code in (TESTS / file).read_text(), f"{code} is not in {file}"
