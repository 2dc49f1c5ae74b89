from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploykit.benchmark import gate, metrics
from deploykit.benchmark.covariates import Round
from deploykit.benchmark.plan import Protocol, Subject
from deploykit.benchmark.series import Block, Measured, Missing, Series
from deploykit.errors import UsageError
from deploykit.session import CPU, CUDA, SessionSettings

ONE = SessionSettings(threads=1)
CALL_NS = 1_000_000
RULES = gate.Rules()
NOTHING = Measured(())


def subject(name, settings=ONE):
    return Subject(name, "toy", Path(name), settings, ("x",), ("y",), {1: Path("feeds")})


BASE, NEW = subject("old"), subject("new")


def series(name, launch, call_ns, readings=30, batch=1, **more):
    fields = {"load_ms": 5.0, "first_call_ms": 1.0, "peak_rss_bytes": 10**8, "steady": True, "provider": CPU}
    fields |= {"threads": 1, **more}
    repeats = fields.pop("repeats", 1)
    blocks = tuple(Block(np.full(readings, round(call_ns * repeats), np.int64), repeats, k) for k in range(4))
    return Series(name, batch, launch, blocks, **fields)


def measured(factors, call_ns=CALL_NS, old=None, new=None, **more):
    """A launch per factor: the candidate takes so many times as long."""
    found = []
    for launch, factor in enumerate(factors):
        found.append(series("old", launch, call_ns, **(old or {})))
        found.append(series("new", launch, call_ns * factor, **(new or {})))
    rounds = tuple(Round(launch, 1, k, 0.2) for launch in range(len(factors)) for k in range(4))
    return Measured(tuple(found), rounds=rounds, **more)


def judged(found, rules=RULES, base=BASE, new=NEW):
    return gate.judge(found, base, new, 1, rules)


SCATTER = np.linspace(-0.004, 0.004, 10)


@pytest.mark.parametrize(
    ("factor", "verdict", "code"),
    [(1.0, "pass", 0), (0.5, "pass", 0), (1.015, "pass", 0), (1.03, "fail", 1), (1.05, "fail", 1), (3.0, "fail", 1)],
)
def test_verdicts_of_precise_measurements(factor, verdict, code):
    report = judged(measured(factor + SCATTER))
    assert (report.verdict, report.exit_code) == (verdict, code)
    assert (report.base, report.candidate, report.batch, report.launches) == ("old", "new", 1, 10)
    assert (report.rounds, report.dropped_rounds, report.said) == (40, 0, ())
    (metric,) = report.metrics
    assert metric.ratio == pytest.approx(factor, rel=1e-3)
    assert metric.low <= metric.ratio <= metric.high
    assert metric.low_level >= 0.99
    assert metric.high_level >= 0.95
    assert (metric.base, metric.candidate) == (CALL_NS, pytest.approx(CALL_NS * factor, rel=1e-3))
    assert (metric.low > 1.02) == (verdict == "fail")


def test_what_is_not_known_well_enough_is_inconclusive():
    report = judged(measured(1.035 + 12 * SCATTER))
    assert (report.verdict, report.exit_code) == ("inconclusive", 3)
    assert "neither surely more than +2 % nor surely less than +5 %" in report.reason


def test_changes_under_the_floor_never_fail():
    tiny = measured(1.5 + SCATTER, call_ns=8_000)  # 4 µs
    assert judged(tiny).verdict == "pass"
    assert "less than 5 µs" in judged(tiny).reason
    assert judged(tiny, replace(RULES, floor_ns=0.0)).verdict == "fail"
    assert judged(measured(1.7 + SCATTER, call_ns=8_000)).verdict == "fail"  # 5.6 µs
    unsure = judged(measured(np.linspace(1.1, 1.9, 10), call_ns=9_000))  # 4.5 µs, perhaps more
    assert unsure.verdict == "inconclusive"
    assert unsure.floor_ns == 5_000.0


