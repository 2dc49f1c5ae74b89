from deploykit.measurements import BenchReport, BenchRow
from deploykit.profile_results import OperatorTime, Profile
from deploykit.report import profiles, text
from deploykit.session import CPU, CUDA


def operator(index, provider=CPU):
    return OperatorTime(f"/fc{index}/Gemm", "Gemm", provider, 40, 9000.0, 0.25, 10.0 - index / 20)


def report(*taken, rows=()):
    return BenchReport("mlp", {}, {}, tuple(rows), profiles=taken)


PROFILE = Profile(
    "onnx", CPU, 1, 20, 20_000.0, 0.5, tuple(operator(i) for i in range(8)), 8, {CPU: 8}, "reports/p.json",
    call_us=50.0,
)  # fmt: skip


def test_the_top_operators_per_call():
    rows = profiles.profile_rows(report(PROFILE, Profile("eager", CPU, 1, reason="NO_PROFILER: none")))
    assert len(rows) == profiles.SHOWN
    assert rows[0] == ("onnx", "/fc0/Gemm", "Gemm", "CPU", "2×", "10 µs", "25%")
    assert {row[0] for row in rows[1:]} == {""}


def test_long_names_leave_room_for_the_numbers():
    one = OperatorTime("begin" + "x" * 200 + "finish", "T" * 90, CPU, 20, 9000.0, 1.0, 5.0)
    wide = Profile("torch-compile@threads=1,spinning=off", CPU, 1, 20, 1000.0, 0.1, (one,), 1)
    (shown,) = (line for line in text.render_bench(report(wide)).splitlines() if "begin" in line)
    assert "finish" in shown
    assert shown.split()[-3:] == ["5", "µs", "100%"]


def test_a_profile_is_labelled_and_tells_what_it_covers():
    shown = text.render_bench(report(PROFILE, Profile("eager", CPU, 1, reason="NO_PROFILER: none")))
    assert "compare nothing with the table above" in shown
    assert "onnx: 8 operators are 50% of 50 µs a call with the profiler on, medians of 20 calls" in shown
    assert "reports/p.json opens in ui.perfetto.dev" in shown
    assert "eager: no profile: NO_PROFILER: none" in shown
    assert "where the time goes" not in text.render_bench(report())


def test_a_device_row_shows_phases_memory_and_nodes_that_fell_to_the_cpu():
    row = BenchRow(
        "onnx", CUDA, 8, 1, "measured", h2d_ns=2000.0, compute_ns=50_000.0, d2h_ns=3000.0, gpu_memory_bytes=5_000_000,
        events_ns_reason="own stream", nodes={CUDA: 41, CPU: 2, "Memcpy": 3},
    )  # fmt: skip
    (line,) = profiles.device_lines(report(rows=[row]))
    assert line == (
        "onnx, batch 8: device only 50 µs (2 µs in, 3 µs out); by events not told: own stream; "
        "device memory 5.0 MB; nodes on CUDA 41, CPU 2, Memcpy 3"
    )
    assert line in text.render_bench(report(rows=[row]))


def test_why_compiled_eager_is_missing_is_told_where_it_was_asked_for():
    def shown(note):
        return text.render_bench(BenchReport("mlp", {}, {"torch-compile": note}, ()))

    assert "torch-compile not measured: no compiler" in shown("not measured: no compiler")
    assert "torch-compile" not in shown("not asked for (--compile)")
    assert "torch-compile" not in shown("measured")


def test_a_row_of_the_host_adds_no_line():
    assert profiles.device_lines(report(rows=[BenchRow("onnx", CPU, 1, 1, "measured")])) == []
