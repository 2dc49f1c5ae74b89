"""The lines that say under which conditions a table came about."""

from dataclasses import replace

import pytest

from deploykit.measurements import BenchReport, BenchRow, Load, Sweep
from deploykit.report import conditions, details, markdown, text
from deploykit.session import CPU

ODD = "threads=1,graph_level=disable,spinning=off"


def report(**more):
    return BenchReport("mlp", {"cores": {"usable": 2}, "cpu": "one"}, {}, (), **more)


def row(name, settings, verdict="measured"):
    return BenchRow(name, CPU, 1, 1, verdict, settings=settings)


KINDS = {
    "table": {"variants": (row("onnx", ODD), row("other", "threads=2"))},
    "offline": {"sweeps": (Sweep("onnx", CPU, 1, "measured", settings=ODD),)},
    "server": {"loads": (Load("onnx", CPU, 1, 1, "measured", settings=ODD),)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_shown_in_every_form(kind):
    found = replace(report(), **KINDS[kind])
    line = f"opened with {ODD} (onnx)"
    assert line in conditions.lines(found)
    assert line in text.render_bench(found).splitlines()
    assert line in markdown.render_bench(found).replace("\\", "")


def test_the_default_needs_no_line_and_what_was_not_measured_has_none():
    found = replace(report(), variants=(row("a", "threads=2"), row("b", ""), row("c", ODD, "not_measured")))
    assert conditions.lines(found) == []


def test_what_is_opened_alike_shares_a_line():
    found = replace(report(), variants=(row("a", ODD), row("b", ODD), row("c", "threads=1"), row("a", ODD)))
    assert conditions.lines(found) == [f"opened with {ODD} (a, b)", "opened with threads=1 (c)"]


def test_tuned_settings_are_told_once_and_what_was_put_on_top_too():
    told = {"protocol": {"tuned": {"a": "binding=on, tuned for latency"}}}
    line = "a opens with binding=on, tuned for latency"
    assert conditions.lines(replace(report(), variants=(row("a", "threads=2,binding=on"),), **told)) == [line]
    words = "threads=1,binding=on"
    found = conditions.lines(replace(report(), variants=(row("a", words),), **told))
    assert found == [f"opened with {words} (a)", line]


def test_the_second_table_has_a_column_for_them():
    head, body = details.table(replace(report(), variants=(row("a", ODD),)))
    assert body[0][head.index("settings")] == ODD
