import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import combinations

import pytest

from deploykit.measurements import BenchReport, BenchRow, Choice, Recommendation
from deploykit.report import chart
from deploykit.session import CPU

NAMES = ("eager", "torchscript", "onnx", "onnx-fp16", "onnx-int8-dynamic", "onnx-int8-static", "torch-export")


def drawn(times, sizes, memory, names=NAMES, pareto=("onnx",), spread=1.1):
    rows = tuple(
        BenchRow(
            name, CPU, 1, 2, "measured", median_ns=ns, median_ci_ns=(ns / spread, ns * spread), file_bytes=size,
            peak_rss_bytes=rss,
        )
        for name, ns, size, rss in zip(names, times, sizes, memory, strict=True)
    )  # fmt: skip
    choice = Recommendation("onnx", "fast", (Choice("onnx", "fast"),), pareto=pareto)
    return BenchReport("mlp", {}, {}, rows, (), choice)


SPREAD_OUT = drawn(
    [32e3, 43e3, 13e3, 14e3, 12e3, 11e3, 130e3],
    [None, 410_000, 408_000, 205_000, 106_000, 107_000, 421_000],
    [565e6, 569e6, 63.6e6, 63.8e6, 63.3e6, 63.6e6, 739e6],
)
ALL_ALIKE = drawn([1e3] * 7, [10**6] * 7, [10**8] * 7)
FAR_APART = drawn(
    [1e2, 1e9, 5e4, 5e5, 5e6, 2e3, 3e3], [1, 10**9, 10**4, 10**6, 70, 5, 10**8], [10**k for k in range(7)]
)


def panels(report):
    text = chart.trade_off(report)
    return [ET.fromstring(part) for part in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def of(panel, tag, kind=None):
    return [one for one in panel.iter(tag) if kind is None or one.get("class") == kind]


def labels(panel):
    """Name to its box: left, top, right, bottom."""
    found = {}
    for one in of(panel, "text"):
        if one.text in NAMES:
            x, y = float(one.get("x")), float(one.get("y"))
            found[one.text] = (x, y - 11, x + chart.LETTER * len(one.text), y + 4)
    return found


@pytest.mark.parametrize("report", [SPREAD_OUT, ALL_ALIKE, FAR_APART], ids=["usual", "alike", "far"])
def test_every_variant_has_a_dot_and_a_label_inside_the_frame_and_no_two_labels_meet(report):
    found = panels(report)
    assert len(found) == 2
    for panel, expected in zip(found, ("file_bytes", "peak_rss_bytes"), strict=True):
        shown = {row.name for row in report.variants if getattr(row, expected)}
        boxes = labels(panel)
        assert set(boxes) == shown
        assert len(of(panel, "circle", "front")) == 1
        assert len(of(panel, "circle", "beaten")) + len(of(panel, "rect", "base")) == len(shown) - 1
        for left, top, right, bottom in boxes.values():
            assert left >= chart.LEFT
            assert right <= chart.WIDTH - chart.RIGHT
            assert top >= chart.TOP
            assert bottom <= chart.HEIGHT - chart.BOTTOM
        for one, other in combinations(boxes.values(), 2):
            assert one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]


@pytest.mark.parametrize("report", [SPREAD_OUT, ALL_ALIKE, FAR_APART], ids=["usual", "alike", "far"])
def test_axes_have_a_few_ticks_each_and_dots_are_where_their_numbers_are(report):
    for panel in panels(report):
        across = [t for t in of(panel, "text", "quiet") if t.get("text-anchor") == "middle"]
        up = [t for t in of(panel, "text", "quiet") if t.get("text-anchor") == "end"]
        assert 1 <= len(across) <= 12
        assert 1 <= len(up) <= 12
        assert len({t.text for t in across}) == len(across)
        assert len({t.text for t in up}) == len(up)
        for one in of(panel, "circle", "front"):
            assert chart.LEFT < float(one.get("cx")) < chart.WIDTH - chart.RIGHT
            assert chart.TOP < float(one.get("cy")) < chart.HEIGHT - chart.BOTTOM


def test_further_left_is_faster_and_further_down_is_smaller():
    panel = panels(drawn([1e3, 1e4], [10**5, 10**6], [1, 1], ("a", "onnx")))[0]
    (beaten,), (front,) = of(panel, "circle", "beaten"), of(panel, "circle", "front")
    assert float(beaten.get("cx")) < float(front.get("cx"))
    assert float(beaten.get("cy")) > float(front.get("cy"))  # downwards on a screen
    spread = of(panel, "line", "spread")[0]
    assert float(spread.get("x1")) < float(beaten.get("cx")) < float(spread.get("x2"))


def test_a_tick_stands_where_its_value_is():
    axis = chart._Axis.of([10.0, 1000.0], 0.0, 100.0)
    assert axis.at(100.0) == pytest.approx(50.0)
    assert axis.at(axis.low) == 0.0
    assert axis.at(axis.high) == pytest.approx(100.0)
    assert axis.ticks() == [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0] or axis.ticks() == [10.0, 100.0, 1000.0]


def test_nothing_is_drawn_without_two_points_or_without_a_choice():
    assert chart.trade_off(replace(SPREAD_OUT, recommendation=None)) == ""
    assert chart.trade_off(replace(SPREAD_OUT, variants=())) == ""
    assert chart.trade_off(replace(SPREAD_OUT, variants=SPREAD_OUT.variants[:1])) == ""
    without_sizes = tuple(replace(row, file_bytes=None) for row in SPREAD_OUT.variants)
    assert len(panels(replace(SPREAD_OUT, variants=without_sizes))) == 1


def test_only_the_deciding_batch_is_drawn():
    more = tuple(replace(row, batch=8, median_ns=1e12) for row in SPREAD_OUT.variants)
    assert chart.trade_off(replace(SPREAD_OUT, variants=SPREAD_OUT.variants + more)) == chart.trade_off(SPREAD_OUT)


def test_a_name_is_text_and_never_markup():
    odd = drawn([1e3, 1e4], [10**5, 10**6], [1, 1], ("<b>&\x1b\u202e", "onnx" * 30))
    (panel, *_) = panels(odd)
    texts = [one.text for one in of(panel, "text")]
    assert "<b>&\\x1b\\u202e" in texts
    assert max(map(len, texts)) <= chart.LONGEST
