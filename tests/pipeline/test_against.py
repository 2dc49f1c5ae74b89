"""The speed gate from REF to exit code: fake workers for what they must tell, real ones for the whole way."""

import json
import shutil
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from deploykit.benchmark.gate import Rules
from deploykit.benchmark.plan import MS, Protocol
from deploykit.benchmark.series import Measured
from deploykit.errors import RefusedError, UsageError, WorkError
from deploykit.measurements import BenchReport
from deploykit.pipeline import measuring, stored
from deploykit.pipeline.bench import bench
from deploykit.pipeline.measuring import BenchRequest, Field
from deploykit.pipeline.verify import VerifyRequest, verify
from deploykit.progress import Silent
from deploykit.recommend.choose import Wish
from deploykit.recommend.constraints import Constraints
from deploykit.reference import load_arrays, part, save_arrays
from deploykit.report import speed_gate, text
from deploykit.results import from_data
from deploykit.session import CUDA, SessionSettings


@pytest.fixture
def sides(tiny_bundle, tmp_path):
    """A bundle called `new` and its copy `old`."""
    for name in ("new", "old"):
        shutil.copytree(tiny_bundle, tmp_path / name)
    return tmp_path / "new", tmp_path / "old"


@dataclass
class Fakes:
    """Workers that answer rightly and take `ns(artifact, settings)` a call, times a spread between processes."""

    ns: object = lambda artifact, settings: 1e6
    spread: float = 0.002
    faults: dict = field(default_factory=dict)
    opened: list = field(default_factory=list)

    def __post_init__(self):
        self.rng = np.random.default_rng(0)

    def open_worker(self, _subject):
        return FakeWorker(self)


@dataclass
class FakeWorker:
    fakes: Fakes
    alive: bool = True

    def call(self, step, *, timeout_s=0, **given):
        fakes = self.fakes
        if step == "measure:open":
            self.artifact, settings = Path(given["artifact"]), SessionSettings(**given["settings"])
            fakes.opened.append((self.artifact, settings, given["feeds"]))
            self.own = fakes.ns(self.artifact, settings) * np.exp(fakes.rng.normal(0, fakes.spread))
            told = {"provider": settings.provider, "threads": settings.threads, "pools": []}
            return {"load_ms": 3.0, "first_call_ms": 1.0, **told}
        if (step, self.artifact.parts[-4 if "variants" in self.artifact.parts else -1]) in fakes.faults:
            self.alive = False
            raise WorkError("measure", "it is gone", "nothing", "WORKER_CRASHED")
        return getattr(self, step.partition(":")[2])(**given)

    def check(self, case, answer):
        outputs = part(load_arrays(Path(case)), "expected")
        save_arrays(outputs, Path(answer))
        return list(outputs)

    def warm_up(self, **_):
        return {"steady": True, "repeats": 1}

    def block(self, repeats, **_):
        return {"ns": [round(self.own)] * 8, "repeats": repeats, "phases": []}

    def memory(self):
        return {"peak_rss_bytes": 1 << 26}

    def pause(self):
        pass

    resume = pause

    def close(self):
        self.alive = False


@pytest.fixture(scope="module")
def proven(tiny_bundle):
    """Verify's answers about the bundle and its copies, once."""
    return {names: verify(VerifyRequest(tiny_bundle, names), Silent()) for names in (None, ("onnx",))}


@pytest.fixture
def fakes(monkeypatch, proven):
    made = Fakes()

    def known(request, progress):
        report = proven[None if request.variants is None else ("onnx",)]
        if set(request.variants or ()) <= {"onnx"}:
            return report
        wanted = tuple(one for one in proven[None].variants if one.name in request.variants)
        return replace(report, variants=wanted)

    monkeypatch.setattr(measuring, "verify", known)
    monkeypatch.setattr(Field, "open_worker", lambda field, subject: made.open_worker(subject))
    return made


def gate(new, ref, variants=("onnx",), verified=None, **more):
    return bench(BenchRequest(new, variants, against=str(ref), **more), Silent(), verified)