@pytest.mark.parametrize("call_ns", [12_500, 150_000])
def test_a_change_of_just_the_floor_fails_as_seldom_as_promised(call_ns):
    """The true change is 5 µs, surely above +2 %: by the estimate alone about half of them failed."""
    random = np.random.default_rng(5)
    true = 5_000 / call_ns
    verdicts = [judged(measured(1 + true + random.normal(0, 0.005, 10), call_ns=call_ns)).verdict for _ in range(300)]
    assert verdicts.count("fail") / 300 <= 0.01 + 0.017  # three standard errors
    assert verdicts.count("pass") / 300 <= (0.05 + 0.038 if call_ns < 100_000 else 1.0)
    surely = [judged(measured(1 + 1.5 * true + random.normal(0, 0.005, 10), call_ns=call_ns)) for _ in range(50)]
    assert {report.verdict for report in surely} == {"fail"}
    assert surely[0].reason.split(": ")[1].startswith("more than 5 µs")
    assert all((one.metrics[0].p <= 0.01) for one in surely)


def test_a_floor_above_the_margins_is_said_up_front():
    (said,) = judged(measured(1.057 + SCATTER, call_ns=12_500)).said
    assert said == "5 µs is 40 % of this call, and no smaller change fails: --margin 2%,5%,0us judges it"
    assert judged(measured(1.057 + SCATTER, call_ns=12_500), replace(RULES, floor_ns=0.0)).said == ()
    assert judged(measured(1.0 + SCATTER, call_ns=260_000)).said == ()


def with_stalls(found, share):
    """Every candidate's block has one long call: the mean moves, the median does not."""

    def stalled(one):
        if one.subject != "new":
            return one
        blocks = []
        for block in one.blocks:
            ns = block.ns.copy()
            ns[0] += int(share * ns.sum())
            blocks.append(replace(block, ns=ns))
        return replace(one, blocks=tuple(blocks))

    return replace(found, series=tuple(stalled(one) for one in found.series))


def test_a_mean_that_parts_from_the_median_is_told():
    half = with_stalls(measured(1.0 + SCATTER), 0.96)
    report = judged(half)
    (said,) = report.said
    assert report.verdict == "pass"
    assert said.startswith("the mean time of a call changed by +96.0 % (1 ms → 1.96 ms), its median by ")
    assert judged(half, gate.Rules(("median", "throughput"))).said == ()
    assert judged(half, gate.Rules(("memory",))).said == ()
    assert judged(with_stalls(measured(1.0 + SCATTER), 0.04)).said == ()


def test_the_floor_is_one_of_times():
    memory = gate.Rules(("memory",))
    grown = judged(measured([1.0] * 10, new={"peak_rss_bytes": 3000}, old={"peak_rss_bytes": 1000}), memory)
    assert grown.verdict == "fail"


def test_margins_are_the_callers_and_loosening_is_said():
    found = measured(1.04 + SCATTER)
    loose = replace(RULES, worse=0.05, fine=0.10, floor_ns=7e3)
    report = judged(found, loose)
    assert (report.verdict, report.worse, report.fine) == ("pass", 0.05, 0.10)
    assert report.said == (
        "loosened: fails above +5 % instead of +2 %, passes below +10 % instead of +5 %, "
        "ignores changes under 7 µs instead of 5 µs",
    )
    strict = judged(found, replace(RULES, worse=0.0, fine=0.01))
    assert strict.said == ("5 µs is 0.5 % of this call, and no smaller change fails: --margin 0%,1%,0us judges it",)
    assert judged(found, replace(RULES, worse=0.0, fine=0.01, floor_ns=0.0)).said == ()


def test_every_metric_counts():
    rules = gate.Rules(("median", "p90", "throughput", "memory", "load"))
    fine = judged(measured(1.0 + SCATTER), rules)
    assert fine.verdict == "pass"
    assert [metric.name for metric in fine.metrics] == list(rules.metrics)
    bigger = judged(measured(1.0 + SCATTER, new={"peak_rss_bytes": 11 * 10**7}), rules)
    assert (bigger.verdict, bigger.reason.split()[0]) == ("fail", "memory")
    assert [metric.verdict for metric in bigger.metrics] == ["pass", "pass", "pass", "fail", "pass"]
    slower = judged(measured(1.1 + SCATTER), rules)
    assert [metric.verdict for metric in slower.metrics] == ["fail", "fail", "fail", "pass", "pass"]


