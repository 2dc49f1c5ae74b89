import pytest

from deploykit import units
from deploykit.benchmark.objective import Objective
from deploykit.cli.gate_options import margins
from deploykit.recommend.constraints import Constraints


@pytest.mark.parametrize(
    ("text", "ns"),
    [("5ms", 5e6), ("1.5 s", 1.5e9), (" 250us ", 250e3), ("250µs", 250e3), ("250\u03bcs", 250e3), ("7ns", 7.0)],
)
def test_durations_are_read(text, ns):
    assert units.nanoseconds(text) == ns


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("500MB", 500_000_000),
        ("1.5GiB", 3 * 2**29),
        ("64 kb", 64_000),
        ("64KiB", 65_536),
        ("1B", 1),
        ("2tb", 2 * 10**12),
    ],
)
def test_sizes_are_read(text, count):
    assert units.byte_count(text) == count


@pytest.mark.parametrize(
    "text", ["", "5", "ms", "5 min", "-5ms", "0ms", "nan ms", "1e3ms", "5ms6", "5 m s", "9" * 400 + "s"]
)
def test_other_durations_are_refused(text):
    with pytest.raises(ValueError, match=r"no (unit|positive)"):
        units.nanoseconds(text)


@pytest.mark.parametrize("text", ["", "5", "MB", "-5MB", "0MB", "5 Mbit", "0.2B", "5ms", "9" * 400 + "B"])
def test_other_sizes_are_refused(text):
    with pytest.raises(ValueError, match=r"no (unit|positive)|less than a byte"):
        units.byte_count(text)


@pytest.mark.parametrize("ns", [7.0, 250e3, 5e6, 1.5e9])
def test_what_is_written_is_read_again(ns):
    assert units.nanoseconds(units.duration(ns)) == ns


def test_zero_is_a_time_only_where_it_is_asked_for():
    assert units.nanoseconds("0us", zero=True) == 0
    with pytest.raises(ValueError, match="no positive number"):
        units.nanoseconds("0us")
    with pytest.raises(ValueError, match="no positive number"):
        units.nanoseconds("-1us", zero=True)


@pytest.mark.parametrize(
    ("rate", "text"),
    [(31_066.4, "31,066"), (9_367.0, "9,367"), (9e4, "90,000"), (1e7, "10,000,000"), (100.0, "100"), (99.96, "100"),
     (99.94, "99.9"), (9.371, "9.37"), (0.1, "0.1")],
)  # fmt: skip
def test_rates_have_no_exponents(rate, text):
    assert units.per_second(rate) == text


def test_one_reader_for_every_time():
    """The limits of latency, the objective under load and the smallest change of a gate know the same units."""
    for text, ns in (("5000ns", 5e3), ("5us", 5e3), ("5µs", 5e3), ("5\u03bcs", 5e3), ("5ms", 5e6), (".5s", 5e8)):
        assert units.nanoseconds(text) == ns
        assert Objective.parse(f"p99={text}").limit_ns == ns
        assert margins(f"2%,5%,{text}", 0.0)[2] == ns
        assert Constraints.parse({"latency_p90": text}).latency_p90_ns == ns