def slower_in(folder, factor):
    return lambda artifact, settings: 1e6 * (factor if folder in artifact.parts else 1.0)


def test_two_bundles(sides, fakes):
    new, old = sides
    report = gate(new, old)
    (found,) = report.gates
    assert (found.verdict, found.exit_code, report.exit_code) == ("pass", 0, 0)
    assert (found.base, found.candidate, found.batch, found.launches) == ("old/onnx", "onnx", 1, 10)
    assert found.paired
    assert not found.retried
    assert [row.name for row in report.variants] == ["old/onnx", "onnx"]
    assert [(one.base, one.candidate) for one in report.comparisons] == [("old/onnx", "onnx")]
    assert report.recommendation is None
    written = json.loads((new / "reports" / "gate.json").read_text())
    assert from_data(BenchReport, written) == from_data(BenchReport, json.loads(json.dumps(written)))
    assert written["gates"][0]["verdict"] == "pass"
    assert str(new.parent) not in json.dumps(written)
    raw = Measured.load(new / "reports" / "gate.safetensors")
    assert len(raw.of("onnx", 1)) == len(raw.of("old/onnx", 1)) == 10
    assert not (old / "reports" / "gate.json").exists()
    assert not (new / "reports" / "bench.json").exists()


def test_both_compute_on_the_same_inputs(sides, fakes):
    gate(*sides)
    assert len({feeds for _, _, feeds in fakes.opened}) == 1
    assert {artifact.parent.parent.parent.name for artifact, _, _ in fakes.opened} <= {"new", "old"}
    assert len(fakes.opened) == 20


@pytest.mark.parametrize(("factor", "verdict", "code"), [(1.10, "fail", 1), (0.90, "pass", 0)])
def test_slower_fails_and_faster_passes(sides, fakes, factor, verdict, code):
    fakes.ns = slower_in("new", factor)
    report = gate(*sides)
    assert (report.gates[0].verdict, report.exit_code) == (verdict, code)
    assert report.gates[0].metrics[0].ratio == pytest.approx(factor, rel=0.005)


def test_what_does_not_decide_is_tried_once_more_on_fresh_launches(sides, fakes):
    levels = cycle([0.75, 1.0, 1.035, 1.07, 1.4])  # slower by 3.5 %, as far as one can tell
    fakes.ns = lambda artifact, settings: 1e6 * (next(levels) if "new" in artifact.parts else 1.0)
    (found,) = gate(*sides).gates
    assert (found.verdict, found.exit_code, found.retried) == ("inconclusive", 3, True)
    assert found.launches == 60  # thirty, and thirty more
    assert len(fakes.opened) == 120


def test_a_retry_can_decide(sides, fakes):
    fakes.ns = lambda artifact, settings: 1e6 * (1.04 if "new" in artifact.parts else 1.0)
    fakes.spread = 0.03
    fakes.rng = np.random.default_rng(3)
    protocol = Protocol(max_launches=10)
    (found,) = gate_with(protocol, sides).gates
    assert found.retried
    assert found.launches == 20


def gate_with(protocol, sides, **more):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BenchRequest, "protocol", protocol)
        return gate(*sides, **more)


@pytest.mark.parametrize("side", ["new", "old"])
def test_a_dead_worker_is_never_a_pass(sides, fakes, side):
    fakes.faults = {("measure:block", side): 1}
    report = gate(*sides)
    assert (report.gates[0].verdict, report.exit_code) == ("invalid", 4)
    assert "WORKER_CRASHED" in report.gates[0].reason


def test_every_batch_has_its_gate_and_only_what_is_open_is_tried_again(sides, fakes):
    report = gate(*sides, batches=(1, 4))
    assert [(one.batch, one.verdict) for one in report.gates] == [(1, "pass"), (4, "pass")]


def test_all_that_passed_in_both_by_default(sides, fakes):
    report = gate(*sides, variants=None)
    assert [one.candidate for one in report.gates] == ["torchscript", "torch-export", "onnx"]
    assert report.exit_code == 0
    launches = {one.subject: one.launch for one in Measured.load(sides[0] / "reports" / "gate.safetensors").series}
    assert len(set(launches.values())) == 3  # numbered through: a dropped round is one pair's