def test_five_questions_need_stronger_evidence_than_one():
    eight_of_nine = measured(np.r_[np.linspace(1.03, 1.04, 8), 1.019])  # p = 2/512: enough for one metric only
    assert judged(eight_of_nine).verdict == "fail"
    rules = gate.Rules(("median", "p90", "throughput", "memory", "load"))
    many = judged(eight_of_nine, rules)
    assert many.metrics[0].p == pytest.approx(2 / 512)
    assert many.metrics[0].p_holm == pytest.approx(5 * 2 / 512)
    assert many.verdict != "fail"


@pytest.mark.parametrize(("count", "names"), [(7, ("median",)), (9, tuple(metrics.METRICS))])
def test_few_launches_are_no_evidence(count, names):
    rules = gate.Rules(names)
    few = judged(measured([1.5] * (count - 1)), rules)
    assert (few.verdict, few.exit_code) == ("invalid", 4)
    assert f"{count - 1} launches have both sides, {count} are needed" in few.reason
    assert judged(measured([1.5] * count), rules).verdict == "fail"


def test_a_metric_that_cannot_be_had_is_never_a_pass():
    rules = gate.Rules(("median", "memory"))
    silent = judged(measured(1.0 + SCATTER, new={"peak_rss_bytes": None}), rules)
    assert (silent.verdict, silent.reason) == ("invalid", "memory the system does not tell the peak memory")
    assert [metric.verdict for metric in silent.metrics] == ["pass", "invalid"]
    assert judged(measured(1.3 + SCATTER, new={"peak_rss_bytes": None}), rules).verdict == "fail"


def test_tails_are_refused_as_in_the_table():
    rules = gate.Rules(("p90",))
    short = judged(measured(1.0 + SCATTER, new={"repeats": 4}, old={"repeats": 4}), rules)
    assert "4 to a reading" in short.reason
    few = judged(measured(1.0 + SCATTER, new={"readings": 4}, old={"readings": 4}), rules)
    assert "16 calls in a launch, 20 are needed" in few.reason


INVALID = [
    (Measured(()), "nothing was measured"),
    (measured([1.0] * 10, missing=(Missing("new", None, 3, "WORKER_CRASHED", "it died", 4),)), "new: WORKER_CRASHED"),
    (measured([1.0] * 10, missing=(Missing("old", 1, 0, "PARITY", "off by 3", 1),)), "old: PARITY: off by 3"),
    (measured([1.0] * 10, missing=(Missing("old", None, 0, "PROVIDER_FALLBACK", "cpu", 1),)), "PROVIDER_FALLBACK"),
    (measured([1.0] * 10, new={"provider": CUDA}), "the providers differ"),
    (measured([1.0] * 10, new={"threads": 2}), "the threads differ: 1 and 2"),
    (
        measured([1.0] * 10, new={"pools": ({"user_api": "openmp", "num_threads": 8},)}),
        "the thread pools differ: [] and [('openmp', 8)]",
    ),
    (measured([1.0] * 10, new={"steady": False}), "new: the warm-up did not settle in 10 of 10 launches"),
]


@pytest.mark.parametrize(("found", "reason"), INVALID, ids=[reason for _, reason in INVALID])
def test_what_carries_no_answer_is_invalid(found, reason):
    report = judged(found)
    assert (report.verdict, report.exit_code, report.metrics) == ("invalid", 4, ())
    assert reason in report.reason


def test_a_loss_at_another_batch_is_not_this_ones():
    found = measured(1.0 + SCATTER, missing=(Missing("new", 8, 0, "RUN_ERROR", "no", 4),))
    assert judged(found).verdict == "pass"


