from hypothesis import given
from hypothesis import strategies as st

from deploykit.measurements import BenchRow, Comparison
from deploykit.recommend import pareto
from deploykit.recommend.traits import Traits
from deploykit.results import Check, VariantReport
from deploykit.session import CPU

PRECISIONS = ("fp32", "fp16", "int8")


def compare(rows, base, candidate, goal):
    """Differences from 2 % on count, as in the benchmark's own comparisons."""
    name = {"latency": "median_ns", "memory": "peak_rss_bytes", "size": "file_bytes"}[goal]
    first, second = getattr(rows[base], name), getattr(rows[candidate], name)
    if first is None or second is None:
        return Comparison(base, candidate, 1, None, None, None, "not_measured")
    ratio = second / first
    verdict = "indistinguishable" if abs(ratio - 1) < 0.02 else "faster" if ratio < 1 else "slower"
    return Comparison(base, candidate, 1, ratio, None, None, verdict)


def front(numbers, drops=None):
    """`numbers`: name to (latency, memory, size, precision)."""
    rows = {
        name: BenchRow(name, CPU, 1, 2, "measured", median_ns=ns, peak_rss_bytes=rss, file_bytes=size)
        for name, (ns, rss, size, _) in numbers.items()
    }
    traits = {name: Traits(precision) for name, (_, _, _, precision) in numbers.items()}
    verified = {
        name: VariantReport(
            name, "pass", CPU, (Check("top1-drop", "task", "y", "pass", "", "accuracy_drop_upper", drop, 0.01, ""),)
        )
        for name, drop in (drops or {}).items()
    }
    return pareto.front(rows, lambda base, other, goal: compare(rows, base, other, goal), traits, verified)


def test_what_is_best_in_something_is_on_the_front():
    best, dominated = front({
        "fast": (1.0, 100, 100, "fp32"), "lean": (2.0, 50, 100, "fp32"), "small": (2.0, 100, 25, "int8"),
        "nothing": (2.0, 100, 100, "fp32"),
    })  # fmt: skip
    assert best == ("fast", "lean", "small")
    ((loser,), reason) = ([choice.variant for choice in dominated], dominated[0].reason)
    assert loser == "nothing"
    assert reason == "fast is 2.0× faster, and no worse in anything else"


def test_an_exact_variant_is_never_beaten_by_a_less_exact_one():
    best, _ = front({"onnx": (2.0, 100, 100, "fp32"), "onnx-int8": (1.0, 50, 25, "int8")})
    assert best == ("onnx", "onnx-int8")


def test_differences_within_noise_beat_nobody():
    best, dominated = front({"a": (1.0, 100, 100, "fp32"), "b": (1.015, 101, 101, "fp32")})
    assert (best, dominated) == (("a", "b"), ())


def test_what_was_not_measured_beats_nobody_and_is_not_beaten():
    best, _ = front({"a": (1.0, None, 100, "fp32"), "b": (2.0, 100, 100, "fp32"), "c": (1.0, 90, 100, "fp32")})
    assert best == ("a", "c")


def test_equal_precision_goes_by_the_labels():
    numbers = {"dynamic": (2.0, 100, 100, "int8"), "static": (1.0, 100, 100, "int8")}
    assert front(numbers)[0] == ("static",)
    assert front(numbers, {"dynamic": 0.004, "static": 0.0045})[0] == ("static",)
    assert front(numbers, {"dynamic": 0.002, "static": 0.0045})[0] == ("dynamic", "static")
    assert front(numbers, {"static": 0.0045})[0] == ("static",)


def test_better_on_every_side_is_told_without_a_rest():
    (choice,) = front({"onnx": (1.0, 50, 50, "fp32"), "half": (2.0, 100, 100, "fp16")})[1]
    assert choice.reason == "onnx is 2.0× faster, 2.0× smaller in memory, 2.0× smaller, more exact"


def test_a_circle_of_noise_beats_nobody():
    names = ("a", "b", "c")
    rows = {name: BenchRow(name, CPU, 1, 2, "measured", median_ns=1.0) for name in names}
    wins = {("a", "b"), ("b", "c"), ("c", "a")}

    def circle(base, candidate, goal):
        if goal != "latency" or (base, candidate) not in wins | {(b, a) for a, b in wins}:
            return Comparison(base, candidate, 1, 1.0, None, None, "indistinguishable")
        faster = (candidate, base) in wins
        return Comparison(base, candidate, 1, 0.9 if faster else 1.1, None, None, "faster" if faster else "slower")

    assert pareto.front(rows, circle, {}, {}) == (names, ())


sides = st.tuples(
    st.integers(1, 4).map(float), st.integers(1, 4), st.integers(1, 4), st.sampled_from(PRECISIONS)
)  # fmt: skip


@given(st.lists(sides, min_size=1, max_size=7))
def test_the_front_is_that_of_the_definition(points):
    numbers = {f"v{index}": point for index, point in enumerate(points)}

    def beats(a, b):
        pairs = list(zip((*a[:3], PRECISIONS.index(a[3])), (*b[:3], PRECISIONS.index(b[3])), strict=True))
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    best, dominated = front(numbers)
    expected = {name for name, one in numbers.items() if not any(beats(other, one) for other in numbers.values())}
    assert set(best) == expected
    for choice in dominated:
        winner = choice.reason.split(" is ")[0]
        assert winner in expected
        assert beats(numbers[winner], numbers[choice.variant])
    assert set(best) | {choice.variant for choice in dominated} == set(numbers)
