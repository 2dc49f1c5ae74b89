"""The record of source lines: what it answers, and that only what it wrote is read."""

from __future__ import annotations

import json

import pytest

from deploykit import lines
from deploykit.errors import RefusedError
from deploykit.lines import Line, Lines

LINE = Line("layer2.up (Upsample)", "upsample_nearest2d", "model.py:88", "y = self.up(y)", ("relu",), ("fc.weight",))
RECORD = Lines({"upsample": LINE, "relu": Line()}, {"getitem_3": "upsample"}, {"val_7": "upsample"})


def test_values_and_parts_lead_to_their_line():
    assert RECORD.of("getitem_3") == RECORD.of("val_7") == LINE
    # the converter numbers anew: a value's own name may be another value's in the captured program
    assert RECORD.of("upsample") == Line()
    assert Lines({"upsample": LINE}).of("upsample") == LINE


def test_it_comes_back_as_it_was_and_is_written_the_same_way(tmp_path):
    path = tmp_path / "source" / "lines.json"
    RECORD.save(path)
    assert Lines.load(path) == RECORD
    first = path.read_bytes()
    Lines(dict(reversed(RECORD.captured.items())), RECORD.values, RECORD.parts).save(path)
    assert path.read_bytes() == first


def test_a_bundle_without_it_is_older():
    from pathlib import Path

    assert Lines.load(Path("no/such/lines.json")) == Lines()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"captured": [], "values": {}, "parts": {}}', "[" * 100_000])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "lines.json"
    path.write_text(text)
    with pytest.raises(RefusedError, match="not a record of lines"):
        Lines.load(path)


def test_a_line_with_a_wrong_field_is_refused(tmp_path):
    path = tmp_path / "lines.json"
    RECORD.save(path)
    data = json.loads(path.read_text())
    data["captured"]["upsample"]["reads"] = "relu"
    path.write_text(json.dumps(data))
    with pytest.raises(RefusedError, match="a list is expected"):
        Lines.load(path)


def test_what_is_told_is_heard_inside_the_block_only():
    lines.tell(RECORD)
    with lines.listening() as heard:
        lines.tell(RECORD)
        with lines.listening() as inner:
            lines.tell(Lines())
    lines.tell(RECORD)
    assert (heard, inner) == ([RECORD], [Lines()])


def test_merging_keeps_both():
    more = Lines({"relu": LINE}, {"x": "relu"})
    merged = RECORD.merged(more)
    assert merged.captured == {"upsample": LINE, "relu": LINE}
    assert merged.values == {"getitem_3": "upsample", "x": "relu"}
    assert merged.parts == RECORD.parts
