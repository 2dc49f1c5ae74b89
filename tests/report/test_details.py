from dataclasses import fields, replace

from deploykit.measurements import BenchRow
from deploykit.report import details, rows


def test_empty_columns_are_left_out(benched):
    head, body = details.table(benched)
    assert head == (
        "variant", "batch", "provider", "threads", "verdict", "launches", "calls", "confidence", "why not",
    )  # fmt: skip
    assert {len(row) for row in body} == {len(head)}
    assert body[0] == ("eager", "1", "CPUExecutionProvider", "2", "measured", "3", "900", "95.0%", "")
    assert body[1][-1] == "no interval: one launch; no p99: only 90 calls"
    assert body[3][-1] == "verify says fail"


def test_a_device_shows_its_share(benched):
    row = replace(
        benched.variants[0], h2d_ns=1e3, compute_ns=2e6, d2h_ns=3e3, gpu_memory_bytes=7_000_000, events_ns=1.9e6,
        nodes={"CUDA": 41, "CPU": 2},
    )  # fmt: skip
    head, body = details.table(replace(benched, variants=(row,)))
    told = dict(zip(head, body[0], strict=True))
    assert told["to device"] == "1 µs"
    assert told["compute"] == "2 ms"
    assert told["by events"] == "1.9 ms"
    assert told["to host"] == "3 µs"
    assert told["device memory"] == "7.0 MB"
    assert told["nodes"] == "CUDA 41, CPU 2"


def test_no_field_of_a_row_is_lost_between_the_two_tables(benched):
    """Changing any field of a row changes what is shown of it."""
    full = BenchRow(
        "onnx", "CUDA", 1, 2, "not_steady", "why", 1e6, (9e5, 2e6), 0.95, "ci", 3e6, "p90", 4e6, "p99", 5.0, 6.0, 7.0,
        8_000_000, 9_000_000, 1e4, 2e4, 3e4, 10, 11, 12_000_000, "gpu", 4e4, "events", {"CUDA": 13},
        settings="binding=on", p90_at_most_ns=6e3, clients=4, throughput_ci=(50.0, 60.0),
    )  # fmt: skip
    other = BenchRow(
        "b", "CPU", 2, 3, "measured", "x", 2e6, (8e5, 3e6), 0.9, "x", 4e6, "x", 5e6, "x", 6.5, 7.5, 8.5,
        9_000_000, 1_000_000, 2e4, 3e4, 4e4, 11, 12, 13_000_000, "x", 5e4, "x", {"CPU": 1}, settings="arena=off",
        p90_at_most_ns=7e3, clients=8, throughput_ci=(51.0, 60.0),
    )  # fmt: skip

    def shown(row):
        report = replace(benched, variants=(row,))
        return rows.bench_rows(report), details.table(report)

    for item in fields(BenchRow):
        changed = replace(full, **{item.name: getattr(other, item.name)})
        assert shown(changed) != shown(full), item.name
