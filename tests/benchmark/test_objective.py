import math

import pytest

from deploykit.benchmark.objective import Objective
from deploykit.benchmark.scenario import Scenario
from deploykit.errors import UsageError


@pytest.mark.parametrize(
    ("text", "percentile", "limit_ns"),
    [
        ("p99=5ms", "p99", 5e6),
        ("p50=800us", "p50", 8e5),
        ("p90=800µs", "p90", 8e5),
        ("p99.9=0.2s", "p99.9", 2e8),
        ("p99= .5 ms ", "p99", 5e5),
        ("p99=5000ns", "p99", 5e3),
        ("p99=5.ms", "p99", 5e6),
    ],
)
def test_objectives(text, percentile, limit_ns):
    found = Objective.parse(text)
    assert (found.percentile, found.limit_ns) == (percentile, pytest.approx(limit_ns))


@pytest.mark.parametrize(
    "text",
    ["", "p99", "p99 = 5ms", "p99=", "p99=-1ms", "p99=0ms", "p99=5", "p99=5h", "p98=5ms", "99=5ms", "p99=nanms",
     "p99=infs",     "p99=5ms,p50=1ms", "p99=1e3ms", "p99=601s", "5ms", "p99<5ms", "p99=5 m s", "p99=٣ms"],
)  # fmt: skip
def test_what_is_no_objective(text):
    with pytest.raises(UsageError) as caught:
        Objective.parse(text)
    assert (caught.value.code, caught.value.exit_code) == ("BAD_SLO", 2)
    assert "p99=5ms" in caught.value.hint


def test_words():
    assert str(Objective("p99", 5e6)) == "p99 ≤ 5 ms"
    assert Objective("p99.9", 1.0).quantile == 0.999
    assert Objective.usual(2e5) == Objective("p99", 2e6)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf, 1e7, 0.1])
def test_what_is_no_rate(rate):
    with pytest.raises(UsageError) as caught:
        Scenario.parse("server", rate, None, None)
    assert (caught.value.code, caught.value.exit_code) == ("BAD_RATE", 2)
    assert caught.value.hint


@pytest.mark.parametrize("seconds", [0.0, -5.0, math.nan, math.inf, 1e6])
def test_what_is_no_time(seconds):
    with pytest.raises(UsageError) as caught:
        Scenario.parse("offline", None, None, seconds)
    assert caught.value.code == "BAD_SECONDS"


@pytest.mark.parametrize("kind", ["single-stream", "offline"])
@pytest.mark.parametrize(("rate", "slo"), [(5.0, None), (None, "p99=5ms"), (0.0, None)])
def test_a_rate_and_an_objective_are_a_servers(kind, rate, slo):
    with pytest.raises(UsageError) as caught:
        Scenario.parse(kind, rate, slo, None)
    assert caught.value.code == "BAD_SCENARIO"


def test_a_slow_rate_needs_its_time():
    assert Scenario.parse("server", 0.1, None, 500.0).rate == 0.1
    assert Scenario.parse("server", 0.5, None, None).limit_s == 120
