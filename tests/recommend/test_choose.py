from dataclasses import replace

import pytest

from deploykit.measurements import BenchRow, Comparison
from deploykit.recommend.choose import Candidates, Wish, choose
from deploykit.recommend.constraints import Constraints
from deploykit.recommend.traits import Traits
from deploykit.recommend.unhelped import Facts
from deploykit.report.text import render_recommendation
from deploykit.results import Check, VariantReport
from deploykit.session import CPU

SPEEDS = {"eager": 18_500.0, "onnx": 7_100.0, "torchscript": 12_000.0, "torch-export": 40_000.0}
TRAITS = {
    "onnx": Traits("fp32", "onnxruntime"),
    "torchscript": Traits("fp32", "torchscript"),
    "torch-export": Traits("fp32", "torch-export"),
    "onnx-fp16": Traits("fp16", "onnxruntime", "onnx"),
    "onnx-int8-dynamic": Traits("int8-dynamic", "onnxruntime", "onnx"),
    "onnx-int8-static": Traits("int8-static", "onnxruntime", "onnx"),
}
VNNI = {"cpu_flags": ["avx2", "avx512_vnni"], "machine": "x86_64"}


def row(name, ns, batch=1, verdict="measured", reason="", **more):
    return BenchRow(name, CPU, batch, 2, verdict, reason, median_ns=ns, **more)


def told_apart(rows, within=0.05):
    """Comparisons that see differences beyond `within`; throughput is like latency."""
    fields = {
        "latency": "median_ns", "throughput": "median_ns", "memory": "peak_rss_bytes", "size": "file_bytes",
    }  # fmt: skip
    table = {one.name: one for one in rows}

    def compare(base, candidate, goal):
        first, second = (getattr(table.get(name), fields[goal], None) for name in (base, candidate))
        if first is None or second is None:
            return Comparison(base, candidate, 1, None, None, None, "not_measured")
        ratio = second / first
        verdict = "indistinguishable" if abs(ratio - 1) < within else "faster" if ratio < 1 else "slower"
        return Comparison(base, candidate, 1, ratio, (ratio - 0.03, ratio + 0.03), 0.95, verdict)

    return compare


def passed(*names):
    return {name: VariantReport(name, "pass", CPU) for name in names if name not in {"eager", "torch-compile"}}


def decide_rows(rows, verified=None, unmade=None, wish=None, facts=None, traits=None):
    known = Candidates(
        rows, verified if verified is not None else passed(*(one.name for one in rows)),
        TRAITS if traits is None else traits, unmade or {}, None, facts or Facts(),
    )  # fmt: skip
    return choose(known, told_apart(rows), wish)


def decide(speeds, *more, **options):
    return decide_rows([row(name, ns) for name, ns in speeds.items()], *more, **options)


def reasons(choices):
    return {choice.variant: choice.reason for choice in choices}


def test_the_fastest_wins():
    found = decide(SPEEDS)
    assert found.variant == "onnx"
    assert found.reason == "median 7.1 µs, 2.6× faster than eager"
    assert [choice.variant for choice in found.ranking] == ["onnx", "torchscript", "torch-export"]
    assert reasons(found.ranking)["torch-export"] == "median 40 µs, 2.2× slower than eager"
    assert reasons(found.rejected) == {"eager": "median 18.5 µs: the base line, not an artifact"}
    assert (found.goal, found.constraints, found.satisfied) == ("latency", (), True)


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


def test_the_precision_is_the_records_and_not_the_names():
    traits = {"plain-int8": Traits("fp32", "onnxruntime"), "quick": Traits("int8-static", "mine", "plain-int8")}
    found = decide({"plain-int8": 7_000.0, "quick": 7_050.0}, traits=traits)
    assert found.variant == "plain-int8"
    assert reasons(found.ranking)["quick"].startswith("quantized but not faster than plain-int8 (ratio 1.01")


def test_not_faster_says_why_from_what_is_known():
    speeds = {"onnx": 7_000.0, "onnx-int8-static": 7_200.0, "onnx-fp16": 9_000.0}
    half = Check("coverage", "weights", "", "warn", "VARIANT_NOT_APPLIED", "share", 0.6, 0.8, "60.0% are int8-static")
    verified = {
        **passed("onnx", "onnx-fp16"),
        "onnx-int8-static": VariantReport("onnx-int8-static", "pass", CPU, (half,)),
    }
    old = Facts({"cpu_flags": ["avx", "avx2"], "machine": "x86_64"}, CPU, quick=True)
    told = reasons(decide(speeds, verified, facts=old).ranking)
    assert told["onnx-int8-static"].endswith(
        "not recommended; VARIANT_NOT_APPLIED: 60.0% are int8-static; this CPU has no instructions for 8-bit products "
        "(no VNNI); three launches may be too few to see it: leave --quick out"
    )
    assert told["onnx-fp16"].endswith("not recommended; this CPU has no float16 arithmetic (no AVX512-FP16)")


