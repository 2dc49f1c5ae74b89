"""Durations and sizes as people read them: one place decides on digits and units."""

from __future__ import annotations


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
    """Bytes in MB (10⁶), or kB below one; `-` for what could not be had."""
    if count is None:
        return "-"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def times(ratio: float) -> str:
    """A ratio ≥ 1 in words: `2.6×`, `1.07×`."""
    return f"{ratio:.{1 if ratio >= 2 else 2}f}×"