def test_one_bundle_under_two_settings(sides, fakes):
    new, _ = sides
    fakes.ns = lambda artifact, settings: 1e6 if settings.spinning else 1.2e6
    report = gate(new, "@spinning=off", threads=2)
    (found,) = report.gates
    assert (found.base, found.candidate, found.verdict) == ("onnx@spinning=off", "onnx", "pass")
    assert found.metrics[0].ratio == pytest.approx(1 / 1.2, rel=0.01)
    assert {settings for _, settings, _ in fakes.opened} == {
        SessionSettings(threads=2), SessionSettings(threads=2, spinning=False),
    }  # fmt: skip


def test_the_candidate_has_settings_of_its_own(sides, fakes):
    new, _ = sides
    fakes.ns = lambda artifact, settings: 1e6 if settings.spinning else 1.2e6
    report = gate(new, "onnx@threads=1", session="threads=1,spinning=off", variants=None)
    (found,) = report.gates
    assert (found.base, found.candidate) == ("onnx@threads=1", "onnx@threads=1,spinning=off")
    assert (found.verdict, report.exit_code) == ("fail", 1)


def test_two_variants_of_one_bundle(sides, fakes):
    new, _ = sides
    fakes.ns = lambda artifact, settings: 1e6 if artifact.suffix == ".onnx" else 2e6
    report = gate(new, "onnx", variants=("torchscript",))
    assert [(one.base, one.candidate, one.verdict) for one in report.gates] == [("onnx", "torchscript", "fail")]
    others = gate(new, "onnx", variants=None)
    assert [one.candidate for one in others.gates] == ["torchscript", "torch-export"]


def test_a_bundle_against_itself(sides, fakes):
    new, _ = sides
    (found,) = gate(new, new).gates
    assert (found.base, found.verdict) == ("onnx (base)", "pass")


@pytest.fixture
def failing(proven):
    report = proven["onnx",]
    changed = tuple(replace(one, verdict="fail", code="SQNR_LOW", exit_code=1) for one in report.variants)
    return replace(report, variants=changed, verdict="fail", exit_code=1)


def test_failed_parity_is_never_a_pass(sides, fakes, failing):
    new, old = sides
    report = gate(new, old, verified=failing)
    (found,) = report.gates
    assert (found.verdict, report.exit_code, fakes.opened) == ("invalid", 4, [])
    assert found.reason == "the candidate did not pass verify: SQNR_LOW"


def test_what_was_no_good_before_is_not_gated_unless_asked_for(sides, fakes, failing):
    new, _ = sides
    with pytest.raises(UsageError) as caught:
        gate(new, "@spinning=off", variants=None, verified=failing)
    assert caught.value.code == "NOTHING_TO_MEASURE"
    assert "the base did not pass verify: SQNR_LOW" in str(caught.value)
    asked = gate(new, "@spinning=off", verified=failing)
    assert asked.gates[0].reason == "the base did not pass verify: SQNR_LOW"


def test_other_inputs_cannot_be_compared(sides, made, fakes):
    with pytest.raises(UsageError) as caught:
        gate(sides[0], made, variants=None)
    assert caught.value.code == "NOT_COMPARABLE"


