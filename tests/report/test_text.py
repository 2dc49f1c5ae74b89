from dataclasses import replace

from deploykit.measurements import Recommendation
from deploykit.report import text


def test_the_table_has_every_variant_with_value_limit_head_room_and_reason(verified):
    lines = text.render_verify(verified).splitlines()
    for variant in verified.variants:
        assert any(variant.name in line and variant.verdict in line for line in lines)
    onnx = next(line for line in lines if line.lstrip().startswith("onnx ") and "pass" in line)
    for part in ("real R", "1.25", "≤ 4", "3.2×", "same arithmetic"):
        assert part in onnx
    fp16 = next(line for line in lines if "onnx-fp16" in line and "fail" in line)
    for part in ("31", "≥ 45", "-14.0 dB"):
        assert part in fp16


def test_the_verdict_comes_first_and_the_provider_last(verified):
    page = text.render_verify(verified)
    assert "ERROR" in page.splitlines()[0]
    assert "mlp" in page.splitlines()[0]
    assert "CPUExecutionProvider" in page.splitlines()[-1]
    nothing = text.render_verify(replace(verified, variants=verified.variants[3:]))
    assert "ran on" not in nothing


def test_findings_warnings_and_decisions_are_told(verified):
    page = text.render_verify(verified)
    assert "batch-7 (seed 3)" in page
    assert "outside the calibrated range (ones)" in page
    assert "64 of 64 decisions alike" in page


def test_the_bench_table_and_the_recommendation(benched):
    page = text.render_bench(benched)
    for part in ("83.4 µs", "47,000", "quick", "no p99", "not steady", "verify says fail", "recommended: onnx"):
        assert part in page
    assert "quick" not in text.render_bench(replace(benched, protocol={})).splitlines()[0]
    assert "recommended" not in text.render_bench(replace(benched, recommendation=None))


def test_no_choice_is_a_choice_too():
    page = text.render_recommendation(Recommendation(None, "nothing qualifies"))
    assert "nothing qualifies" in page


def test_lines_fit_a_log(verified, benched):
    table = [line for line in text.render_bench(benched).splitlines() if "µs" in line]
    assert max(map(len, table)) <= text.WIDTH
    assert all(line == line.rstrip() for line in text.render_verify(verified).splitlines())


def test_markup_in_a_name_stays_text(verified):
    named = replace(verified.variants[0], name="[bold]:smile:[/x]")
    assert "[bold]:smile:[/x]" in text.render_verify(replace(verified, variants=(named,)))


def test_a_hostile_name_neither_reaches_the_terminal_nor_forges_a_line(hostile_verify, hostile_bench):
    for page in (text.render_verify(hostile_verify), text.render_bench(hostile_bench)):
        assert all(line.isprintable() for line in page.split("\n"))
        assert not any(line.lstrip().startswith(("forged line", "| a")) for line in page.split("\n"))
        page.encode()