def test_threads_that_were_asked_to_differ_may():
    two = subject("new", replace(ONE, threads=2))
    report = judged(measured(1.0 + SCATTER, new={"threads": 2}), new=two)
    assert report.verdict == "pass"
    assert report.said == ("opened differently: the base with threads=1, the candidate with threads=2",)
    pools = {"pools": ({"user_api": "blas", "num_threads": 2},)}
    assert judged(measured(1.0 + SCATTER, new={"threads": 2, **pools}), new=two).verdict == "pass"


def test_some_restless_launches_are_no_obstacle():
    found = measured(1.0 + SCATTER)
    restless = tuple(replace(one, steady=one.launch % 2 == 0) for one in found.series)
    assert judged(replace(found, series=restless)).verdict == "pass"


def test_a_launch_that_lost_a_half_is_no_pair():
    found = measured(1.0 + SCATTER)
    kept = tuple(one for one in found.series if (one.subject, one.launch) != ("new", 4))
    report = judged(replace(found, series=kept))
    assert (report.verdict, report.launches) == ("pass", 9)
    assert report.said == ("1 launches have one side only and are not counted",)


def disturbed(found, which, why="steal"):
    rounds = tuple(replace(r, disturbed=why if which(r) else "") for r in found.rounds)
    return replace(found, rounds=rounds)


def test_dropped_rounds_are_dropped_for_both_and_counted():
    found = measured([1.0] * 10)

    def spoiled(one):
        first, *rest = one.blocks
        return replace(one, blocks=(replace(first, ns=first.ns * 9), *rest)) if one.subject == "new" else one

    series_all = tuple(spoiled(one) for one in found.series)
    report = judged(disturbed(replace(found, series=series_all), lambda r: r.index == 0))
    assert (report.verdict, report.rounds, report.dropped_rounds) == ("pass", 40, 10)
    assert report.metrics[0].ratio == 1.0
    assert report.said == ("10 of 40 rounds dropped for both sides (steal: 10)",)


def test_a_launch_whose_rounds_are_all_dropped_is_gone():
    report = judged(disturbed(measured([1.0] * 10), lambda r: r.launch == 0, "throttled"))
    assert (report.verdict, report.launches, report.dropped_rounds) == ("pass", 9, 4)


def test_a_machine_that_is_always_disturbed_gives_no_answer():
    found = disturbed(measured([1.5] * 10), lambda r: r.index != 0, "throttled")
    assert found.dropped == frozenset()
    report = judged(found)
    assert report.verdict == "invalid"
    assert report.reason == "30 of 40 rounds were disturbed (throttled: 30)"


def test_sampling_goes_on_until_every_metric_is_narrow_wherever_it_lies():
    def enough(found, rules=RULES, before=NOTHING):
        return gate.enough(Protocol(), BASE, NEW, (1,), rules, before)(found)

    assert not enough(Measured(()))
    assert not enough(measured([1.0] * 5))  # five launches have no 95 %
    assert enough(measured(1.0 + SCATTER))
    assert enough(measured(1.03 + SCATTER))
    assert not enough(measured(1.0 + 20 * SCATTER))
    assert not enough(measured(3.0 + 60 * SCATTER))  # certain, and still wide
    loads = measured(1.0 + SCATTER)
    restless = tuple(replace(one, load_ms=5 + one.launch * (one.subject == "new")) for one in loads.series)
    both = gate.Rules(("median", "load"))
    assert not enough(replace(loads, series=restless), both)
    assert enough(measured(1.0 + SCATTER, new={"peak_rss_bytes": None}), gate.Rules(("median", "memory")))
    lost = Missing("new", None, 3, "WORKER_CRASHED", "it died", 4)
    assert enough(measured(1.0 + 20 * SCATTER, missing=(lost,)))  # it gets no better
    later = measured(1.0 + SCATTER)
    later = replace(later, series=tuple(replace(one, launch=one.launch + 10) for one in later.series))
    assert enough(later)
    assert not enough(later, before=measured(1.0 + 60 * SCATTER))  # pooled with what was there before


def test_names_of_metrics():
    assert metrics.names("p90, median,p90") == ("p90", "median")
    for text in ("", ",", "mean", "median,p99"):
        with pytest.raises(UsageError) as caught:
            metrics.names(text)
        assert caught.value.code == "BAD_METRIC"
