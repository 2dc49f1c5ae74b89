import pytest

from deploykit import units


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
