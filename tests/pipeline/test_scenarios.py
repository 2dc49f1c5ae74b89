import json
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from deploykit import api
from deploykit.benchmark.objective import Objective
from deploykit.benchmark.scenario import Scenario
from deploykit.errors import UsageError
from deploykit.measurements import BenchReport
from deploykit.pipeline import scenarios
from deploykit.pipeline.bench import bench as measured
from deploykit.pipeline.measuring import BenchRequest
from deploykit.pipeline.verify import VerifyRequest, verify
from deploykit.progress import Silent
from deploykit.recommend.choose import Wish
from deploykit.reference import load_arrays
from deploykit.report import text
from deploykit.results import from_data, to_json

SCHEMA = Path(scenarios.__file__).parents[1] / "schemas" / "bench.json"


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny"))


def told(done):
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    return from_data(BenchReport, document)


def bench(cli, bundle, *options):
    given = ("--variants", "onnx", "--threads", 1, "--quick", "--json", "-", *options)
    return cli("bench", bundle, *given, OMP_NUM_THREADS="1")


def test_a_given_rate(cli, bundle):
    done = bench(cli, bundle, "--scenario", "server", "--rate", 200, "--slo", "p50=1s", "--seconds", 30)
    assert done.returncode == 0, done.stdout + done.stderr
    report = told(done)
    assert report.variants == report.sweeps == ()
    (load,) = report.loads
    assert (load.name, load.provider, load.threads) == ("onnx", "CPUExecutionProvider", 1)
    assert (load.verdict, load.slo, load.slo_ns, load.slo_assumed) == ("met", "p50 ≤ 1 s", 1e9, False)
    assert (load.rate_per_s, load.searched, load.launches) == (200, False, 3)
    assert 10 < load.calls <= 3 * 667  # p99 wants twice its thousand; a slow start leaves less time
    assert [one.percentile for one in load.latency] == ["p50", "p90", "p99", "p99.9"]
    assert load.latency[0].ns > 0
    assert load.latency[3].ns is None
    assert load.utilization == pytest.approx(200 * load.service_ns / 1e9)
    raw = load_arrays(bundle / "reports" / "bench-server.safetensors")
    assert set(raw) == {f"onnx/{launch}/{what}" for launch in range(3) for what in ("due", "begun", "ended")}
    assert sum(len(array) for name, array in raw.items() if name.endswith("due")) == load.calls
    assert json.loads((bundle / "reports" / "bench-server.json").read_text()) == json.loads(done.stdout)
    assert not (bundle / "reports" / "bench.json").exists()
    assert report.protocol["scenario"] == "server"


@pytest.mark.slow
def test_an_objective_that_is_missed_is_exit_1(cli, bundle):
    done = bench(cli, bundle, "--scenario", "server", "--rate", 100, "--slo", "p50=.001us", "--seconds", 30)
    assert done.returncode in {1, 3}, done.stderr  # 3 where this machine cannot keep time that well
    verdict = told(done).loads[0].verdict
    assert done.returncode == {"missed": 1, "inconclusive": 3}[verdict]


