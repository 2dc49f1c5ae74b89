import re
from html.parser import HTMLParser

from deploykit.report import details, html
from deploykit.report.rows import BENCH_HEAD, VERIFY_HEAD


class Page(HTMLParser):
    """Tags with their attributes, and whether every one that opens closes."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def count(page, tag):
    return sum(name == tag for name, _ in page.tags)


def test_the_page_holds_both_reports_and_nothing_from_elsewhere(verified, benched):
    text = html.render("mlp", verified, benched)
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert count(page, "table") == 3
    head, _ = details.table(benched)
    assert count(page, "td") == 6 * len(VERIFY_HEAD) + 4 * len(BENCH_HEAD) + 4 * len(head)
    for part in (
        "1.25",
        "≤ 4",
        "3.2×",
        "same arithmetic",
        "83.4 µs",
        "Recommended: onnx",
        "torch 2.15.0",
        "batch-7 (seed 3)",
    ):
        assert part in page.text
    assert "absent" not in page.text
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "a"}
    assert not re.search(r"https?:|url\(|@import", text)


def test_either_report_alone_makes_a_page_and_so_does_none(verified, benched):
    assert "Latency" not in Page(html.render("mlp", verified, None)).text
    assert "Parity" not in Page(html.render("mlp", None, benched)).text
    assert Page(html.render("mlp", None, None)).text


def test_verdicts_carry_a_class_and_a_word(verified):
    page = Page(html.render("mlp", verified, None))
    classes = {attrs["class"] for tag, attrs in page.tags if tag == "td" and "class" in attrs}
    assert classes == {v.verdict for v in verified.variants}
    for verdict in classes:
        assert verdict in page.text


def test_hostile_names_stay_text(hostile, verified, benched, hostile_verify, hostile_bench):
    text = html.render(hostile, hostile_verify, hostile_bench)
    page = Page(text)
    plain = Page(html.render("mlp", verified, benched))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags}
    drawn = {"viewbox", "width", "height", "role", "x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "text-anchor"}
    plain_keys = {"lang", "charset", "name", "content", "class"}
    assert {key for _, attrs in page.tags for key in attrs} <= plain_keys | drawn
    assert "<script>alert(1)</script>" in page.text
    assert all(c.isprintable() or c == "\n" for c in text)
    text.encode()
