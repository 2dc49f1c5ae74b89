import re
from dataclasses import replace

import pytest

from deploykit.report import details, markdown, rows

BARE = re.compile(r"(?<!\\)\|")
"""A bar that ends a cell."""


def table(page):
    return [line for line in page.split("\n") if line.startswith("|")]


def test_the_table_has_a_row_per_variant_under_a_heading_with_the_verdict(verified):
    page = markdown.render_verify(verified)
    assert page.startswith("### ")
    assert "error" in page.split("\n")[0]
    lines = table(page)
    assert len(lines) == 2 + len(verified.variants)
    assert {len(BARE.findall(line)) for line in lines} == {len(rows.VERIFY_HEAD) + 1}
    onnx = next(line for line in lines if line.startswith("| onnx |"))
    for part in ("pass", "1.25", "≤ 4", "3.2×", "same arithmetic"):
        assert part in onnx
    assert page.endswith("\n")


def test_findings_are_a_list(verified):
    items = [line for line in markdown.render_verify(verified).split("\n") if line.startswith("- ")]
    assert len([item for item in items if "what to do" not in item]) == 3
    assert "batch-7 (seed 3)" in items[0]
    assert [item for item in items if "outside the calibrated range" in item]


def test_the_bench_page_has_table_notes_and_recommendation(benched):
    page = markdown.render_bench(benched)
    widths = {len(rows.BENCH_HEAD) + 1, len(details.table(benched)[0]) + 1}
    assert {len(BARE.findall(line)) for line in table(page)} == widths
    assert "**Recommended: onnx** 4.0× faster than eager" in page
    assert "1. onnx-fp16: no faster" in page
    assert "- torchscript: fails verify" in page
    assert "only 90 calls" in page


def test_hostile_names_start_no_markup_no_html_and_no_line(hostile_verify, hostile_bench):
    heads = (rows.VERIFY_HEAD, rows.BENCH_HEAD, details.table(hostile_bench)[0])
    widths = {len(head) + 1 for head in heads}
    for page in (markdown.render_verify(hostile_verify), markdown.render_bench(hostile_bench)):
        assert "<" not in page
        assert all(line.isprintable() for line in page.split("\n"))
        assert not any(line.startswith(("forged", "| a")) for line in page.split("\n"))
        assert not re.search(r"(?<!\\)`", page)
        for line in table(page):
            assert len(BARE.findall(line)) in widths
        assert len(re.findall(r"(?<!\\)\*\*", page)) == 2 * page.count("**Recommended")
        page.encode()


def test_a_backslash_cannot_free_the_bar_behind_it(verified):
    assert markdown.in_cell("a\\|b") == "a\\\\\\|b"
    assert markdown.in_cell("[x](javascript:1)") == "\\[x\\](javascript:1)"


def long(verified, count):
    odd = replace(verified.variants[1], name="größer")
    return markdown.render_verify(replace(verified, variants=(odd,) * count))


@pytest.mark.parametrize("room", [400, 1000, 1001, 1002, 1003, 5000, 20_000])
def test_a_page_is_cut_at_whole_lines_and_says_what_is_missing(verified, room):
    page = long(verified, 300)
    cut = markdown.fitted(page, room)
    assert room - 300 < len(cut.encode()) <= room
    *kept, blank, told, end = cut.split("\n")
    assert (blank, end) == ("", "")
    assert page.startswith("\n".join(kept))
    assert page.split("\n")[: len(kept)] == kept
    left = page.split("\n")[len(kept) :]
    rows_left, notes_left = (sum(line.startswith(start) for line in left) for start in ("| ", "- "))
    assert told.startswith(
        f"Left out, since a job summary may not be longer: {rows_left} rows and {notes_left} findings"
    )


def test_a_page_that_fits_is_not_touched_and_without_room_there_is_none(verified):
    page = long(verified, 3)
    assert markdown.fitted(page, len(page.encode())) == page
    assert markdown.fitted(page, len(page.encode()) - 1) != page
    assert markdown.fitted(page, 100) == markdown.fitted(page, 0) == markdown.fitted(page, -5) == ""
