"""The trade-off as a picture: latency against size and against memory, as inline SVG; nothing is fetched."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape as as_html

from deploykit.errors import escape
from deploykit.measurements import BASE_LINES, BenchReport, BenchRow
from deploykit.units import duration

WIDTH, HEIGHT = 540, 360
"""Of one panel, pixels."""

LEFT, RIGHT, TOP, BOTTOM = 76, 20, 34, 48
"""Margins around the plot: tick labels and titles."""

LETTER, LINE = 6.7, 15.0
"""Width of a letter and height of a line at 12 pixels, rounded up: labels are laid out without measuring them."""

LONGEST = 26
"""Characters of a label; a longer name is cut in the middle."""

STYLE = """
svg{max-width:100%;height:auto;font:12px system-ui,sans-serif}
svg text{fill:#1b1f24;paint-order:stroke;stroke:#fff;stroke-width:3px}
svg .quiet{fill:#57606a}svg .grid{stroke:#d8dee4}svg .frame{stroke:#8c959f;fill:none}
svg .front{fill:#0969da;stroke:#0969da}svg .beaten{fill:#fff;stroke:#57606a;stroke-width:1.5}
svg .base{fill:#8c959f;stroke:#8c959f}svg .chosen{fill:none;stroke:#0969da;stroke-width:2}
svg .spread{stroke:#57606a;stroke-width:1.5}svg .lead{stroke:#8c959f}
@media(prefers-color-scheme:dark){svg text{fill:#e6edf3;stroke:#0d1117}svg .quiet{fill:#9198a1}svg .grid{stroke:#262c33}
svg .frame{stroke:#6e7681}svg .front{fill:#58a6ff;stroke:#58a6ff}svg .beaten{fill:#0d1117;stroke:#9198a1}
svg .chosen{stroke:#58a6ff}svg .spread{stroke:#9198a1}}
"""


def trade_off(report: BenchReport) -> str:
    """Two panels with a legend; empty where fewer than two subjects have the numbers, or nothing was ranked."""
    choice = report.recommendation
    if choice is None or not report.variants:
        return ""
    batch = report.variants[0].batch
    rows = [row for row in report.variants if row.batch == batch and row.median_ns]
    panels = [_panel(report, rows, title, read) for title, read in _PANELS]
    drawn = [panel for panel in panels if panel]
    if not drawn:
        return ""
    dots = "Filled: on the Pareto front; hollow: beaten or rejected; ring: recommended; square: the live module."
    note = f"Batch {batch}. Left and down is better. {dots} Bars: interval of the median. Axes are logarithmic."
    return f'<figure class="charts">{"".join(drawn)}<figcaption>{note}</figcaption></figure>\n'


_PANELS: tuple[tuple[str, Callable[[BenchRow], int | None]], ...] = (
    ("size of the artifact", lambda row: row.file_bytes),
    ("peak memory", lambda row: row.peak_rss_bytes),
)


_Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis: values from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float) -> _Axis:
        """Room around the values, at least a factor of two in all: close values must look close."""
        low, high = min(values), max(values)
        middle, half = math.sqrt(low * high), max(math.sqrt(high / low) * 1.15, 1.45)
        return cls(middle / half, middle * half, start, end)

    def at(self, value: float) -> float:
        """The pixel of a value."""
        share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside: 1, 2, 5 of every decade, only 1 of each where that would be more than six."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,)):
            found = [d * 10.0**k for k in decades for d in digits if self.low <= d * 10.0**k <= self.high]
            if len(found) <= 6:
                break
        return found


def _panel(report: BenchReport, rows: Sequence[BenchRow], title: str, read: Callable[[BenchRow], int | None]) -> str:
    """One panel; empty with fewer than two points."""
    points = [(row, float(value)) for row in rows if (value := read(row))]
    if len(points) < 2:
        return ""
    spans = [limit for row, _ in points for limit in (row.median_ci_ns or (row.median_ns or 1.0,))]
    across = _Axis.of([*spans, *(row.median_ns or 1.0 for row, _ in points)], LEFT, WIDTH - RIGHT)
    up = _Axis.of([value for _, value in points], HEIGHT - BOTTOM, TOP)
    parts = [_frame(across, up, title)]
    dots = [(across.at(row.median_ns or 1.0), up.at(value)) for row, value in points]
    parts += [_spread(row, across, y) for (row, _), (_, y) in zip(points, dots, strict=True)]
    parts += [_dot(report, row, *dot) for (row, _), dot in zip(points, dots, strict=True)]
    bars = [_bar(row, across, y) for (row, _), (_, y) in zip(points, dots, strict=True)]
    parts += _labels([row.name for row, _ in points], dots, bars)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">'
        f"<title>median latency and {title} of every variant</title>{''.join(parts)}</svg>"
    )


def _frame(across: _Axis, up: _Axis, title: str) -> str:
    """Grid, ticks and titles."""
    parts = []
    for value in across.ticks():
        x = across.at(value)
        parts.append(_line("grid", x, TOP, x, HEIGHT - BOTTOM))
        parts.append(_text(x, HEIGHT - BOTTOM + 18, duration(value), "middle", "quiet"))
    for value in up.ticks():
        y = up.at(value)
        parts.append(_line("grid", LEFT, y, WIDTH - RIGHT, y))
        parts.append(_text(LEFT - 8, y + 4, _round(value), "end", "quiet"))
    parts.append(
        f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"/>'
    )
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "median latency of a call", "middle"))
    return "".join([*parts, _text(LEFT, TOP - 12, title, "start")])


_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))


def _round(count: float) -> str:
    """`200 MB`, `1.5 GB`: ticks are round, their text is too."""
    unit, scale = next(((unit, scale) for unit, scale in _UNITS if count >= scale), _UNITS[-1])
    return f"{count / scale:g} {unit}"


def _bar(row: BenchRow, across: _Axis, y: float) -> _Box:
    """What the interval covers, for labels to keep clear of."""
    low, high = row.median_ci_ns or (row.median_ns or 1.0,) * 2
    return across.at(low), y - 2, across.at(high), y + 2


def _spread(row: BenchRow, across: _Axis, y: float) -> str:
    if row.median_ci_ns is None:
        return ""
    return _line("spread", across.at(row.median_ci_ns[0]), y, across.at(row.median_ci_ns[1]), y)


def _dot(report: BenchReport, row: BenchRow, x: float, y: float) -> str:
    choice = report.recommendation
    if row.name in BASE_LINES:
        return f'<rect class="base" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
    ring = f'<circle class="chosen" cx="{x:.1f}" cy="{y:.1f}" r="9"/>' if choice and row.name == choice.variant else ""
    kind = "front" if choice and row.name in choice.pareto else "beaten"
    return f'{ring}<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


def _labels(names: Sequence[str], dots: Sequence[tuple[float, float]], bars: Sequence[_Box]) -> list[str]:
    """Every name near its dot, none over another label, dot or bar, with a thin line where it had to move away."""
    taken: list[_Box] = [(x - 8, y - 8, x + 8, y + 8) for x, y in dots] + list(bars)
    leads, texts = [], []
    for name, (x, y) in sorted(zip(names, dots, strict=True), key=lambda item: (item[1][1], item[1][0])):
        text = escape(name, LONGEST)
        width = LETTER * len(text)
        left, top = _place(x, y, width, taken)
        taken.append((left, top, left + width, top + LINE))
        near = abs(top + LINE / 2 - y) <= LINE + 4
        if not near:
            edge = min(max(x, left), left + width)
            leads.append(_line("lead", x, y, edge, top + LINE if top + LINE < y else top))
        texts.append(_text(left, top + LINE - 4, text, "start"))
    return leads + texts


def _place(x: float, y: float, width: float, taken: Sequence[_Box]) -> tuple[float, float]:
    """Top left corner of the label: the nearest place that is free, right of the dot first."""
    tries = []
    for step in range(12):
        for sign in (1, -1) if step else (1,):
            top = y - LINE / 2 + sign * (step * LINE + 3 if step else 0)
            aside = 12 if step == 0 else 2
            tries += [(x + aside, top), (x - aside - width, top)]
    inside = [
        (left, top)
        for left, top in tries
        if left >= LEFT + 2 and left + width <= WIDTH - RIGHT and top >= TOP and top + LINE <= HEIGHT - BOTTOM
    ]
    for left, top in inside:
        if not any(
            left < right and left + width > other and top < bottom and top + LINE > above
            for other, above, right, bottom in taken
        ):
            return left, top
    return (inside or tries)[0]


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    marked = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{marked}>{as_html(text)}</text>'
