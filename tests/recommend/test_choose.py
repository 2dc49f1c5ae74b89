import pytest

from deploykit.measurements import BenchRow, Comparison
from deploykit.recommend.choose import choose, simplicity
from deploykit.results import VariantReport
from deploykit.session import CPU

SPEEDS = {"eager": 18_500.0, "onnx": 7_100.0, "torchscript": 12_000.0, "torch-export": 40_000.0}


def row(name, ns, batch=1, verdict="measured", reason=""):
    return BenchRow(name, CPU, batch, 2, verdict, reason, median_ns=ns)


def told_apart(speeds, within=0.05):
    """Comparisons that see differences beyond `within`."""

    def compare(base, candidate):
        if base not in speeds or candidate not in speeds:
            return Comparison(base, candidate, 1, None, None, None, "not_measured")
        ratio = speeds[candidate] / speeds[base]
        verdict = "indistinguishable" if abs(ratio - 1) < within else "faster" if ratio < 1 else "slower"
        return Comparison(base, candidate, 1, ratio, (ratio - 0.03, ratio + 0.03), 0.95, verdict)

    return compare


def passed(*names):
    return {name: VariantReport(name, "pass", CPU) for name in names if name != "eager"}


def decide(speeds, verified=None, unmade=None):
    rows = [row(name, ns) for name, ns in speeds.items()]
    return choose(rows, told_apart(speeds), verified or passed(*speeds), unmade)


def reasons(choices):
    return {choice.variant: choice.reason for choice in choices}


def test_the_fastest_wins():
    found = decide(SPEEDS)
    assert found.variant == "onnx"
    assert found.reason == "median 7.1 µs, 2.6× faster than eager"
    assert [choice.variant for choice in found.ranking] == ["onnx", "torchscript", "torch-export"]
    assert reasons(found.ranking)["torch-export"] == "median 40 µs, 2.2× slower than eager"
    assert reasons(found.rejected) == {"eager": "median 18.5 µs: the base line, not an artifact"}


def test_quantized_and_not_faster():
    speeds = {"onnx": 7_100.0, "onnx-int8-dynamic": 9_000.0, "onnx-fp16": 7_200.0, "onnx-int8-static": 5_000.0}
    found = decide(speeds)
    assert [choice.variant for choice in found.ranking] == [
        "onnx-int8-static", "onnx", "onnx-fp16", "onnx-int8-dynamic",
    ]  # fmt: skip
    told = reasons(found.ranking)
    assert told["onnx-int8-dynamic"] == (
        "quantized but not faster than onnx (ratio 1.27 [1.24, 1.30]): not recommended"
    )
    assert told["onnx-fp16"].startswith("less precise but not faster than onnx (ratio 1.01")
    assert told["onnx-int8-static"] == "median 5 µs"


def test_indistinguishable_takes_the_simpler():
    found = decide({"onnx-int8-static": 7_000.0, "torchscript": 7_050.0, "onnx": 7_100.0, "eager": 10_000.0})
    assert found.variant == "onnx"
    assert found.reason == (
        "indistinguishable from onnx-int8-static (ratio 1.01 [0.98, 1.04]): the simpler and more exact one is taken"
    )
    assert [choice.variant for choice in found.ranking] == ["onnx", "torchscript", "onnx-int8-static"]


def test_what_did_not_pass_is_out_however_fast():
    speeds = {**SPEEDS, "fast": 1.0, "lost": 2.0}
    verified = {
        **passed("torchscript"),
        "onnx": VariantReport("onnx", "fail", CPU, code="OUT_OF_BUDGET", reason="R is 40"),
        "torch-export": VariantReport("torch-export", "inconclusive", CPU, reason="97 samples are too few"),
        "fast": VariantReport("fast", "error", None, code="LOAD_ERROR", reason="cannot be opened"),
    }
    found = decide(speeds, verified, {"onnx-fp16": "the exporter gave up"})
    assert found.variant == "torchscript"
    told = reasons(found.rejected)
    assert told.pop("eager")
    assert told == {
        "onnx": "failed verify: OUT_OF_BUDGET",
        "torch-export": "inconclusive: 97 samples are too few",
        "fast": "cannot be opened",
        "lost": "not verified",
        "onnx-fp16": "the exporter gave up",
    }


def test_what_was_not_measured_is_out():
    rows = [row("onnx", 10.0), BenchRow("b", CPU, 1, 2, "not_measured", "TIME_LIMIT: hung")]
    found = choose(rows, told_apart({"onnx": 10.0}), passed("onnx", "b", "c"))
    assert reasons(found.rejected) == {"b": "TIME_LIMIT: hung", "c": "not measured"}


def test_eager_is_taken_only_when_nothing_else_is_left():
    speeds = {"eager": 5_000.0, "onnx": 9_000.0}
    assert decide(speeds).variant == "onnx"
    failed = {"onnx": VariantReport("onnx", "fail", CPU, code="NAN")}
    found = decide(speeds, failed)
    assert found.variant == "eager"
    assert found.reason == "no variant qualifies, what is left is the base line: median 5 µs"
    assert [choice.variant for choice in found.rejected] == ["onnx"]


def test_nothing_qualifies():
    found = choose([], told_apart({}), {"onnx": VariantReport("onnx", "fail", CPU, code="NAN")})
    assert found.variant is None
    assert found.reason
    assert reasons(found.rejected) == {"onnx": "failed verify: NAN"}


def test_the_batch_decides():
    rows = [row("onnx", 10.0), row("torchscript", 20.0), row("onnx", 90.0, 8), row("torchscript", 50.0, 8)]
    verified = passed("onnx", "torchscript")
    assert choose(rows, told_apart({"onnx": 10.0, "torchscript": 20.0}), verified).variant == "onnx"
    at_eight = told_apart({"onnx": 90.0, "torchscript": 50.0})
    assert choose(rows, at_eight, verified, batch=8).variant == "torchscript"


def test_an_unsteady_measurement_is_said():
    rows = [row("onnx", 10.0, verdict="not_steady", reason="the warm-up did not settle in 3 of 3 launches")]
    found = choose(rows, told_apart({"onnx": 10.0}), passed("onnx"))
    assert found.reason == "median 10 ns; the warm-up did not settle in 3 of 3 launches"


@pytest.mark.parametrize(("ns", "text"), [(1.5e9, "1.5 s"), (2.5e6, "2.5 ms"), (999.0, "999 ns")])
def test_units(ns, text):
    assert decide({"onnx": ns}).reason == f"median {text}"


def test_simplicity_is_exactness_first():
    names = ["mine", "onnx-int8-static", "onnx-fp16", "torchscript", "openvino-int8", "onnx-int8-dynamic", "onnx",
             "torch-export"]  # fmt: skip
    assert sorted(names, key=simplicity) == [
        "onnx", "torch-export", "torchscript", "mine", "onnx-fp16", "onnx-int8-dynamic", "onnx-int8-static",
        "openvino-int8",
    ]  # fmt: skip