@pytest.mark.parametrize(
    "facts", [Facts(), Facts(VNNI), Facts({"cpu_flags": ["avx2"], "machine": "riscv64"}),
              Facts({"cpu_flags": ["avx2"], "machine": "x86_64"}, "CUDAExecutionProvider"),
              Facts({"cpu_flags": [], "machine": "x86_64"}), Facts({"cpu_flags": ["asimddp"], "machine": "arm64"})],
)  # fmt: skip
def test_what_is_not_known_is_not_said(facts):
    told = reasons(decide({"onnx": 7_000.0, "onnx-int8-static": 7_200.0}, facts=facts).ranking)
    assert told["onnx-int8-static"].endswith("not recommended")


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
    found = decide_rows(rows, passed("onnx", "b", "c"))
    assert reasons(found.rejected) == {"b": "TIME_LIMIT: hung", "c": "not measured"}


def test_eager_is_never_recommended():
    speeds = {"eager": 5_000.0, "onnx": 9_000.0}
    assert decide(speeds).variant == "onnx"
    failed = {"onnx": VariantReport("onnx", "fail", CPU, code="NAN")}
    found = decide(speeds, failed)
    assert (found.variant, found.ranking) == (None, ())
    assert found.reason == "no variant passed verify and could be measured"
    assert reasons(found.rejected) == {
        "eager": "median 5 µs: the base line, not an artifact", "onnx": "failed verify: NAN",
    }  # fmt: skip
    assert "eager" not in render_recommendation(found).splitlines()[0]


def test_a_compiled_module_is_a_base_line_too():
    found = decide({"eager": 5_000.0, "torch-compile": 2_000.0, "onnx": 9_000.0})
    assert found.variant == "onnx"
    assert reasons(found.rejected)["torch-compile"] == "median 2 µs: the base line, not an artifact"


def test_nothing_qualifies():
    found = decide({}, {"onnx": VariantReport("onnx", "fail", CPU, code="NAN")})
    assert found.variant is None
    assert found.reason
    assert reasons(found.rejected) == {"onnx": "failed verify: NAN"}


def test_the_batch_decides():
    rows = [row("onnx", 10.0), row("torchscript", 20.0), row("onnx", 90.0, 8), row("torchscript", 50.0, 8)]
    known = Candidates(rows, passed("onnx", "torchscript"), TRAITS)
    assert choose(known, told_apart(rows[:2])).variant == "onnx"
    assert choose(replace(known, batch=8), told_apart(rows[2:])).variant == "torchscript"


def test_an_unsteady_measurement_is_said():
    found = decide_rows([row("onnx", 10.0, verdict="not_steady", reason="the warm-up did not settle in 3 of 3")])
    assert found.reason == "median 10 ns; the warm-up did not settle in 3 of 3"


@pytest.mark.parametrize(("ns", "text"), [(1.5e9, "1.5 s"), (2.5e6, "2.5 ms"), (999.0, "999 ns")])
def test_units(ns, text):
    assert decide({"onnx": ns}).reason == f"median {text}"


LARGE = [
    row("eager", 20.0, peak_rss_bytes=400_000_000, throughput_per_s=9e7),
    row("onnx", 10.0, peak_rss_bytes=60_000_000, file_bytes=400_000, throughput_per_s=1e8),
    row("onnx-int8-static", 9.0, peak_rss_bytes=60_500_000, file_bytes=100_000, throughput_per_s=1.1e8),
    row("torchscript", 30.0, peak_rss_bytes=500_000_000, file_bytes=410_000, throughput_per_s=3e7),
]


def test_each_goal_ranks_by_its_own_number():
    by = {goal: decide_rows(LARGE, wish=Wish(goal)) for goal in ("latency", "throughput", "memory", "size")}
    assert {goal: found.variant for goal, found in by.items()} == {
        "latency": "onnx-int8-static", "throughput": "onnx-int8-static", "memory": "onnx", "size": "onnx-int8-static",
    }  # fmt: skip
    assert by["throughput"].reason == "110,000,000 samples/s, 2.2× faster than eager"
    assert by["memory"].reason == "peak memory 60.0 MB, 6.7× smaller in memory than eager"
    assert by["size"].reason == "100 kB"
    assert by["memory"].goal == "memory"
    told = reasons(by["memory"].ranking)
    assert told["onnx-int8-static"] == (
        "quantized but not smaller in memory than onnx (ratio 1.01 [0.98, 1.04]): not recommended"
    )