def test_a_rate_beyond_all_bounds_is_missed(cli, bundle):
    done = cli(
        "bench", bundle, "--variants", "onnx", "--threads", 1, "--quick", "--scenario", "server", "--rate", 1_000_000,
        OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "onnx: missed" in done.stdout
    assert "overloaded: requests arrive faster than they are served" in done.stdout


def test_a_search(cli, bundle):
    done = bench(cli, bundle, "--scenario", "server", "--slo", "p50=20ms", "--seconds", 15)
    report = told(done)
    (load,) = report.loads
    assert done.returncode == {"met": 0, "inconclusive": 3}[load.verdict], done.stderr
    assert load.searched
    assert load.probes
    if load.verdict == "met":
        assert 0 < load.rate_per_s < 1.5 * load.closed_loop_per_s
        assert load.latency[0].ns <= 20e6


def test_a_sweep(cli, bundle):
    done = bench(cli, bundle, "--scenario", "offline", "--seconds", 20)
    assert done.returncode == 0, done.stderr
    report = told(done)
    assert report.variants == report.loads == ()
    (sweep,) = report.sweeps
    assert sweep.verdict == "measured"
    assert [row.batch for row in sweep.rows] == [1 << power for power in range(len(sweep.rows))]
    assert len(sweep.rows) >= 3
    assert sweep.rows[0].gain is None
    assert sweep.batch in [row.batch for row in sweep.rows]
    raw = load_arrays(bundle / "reports" / "bench-offline.safetensors")
    assert set(raw) == {f"onnx/{row.batch}" for row in sweep.rows}


NONSENSE = [
    ("--scenario", "server", "--rate", "0"),
    ("--scenario", "server", "--rate", "-3"),
    ("--scenario", "server", "--rate", "nan"),
    ("--scenario", "server", "--rate", "inf"),
    ("--scenario", "server", "--rate", "0.001"),
    ("--scenario", "server", "--slo", "p99"),
    ("--scenario", "server", "--slo", "p99=-1ms"),
    ("--scenario", "server", "--slo", ""),
    ("--scenario", "server", "--batch", "1,8"),
    ("--scenario", "server", "--seconds", "nan"),
    ("--scenario", "server", "--seconds", "0"),
    ("--scenario", "offline", "--rate", "5"),
    ("--scenario", "offline", "--batch", "8"),
    ("--scenario", "offline", "--tune", "latency"),
    ("--scenario", "server", "--against", "onnx"),
    ("--scenario", "server", "--profile"),
    ("--seconds", "5"),
    ("--rate", "5"),
    ("--slo", "p99=5ms"),
]


@pytest.mark.parametrize("options", NONSENSE, ids=" ".join)
def test_nonsense_is_refused_with_a_hint_before_any_work(cli, made, options):
    done = cli("bench", made, *options)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "hint: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (made / "reports").exists()


@pytest.mark.parametrize("option", [("--scenario", "burst"), ("--scenario", "server", "--rate", "fast")])
def test_what_click_refuses(cli, made, option):
    done = cli("bench", made, *option)
    assert done.returncode == 2
    assert option[0] in done.stderr or "--rate" in done.stderr


def test_programs_are_told_as_well(tmp_path):
    plain = BenchRequest(tmp_path, scenario=Scenario("server", 5.0, Objective("p99", 1e6)))
    scenarios.check(plain)
    for wrong in (
        replace(plain, scenario=Scenario("server", -5.0)),
        replace(plain, batches=(1, 2)),
        replace(plain, scenario=Scenario("offline"), batches=(2,)),
        replace(plain, wish=Wish("throughput")),
        replace(plain, tune="latency"),
        replace(plain, against="onnx"),
        replace(plain, profile=True),
    ):
        with pytest.raises(UsageError):
            scenarios.check(wrong)


@pytest.mark.slow
def test_from_python(bundle):
    given = {"variants": "onnx", "threads": 1, "quick": True, "scenario": "server", "seconds": 30}
    report = api.bench(bundle, rate=100.0, slo="p50=1s", **given)
    assert [(one.name, one.verdict, one.rate_per_s) for one in report.loads] == [("onnx", "met", 100.0)]
    with pytest.raises(UsageError):
        api.bench(bundle, slo="p50", **given)


@pytest.mark.parametrize("kind", ["offline", pytest.param("server", marks=pytest.mark.slow)])
def test_what_failed_verify_is_a_row_with_its_code(bundle, kind):
    verified = verify(VerifyRequest(bundle, ("onnx", "torchscript")), Silent())
    failed = replace(verified.variants[1], verdict="fail", code="SQNR_LOW", reason="real: too far", exit_code=1)
    verified = replace(verified, variants=(verified.variants[0], failed), exit_code=1)
    rate = 100.0 if kind == "server" else None
    request = BenchRequest(
        bundle, quick=True, threads=1, session="spinning=off", scenario=Scenario(kind, rate, None, 20)
    )
    report = measured(request, Silent(), verified)
    assert report.exit_code == 1
    assert {"onnx", "torchscript"} <= {one.name for one in (*report.sweeps, *report.loads)}
    rows = {one.name: one for one in (*report.sweeps, *report.loads)}
    assert rows["onnx"].verdict == "measured"
    assert rows["onnx"].settings == "threads=1,spinning=off"
    assert (rows["torchscript"].verdict, rows["torchscript"].reason) == ("not_measured", "SQNR_LOW: real: too far")
    shown = text.render_bench(report)
    assert "not measured: SQNR_LOW: real: too far" in " ".join(shown.split())
    assert "opened with threads=1,spinning=off (onnx)" in shown
    jsonschema.validate(json.loads(to_json(report)), json.loads(SCHEMA.read_text()))
    stored = json.loads((bundle / "reports" / f"bench-{kind}.json").read_text())
    assert stored == json.loads(to_json(report))