@pytest.mark.parametrize(
    ("ref", "more", "code"),
    [
        ("nothing", {}, "NOT_FOUND"),
        ("onnx@threads=0", {}, "BAD_SETTING"),
        ("@speed=on", {}, "BAD_SETTING"),
        ("onnx", {"quick": True}, "QUICK_GATE"),
        ("onnx", {"tune": "latency"}, "USAGE"),
        ("onnx", {"profile": True}, "BAD_PROFILE"),
        ("onnx", {"compiled": True}, "BAD_PROFILE"),
        ("onnx", {"wish": Wish(constraints=Constraints(memory_bytes=1.0))}, "USAGE"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(sides, fakes, ref, more, code):
    with pytest.raises(UsageError) as caught:
        gate(sides[0], ref, **more)
    assert caught.value.code == code
    assert caught.value.hint
    assert fakes.opened == []


@pytest.fixture
def earlier(sides, fakes):
    """A stored table of the bundle, from this machine."""
    bench(BenchRequest(sides[0], ("onnx",), quick=True), Silent())
    return sides[0] / "reports" / "bench.json"


def test_a_stored_result_is_informational(sides, fakes, earlier, tmp_path):
    kept = json.loads(earlier.read_text())
    kept["environment"]["packages"]["onnxruntime"] = "0.1"
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(kept))
    fakes.ns = slower_in("new", 2.0)
    report = gate(sides[0], path)
    (found,) = report.gates
    assert (found.verdict, report.exit_code, found.paired) == ("inconclusive", 3, False)
    assert found.metrics[0].ratio == pytest.approx(2.0, rel=0.01)
    assert found.metrics[0].low is found.metrics[0].high is found.metrics[0].p is None
    assert "unpaired, informational" in found.reason
    assert "onnxruntime 0.1 →" in found.said[0]
    assert "unpaired, informational" in text.render_bench(report)


def test_a_stored_result_on_other_threads_is_invalid(sides, earlier):
    report = gate(sides[0], earlier, threads=1 if json.loads(earlier.read_text())["variants"][0]["threads"] != 1 else 2)
    assert (report.gates[0].verdict, report.exit_code) == ("invalid", 4)


def test_a_stored_result_that_was_opened_in_another_way_is_invalid(sides, earlier):
    (row,) = [one for one in json.loads(earlier.read_text())["variants"] if one["name"] == "onnx"]
    assert row["settings"] == f"threads={row['threads']}"
    (found,) = gate(sides[0], earlier, session="graph_level=disable").gates
    assert (found.verdict, found.exit_code) == ("invalid", 4)
    assert f"opened with {row['settings']} then, with {row['settings']},graph_level=disable now" in found.reason


def test_a_stored_result_without_settings_and_with_broken_packages_is_still_shown(sides, earlier, tmp_path):
    def change(kept):
        kept["environment"]["packages"] = [5]
        for row in kept["variants"]:
            del row["settings"]

    assert gate(sides[0], changed(earlier, tmp_path, change)).gates[0].verdict == "inconclusive"


def test_a_gate_says_how_both_sides_were_opened(sides, fakes):
    report = gate(*sides, session="spinning=off", threads=1)
    name = report.gates[0].candidate
    assert [row.settings for row in report.variants] == ["threads=1", "threads=1,spinning=off"]
    shown = text.render_bench(report)
    assert f"opened with threads=1,spinning=off ({name})" in shown


@pytest.mark.parametrize("session", ["tf32=on", "device_graph=on", "tf32=on,device_graph=on"])
def test_settings_of_a_device_are_refused_on_the_cpu(sides, fakes, session):
    for given in ({"session": session}, {"session": "", "against": f"@{session}"}):
        with pytest.raises(UsageError) as caught:
            bench(BenchRequest(sides[0], ("onnx",), **given), Silent())
        assert (caught.value.code, fakes.opened) == ("BAD_SETTING", [])
    assert BenchRequest(sides[0], session=session.replace("=on", "=off")).settings
    assert BenchRequest(sides[0], session=session, provider=CUDA).settings


def changed(earlier, folder, change):
    kept = json.loads(earlier.read_text())
    change(kept)
    (folder / "kept.json").write_text(json.dumps(kept))
    return folder / "kept.json"


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_a_result_of_a_model_with_another_signature_is_refused(sides, earlier, fakes, tmp_path, side):
    path = changed(earlier, tmp_path, lambda kept: kept["protocol"]["model"][side][0].__setitem__(2, [None, 77]))
    fakes.opened.clear()
    with pytest.raises(UsageError) as caught:
        gate(sides[0], path)
    assert (caught.value.code, fakes.opened) == ("NOT_COMPARABLE", [])
    assert f"the {side} differ" in str(caught.value)


def test_a_result_of_other_weights_is_told(sides, earlier, tmp_path):
    def told(change):
        (found,) = gate(sides[0], changed(earlier, tmp_path, change)).gates
        assert found.verdict == "inconclusive"
        return found.said

    assert told(lambda kept: None) == ()
    assert told(lambda kept: kept["protocol"]["model"].update(digest="0" * 64)) == ("the model had other weights then",)
    unknown = told(lambda kept: kept["protocol"].pop("model"))
    assert unknown == ("the report does not tell which model it measured",)


def test_a_report_without_a_table_says_that_it_has_none(sides, earlier, fakes, tmp_path):
    path = changed(earlier, tmp_path, lambda kept: kept.update(variants=[]))
    fakes.opened.clear()
    with pytest.raises(UsageError, match="it holds no table") as caught:
        gate(sides[0], path)
    assert (caught.value.code, fakes.opened) == ("NOTHING_TO_MEASURE", [])


@pytest.mark.parametrize("field", ["cpu", "cores", "memory_bytes"])
def test_a_result_of_another_machine_is_refused(sides, earlier, tmp_path, field):
    kept = json.loads(earlier.read_text())
    kept["environment"][field] = "another"
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    with pytest.raises(RefusedError) as caught:
        gate(sides[0], tmp_path / "kept.json")
    assert caught.value.code == "OTHER_MACHINE"
    assert field in str(caught.value)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"schema": 1}', "\x00", "[" * 100_000])
def test_other_files_are_refused(sides, fakes, tmp_path, content):
    (tmp_path / "kept.json").write_text(content)
    with pytest.raises(RefusedError):
        gate(sides[0], tmp_path / "kept.json")


def test_a_result_of_a_later_schema_is_refused(sides, earlier, tmp_path):
    kept = json.loads(earlier.read_text()) | {"schema": 99}
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    with pytest.raises(RefusedError) as caught:
        stored.Stored.load(tmp_path / "kept.json")
    assert caught.value.code == "UNKNOWN_SCHEMA"


def test_what_is_printed(sides, fakes):
    fakes.ns = slower_in("new", 1.10)
    report = gate(*sides, rules=Rules(("median", "memory"), worse=0.03))
    page = text.render_bench(report)
    assert "FAIL         onnx against old/onnx, batch 1: median +10." in page
    assert "    pass: memory" in page
    assert "loosened: fails above +3 % instead of +2 %" in page
    assert "FAIL: more than +3 % at 99 % confidence" in page
    xml = speed_gate.junit(report)
    assert '<testsuites name="deploykit bench tiny" tests="2" failures="1"' in xml


SHORT = Protocol(launches=8, blocks=2, block_ns=5 * MS, warm_up_ns=60 * MS, warm_up_limit_ns=8000 * MS, limit_s=0.0)


@pytest.mark.slow
def test_real_workers(sides, monkeypatch):
    """TorchScript takes more than twice as long as ONNX Runtime here: a few microseconds, so without the floor."""
    monkeypatch.setattr(BenchRequest, "protocol", SHORT)
    report = gate(sides[0], "onnx", variants=("torchscript",), threads=1, rules=Rules(floor_ns=0.0))
    (found,) = report.gates
    assert (found.verdict, report.exit_code) == ("fail", 1), found.reason
    assert found.metrics[0].ratio > 1.2
    assert found.rounds == 16


@pytest.mark.slow
def test_the_command(cli, sides):
    new, old = sides
    same = cli("bench", new, "--against", old, "--variants", "onnx", "--json", "-", timeout=900)
    document = json.loads(same.stdout)
    (found,) = document["gates"]
    assert same.returncode == document["exit_code"] == {"pass": 0, "inconclusive": 3}[found["verdict"]]
    worse = cli(
        "bench", new, "--against", "onnx", "--variants", "torchscript", "--margin", "2%,5%,0us", "--threads", 1,
        "--junit", new.parent / "gate.xml", timeout=900,
    )  # fmt: skip
    assert worse.returncode == 1, worse.stdout + worse.stderr
    assert "FAIL         torchscript against onnx" in worse.stdout
    assert 'type="FAIL"' in (new.parent / "gate.xml").read_text()
