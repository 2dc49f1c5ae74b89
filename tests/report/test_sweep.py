"""A sweep's table: a row for everything, nothing lost in rounding, no text that breaks out of its cell."""

import csv
import io
from dataclasses import replace

from deploykit.report import sweep
from deploykit.sweep_results import CellRecord, CellRow, Half, MatrixReport, table_of

KEY = "ab" * 32
PLACE = {"cpu": "EPYC", "cores": {"usable": 2}}
PROVED = Half(
    1,
    "SQNR_LOW",
    "onnx-fp16: too far off",
    rows=(
        CellRow("onnx", "pass", file_bytes=410_123),
        CellRow("onnx-fp16", "fail", "SQNR_LOW", "too far off", file_bytes=205_000),
        CellRow("onnx-int8-static", "error", "EXPORT_ERROR", "no such operator"),
    ),
    seconds=10.0,
    place=PLACE,
)
MEASURED = Half(
    1,
    rows=(
        CellRow("eager", "base", batch=1, median_ns=40_000.25, median_ci_ns=(39_000.0, 41_000.0), ci_level=0.75),
        CellRow("onnx", "", "", "", 1, 20_000.5, (19e3, 21e3), 0.75, "eager", 0.5, (0.48, 0.52), 410_123, 65_000),
        CellRow("onnx", "", "", "", 8, 40_000.5, (39e3, 41e3), 0.75, "eager", 0.99, (0.97, 1.01), 410_123, 65_000),
    ),
    seconds=5.0,
    place=PLACE,
    alone=True,
)
GOOD = CellRecord(KEY, "small", "one", "python:m.py:a", PROVED, MEASURED, "bundles/ab/small")
LOST = CellRecord(KEY, "a|b", "two", "mlp", Half(4, "TIME_LIMIT", "no end within\n8 s", "raise task.timeout_s for it"))


def report(*cells):
    return MatrixReport("m.toml", "local", 4, True, cells, table_of(cells), 2, 0, tuple(sweep.notes(cells)), 15.2)


def test_there_is_a_row_per_variant_and_batch_and_one_for_what_could_not_run():
    rows = [(r.model, r.variant, r.batch, r.verdict, r.code, r.exit_code) for r in report(GOOD, LOST).rows]
    assert rows == [
        ("small", "eager", 1, "base", "", 1),
        ("small", "onnx", 1, "pass", "", 1),
        ("small", "onnx", 8, "pass", "", 1),
        ("small", "onnx-fp16", None, "fail", "SQNR_LOW", 1),
        ("small", "onnx-int8-static", None, "error", "EXPORT_ERROR", 1),
        ("a|b", "", None, "error", "TIME_LIMIT", 4),
    ]


def test_a_cell_that_was_proved_and_could_not_be_measured_has_a_row_that_says_so():
    cell = replace(GOOD, measure=Half(4, "TIME_LIMIT", "no end", "more time"))
    last = report(cell).rows[-1]
    assert (last.variant, last.verdict, last.code, last.exit_code) == ("", "error", "TIME_LIMIT", 4)
    assert len(report(cell).rows) == 4


def test_the_text_says_what_the_numbers_are_against():
    said = sweep.render(report(GOOD, LOST))
    lines = {tuple(line.split()[:4]): line for line in said.splitlines()}
    assert "20 µs [19, 21 µs]" in lines["small", "one", "onnx", "1"]
    assert "2.0× faster" in lines["small", "one", "onnx", "1"]
    assert "the same" in lines["small", "one", "onnx", "8"]
    assert "410 kB" in lines["small", "one", "onnx", "1"]
    assert "too far off" in lines["small", "one", "onnx-fp16", "-"]
    assert "interval of the median: 75% confidence" in said
    assert "with its machine to itself" in said
    assert "TIME_LIMIT, what to do: raise task.timeout_s" in said
    assert (
        said.splitlines()[-1] == "2 cells: 1 a gate said no, 1 ended with exit code 4; 2 run now, 0 from earlier; 15 s"
    )


def test_markdown_keeps_its_columns():
    lines = [line for line in sweep.markdown(report(GOOD, LOST)).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 6
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(sweep.HEAD) + 1}


def test_the_csv_has_every_number_unrounded():
    rows = list(csv.DictReader(io.StringIO(sweep.csv(report(GOOD, LOST)))))
    assert rows[1]["median_ns"] == "20000.5"
    assert (rows[1]["ratio_ci_low"], rows[1]["ratio_ci_high"]) == ("0.48", "0.52")
    assert (rows[0]["ratio"], rows[0]["ratio_ci_low"], rows[3]["median_ns"]) == ("", "", "")
    assert (rows[5]["model"], rows[5]["reason"]) == ("a|b", "no end within\n8 s")
    assert {None} & {key for row in rows for key in row} == set()


def test_what_disturbs_or_does_not_compare_is_said():
    shared = replace(GOOD, measure=replace(MEASURED, alone=False, place={"cpu": "Xeon"}))
    said = "\n".join(sweep.notes((GOOD, shared)))
    assert "not every cell had its machine to itself" in said
    assert "each cell was measured with its machine to itself" not in said
    assert "different CPUs and do not compare across cells: EPYC, Xeon" in said
    assert sweep.notes((replace(GOOD, measure=None),)) == []


def test_a_half_in_a_few_words():
    assert sweep.outcome(PROVED) == "1 pass, 1 fail, 1 error"
    assert sweep.outcome(MEASURED) == "3 measured"
    assert sweep.outcome(LOST.prove) == "TIME_LIMIT: no end within\\n8 s"
