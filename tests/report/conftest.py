"""Results to render: one of each verdict, and one in which every text is hostile."""

from __future__ import annotations

import math

import pytest

from deploykit.measurements import BenchReport, BenchRow, Choice, Comparison, Recommendation
from deploykit.results import Check, VariantReport, VerifyReport

HOSTILE = (
    "\x1b[31mred\x07 <script>alert(1)</script> </td> | `code` **bold** ]]> & \"'\x00\u202e"
    "\nforged line\r\n| a | b |\ud800"
)
"""Control characters, markup of every output format, a bidirectional override, line ends and a lone surrogate."""


@pytest.fixture
def hostile() -> str:
    return HOSTILE


def check(name="real", verdict="pass", code="", metric="R", value=1.25, limit=4.0, reason="same arithmetic", **more):
    return Check(name, more.pop("input_class", "real"), "output", verdict, code, metric, value, limit, reason, **more)


@pytest.fixture
def verified() -> VerifyReport:
    """A variant of each verdict; 3 + 2 + 3 checks, and three variants without any."""
    onnx = VariantReport(
        "onnx",
        "pass",
        "CPUExecutionProvider",
        (
            check(),
            check("uniform", value=0.5),
            check(
                "top1-agreement",
                input_class="task",
                metric="agreement",
                value=1.0,
                limit=None,
                reason="64 of 64 decisions alike",
            ),
        ),
        reason="tightest of 3",
    )
    broken = VariantReport(
        "onnx-fp16",
        "fail",
        "CPUExecutionProvider",
        (
            check("zeros", metric="different", value=0.0, limit=0.0, reason="same pattern"),
            check(
                "batch-7",
                "fail",
                "SQNR_LOW",
                "centred_sqnr_db",
                31.0,
                45.0,
                "largest difference 9 at output[3, 1]",
                at_least=True,
            ),
        ),
        "SQNR_LOW",
        "batch-7: largest difference 9 at output[3, 1]",
        "batch-7 (seed 3), output output: largest difference 9 at output[3, 1]",
        1,
    )
    few = VariantReport(
        "onnx-int8-static",
        "inconclusive",
        "CPUExecutionProvider",
        (
            check(metric="centred_sqnr_db", value=27.4, limit=15.0, at_least=True),
            check(
                "ones",
                "warn",
                "SQNR_LOW",
                "centred_sqnr_db",
                3.0,
                15.0,
                "outside the calibrated range",
                at_least=True,
                input_class="constant",
            ),
            check(
                "top1-drop",
                "inconclusive",
                "SAMPLE_SIZE",
                "accuracy_drop_upper",
                0.02,
                0.005,
                "about 539 samples like these would decide",
                input_class="task",
            ),
        ),
        "SAMPLE_SIZE",
        "top1-drop: about 539 samples like these would decide",
        None,
        3,
    )
    crashed = VariantReport(
        "torchscript", "error", None, (), "WORKER_DIED", "the worker was killed by signal 11", None, 4
    )
    refused = VariantReport("torch-export", "refused", None, (), "UNTRUSTED_CODE", "can run code", None, 5)
    missing = VariantReport("onnx-int4", "skipped", None, (), "UNAVAILABLE", "not made: no package", None, 0)
    environment = {"packages": {"torch": "2.15.0", "absent": None}}
    return VerifyReport("mlp", "error", 4, environment, (onnx, broken, few, crashed, refused, missing))


@pytest.fixture
def benched() -> BenchReport:
    rows = (
        BenchRow(
            "eager", "CPUExecutionProvider", 1, 2, "measured", median_ns=83_400.0, median_ci_ns=(81_000.0, 85_000.0),
            median_ci_level=0.95, p90_ns=90_000.0, p99_ns=120_000.0, throughput_per_s=11_990.0, load_ms=12.0,
            first_call_ms=1.5, peak_rss_bytes=412_000_000, file_bytes=None, calls=900, launches=3,
        ),
        BenchRow(
            "onnx", "CPUExecutionProvider", 1, 2, "measured", median_ns=21_000.0, p99_ns_reason="only 90 calls",
            p90_ns=25_000.0, median_ci_ns_reason="one launch", throughput_per_s=47_000.0, load_ms=3.0,
            first_call_ms=0.2, peak_rss_bytes=98_000_000, file_bytes=410_000,
        ),
        BenchRow("onnx-fp16", "CPUExecutionProvider", 1, 2, "not_steady", "the clock rose", median_ns=2_100_000.0),
        BenchRow("torchscript", "CPUExecutionProvider", 1, None, "not_measured", "verify says fail"),
    )  # fmt: skip
    compared = (
        Comparison("eager", "onnx", 1, 0.252, (0.24, 0.26), 0.95, "faster"),
        Comparison("eager", "onnx-fp16", 1, 1.01, (0.9, 1.1), 0.95, "indistinguishable"),
    )
    choice = Recommendation(
        "onnx", "4.0× faster than eager", (Choice("onnx-fp16", "no faster"),), (Choice("torchscript", "fails verify"),),
        pareto=("onnx",), dominated=(Choice("onnx-fp16", "onnx is 100.0× faster, and no worse in anything else"),),
    )  # fmt: skip
    return BenchReport("mlp", {"packages": {"torch": "2.15.0"}}, {"quick": True}, rows, compared, choice)


@pytest.fixture
def hostile_verify() -> VerifyReport:
    bad = [
        Check(HOSTILE, "real", HOSTILE, verdict, HOSTILE, HOSTILE, math.nan, 1.0, HOSTILE)
        for verdict in ("fail", "warn", "pass", "inconclusive")
    ]
    task = [
        Check(name, "task", HOSTILE, "pass", "", "agreement", 0.5, 0.1, HOSTILE)
        for name in ("top1-agreement", "top1-drop")
    ]
    variants = (
        VariantReport(HOSTILE, "fail", HOSTILE, (*bad, *task), HOSTILE, HOSTILE, HOSTILE, 1),
        VariantReport(HOSTILE, "error", None, (), HOSTILE, HOSTILE, None, 4),
        VariantReport(HOSTILE, "skipped", None, (), HOSTILE, HOSTILE, None, 0),
    )
    return VerifyReport(HOSTILE, "fail", 1, {"packages": {HOSTILE: HOSTILE}}, variants)


@pytest.fixture
def hostile_bench() -> BenchReport:
    rows = (
        BenchRow(
            HOSTILE,
            HOSTILE,
            1,
            1,
            "not_steady",
            HOSTILE,
            median_ns=1.0,
            p90_ns_reason=HOSTILE,
            file_bytes=5,
            peak_rss_bytes=7,
            nodes={HOSTILE: 3},
        ),
        BenchRow(HOSTILE + "2", HOSTILE, 1, 1, "measured", median_ns=1.0, file_bytes=5, peak_rss_bytes=7),
        BenchRow(HOSTILE, HOSTILE, 1, 1, "not_measured", HOSTILE),
    )
    one = (Choice(HOSTILE, HOSTILE),)
    choice = Recommendation(HOSTILE, HOSTILE, one, one, "size", (HOSTILE,), True, (HOSTILE,), one)
    return BenchReport(HOSTILE, {"packages": {HOSTILE: HOSTILE}}, {}, rows, (), choice)
