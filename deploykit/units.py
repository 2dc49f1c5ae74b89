"""Durations and sizes as people read and write them: one place decides on digits and units."""

from __future__ import annotations

import math
import re


def duration(nanoseconds: float | None) -> str:
    """Three significant digits in ns, µs, ms or s; `-` for what could not be had."""
    if nanoseconds is None:
        return "-"
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= scale:
            return (
                f"{nanoseconds / scale:.3g} {unit}"
                if nanoseconds < 1e3 * scale
                else f"{nanoseconds / scale:.0f} {unit}"
            )
    return f"{nanoseconds:.3g} ns"


def span_of(low: float, high: float) -> str:
    """Two durations, in nanoseconds, in the unit of the larger one: `9.08, 15.2 µs`."""
    first, (last, unit) = duration(low), duration(high).split()
    scale = {"s": 1e9, "ms": 1e6, "µs": 1e3, "ns": 1.0}[unit]
    return f"{first.split()[0] if first.endswith(f' {unit}') else f'{low / scale:.3g}'}, {last} {unit}"


def size(count: int | None) -> str:
    """Bytes in MB (10⁶), kB below one, B below one of these; `-` for what could not be had."""
    if count is None:
        return "-"
    if count < 1e3:
        return f"{count} B"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def times(ratio: float) -> str:
    """A ratio ≥ 1 in words: `2.6×`, `1.07×`."""
    return f"{ratio:.{1 if ratio >= 2 else 2}f}×"


def per_second(rate: float) -> str:
    """A rate with separators and without decimals from 100 on, `31,066`; three significant digits below, `9.37`."""
    return f"{rate:,.0f}" if rate >= 99.95 else f"{rate:.3g}"


_TIMES = {"ns": 1.0, "us": 1e3, "µs": 1e3, "μs": 1e3, "ms": 1e6, "s": 1e9}
_SIZES = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([^\s0-9.]*)\s*", re.ASCII)


def nanoseconds(text: str, *, zero: bool = False) -> float:
    """`5ms`, `500us`, `1.5 s` as nanoseconds; every option that takes a time reads it here.

    Args:
        text: a number and a unit.
        zero: 0 is a time as well.

    Raises:
        ValueError: not a positive number with one of the units ns, us, µs, ms, s.
    """
    number, unit = _parts(text, zero=zero)
    if unit not in _TIMES:
        raise ValueError(f"no unit of time: {unit or 'none is given'}")
    return number * _TIMES[unit]


def byte_count(text: str) -> int:
    """`500MB` (10⁶), `1.5 GiB` (2³⁰), `64kB` as bytes; case does not matter.

    Raises:
        ValueError: not a positive number of bytes with one of the units B, kB, MB, GB, TB, KiB, MiB, GiB, TiB.
    """
    number, unit = _parts(text)
    if unit.lower() not in _SIZES:
        raise ValueError(f"no unit of size: {unit or 'none is given'}")
    count = int(number * _SIZES[unit.lower()])
    if count < 1:
        raise ValueError("less than a byte")
    return count


def _parts(text: str, *, zero: bool = False) -> tuple[float, str]:
    """A positive finite number, or perhaps 0, and what follows it."""
    found = _AMOUNT.fullmatch(text)
    number = float(found[1]) if found else math.nan
    if found is None or not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ValueError("no positive number")
    return number, found[2]