def test_a_goal_that_was_not_measured_ranks_last_and_says_so():
    rows = [row("torchscript", 10.0), row("onnx", 20.0, peak_rss_bytes=5)]
    found = decide_rows(rows, wish=Wish("memory"))
    assert [choice.variant for choice in found.ranking] == ["onnx", "torchscript"]
    assert found.ranking[1].reason == "its memory was not measured"


def test_what_breaks_a_constraint_is_rejected_with_one_line_each():
    wish = Wish(constraints=Constraints(memory_bytes=100_000_000, size_bytes=200_000))
    found = decide_rows(LARGE, wish=wish)
    assert found.variant == "onnx-int8-static"
    assert found.constraints == ("peak memory ≤ 100.0 MB", "size ≤ 200 kB")
    assert found.satisfied
    told = reasons(found.rejected)
    assert told["onnx"] == "misses size ≤ 200 kB: 400 kB"
    assert told["torchscript"] == "misses peak memory ≤ 100.0 MB: 500.0 MB; misses size ≤ 200 kB: 410 kB"


def test_nothing_satisfies_and_the_closest_is_named():
    found = decide_rows(LARGE, wish=Wish(constraints=Constraints(memory_bytes=50_000_000)))
    assert found.variant is None
    assert not found.satisfied
    assert found.reason == (
        "nothing was shown to satisfy peak memory ≤ 50.0 MB; "
        "closest is onnx: misses peak memory ≤ 50.0 MB: 60.0 MB, off by 1.20×"
    )
    assert set(reasons(found.rejected)) == {"eager", "onnx", "onnx-int8-static", "torchscript"}
    assert (found.ranking, found.pareto) == ((), ())


def test_a_known_miss_is_closer_than_what_nobody_knows():
    rows = [row("onnx", 10.0, p90_ns_reason="90 calls, 100 are needed"), row("torchscript", 10.0, p90_ns=9e6)]
    found = decide_rows(rows, wish=Wish(constraints=Constraints(latency_p90_ns=1e6)))
    assert "closest is torchscript: misses p90 latency ≤ 1 ms: 9 ms, off by 9.0×" in found.reason
    assert reasons(found.rejected)["onnx"] == "not shown to hold p90 latency ≤ 1 ms: 90 calls, 100 are needed"
    alone = decide_rows(rows[:1], wish=Wish(constraints=Constraints(latency_p90_ns=1e6)))
    assert alone.reason.endswith("closest is onnx: not shown to hold p90 latency ≤ 1 ms: 90 calls, 100 are needed")


def test_constraints_and_nothing_that_passed():
    found = decide({}, {"onnx": VariantReport("onnx", "fail", CPU, code="NAN")},
                   wish=Wish(constraints=Constraints(size_bytes=1)))  # fmt: skip
    assert found.variant is None
    assert not found.satisfied
    assert found.reason.endswith("no variant passed verify and could be measured")


def test_a_variant_under_other_settings_is_judged_as_that_variant():
    rows = [row("onnx", 20.0), row("onnx@threads=1", 10.0)]
    found = decide_rows(rows, passed("onnx"))
    assert found.variant == "onnx@threads=1"
    assert [choice.variant for choice in found.ranking] == ["onnx@threads=1", "onnx"]
    equal = decide_rows([row("onnx", 10.1), row("onnx@threads=1", 10.0)], passed("onnx"))
    assert equal.variant == "onnx"
    failed = decide_rows(rows, {"onnx": VariantReport("onnx", "fail", CPU, code="NAN")})
    assert reasons(failed.rejected) == {"onnx": "failed verify: NAN", "onnx@threads=1": "failed verify: NAN"}


def test_the_front_is_of_what_qualifies():
    found = decide_rows(LARGE)
    assert found.pareto == ("onnx-int8-static", "onnx")
    assert reasons(found.dominated) == {
        "torchscript": "onnx is 3.0× faster, 8.3× smaller in memory, and no worse in anything else"
    }


def test_a_smaller_median_does_not_outrank_the_origin_that_pairs_show_faster():
    rows = [row("onnx", 7_100.0), row("onnx-int8-dynamic", 7_000.0)]

    def compare(base, candidate, goal):
        verdict = "slower" if candidate == "onnx-int8-dynamic" else "faster"
        ratio = 1.2 if verdict == "slower" else 1 / 1.2
        return Comparison(base, candidate, 1, ratio, (ratio - 0.03, ratio + 0.03), 0.95, verdict)

    found = choose(Candidates(rows, passed("onnx", "onnx-int8-dynamic"), TRAITS), compare)
    assert found.variant == "onnx"
    assert "not recommended" not in found.reason
    assert "not recommended" in reasons(found.ranking)["onnx-int8-dynamic"]
