import pytest

from deploykit.measurements import Comparison
from deploykit.recommend.traits import Traits
from deploykit.recommend.unhelped import Facts, why
from deploykit.results import Check, VariantReport
from deploykit.session import CPU, CUDA

SLOWER = Comparison("onnx", "x", 1, 1.3, (1.2, 1.4), 0.95, "slower")
OPEN = Comparison("onnx", "x", 1, 0.9, (0.7, 1.2), 0.75, "indistinguishable")
EQUAL = Comparison("onnx", "x", 1, 1.01, (0.98, 1.03), 0.95, "indistinguishable")


def coverage(share, verdict="pass", code=""):
    check = Check("coverage", "weights", "", verdict, code, "share", share, 0.8, f"{share:.1%} of the weights are int8")
    return VariantReport("x", "pass", CPU, (check,))


def flags(*names, machine="x86_64", provider=CPU, quick=False):
    return Facts({"cpu_flags": list(names), "machine": machine}, provider, quick)


@pytest.mark.parametrize(
    ("precision", "facts", "said"),
    [
        ("int8-static", flags("avx2"), "no VNNI"),
        ("int8-dynamic", flags("avx2", "avx_vnni"), None),
        ("int4", flags("avx2"), "no VNNI"),
        ("int8-static", flags("asimd", machine="aarch64"), "no dot product"),
        ("int8-static", flags("asimd", "asimddp", machine="aarch64"), None),
        ("fp16", flags("avx512f"), "no float16 arithmetic"),
        ("fp16", flags("avx512_fp16"), None),
        ("fp16", flags("asimd", machine="aarch64"), None),
        ("bf16", flags("avx512f"), "no bfloat16 arithmetic"),
        ("bf16", flags("amx_bf16", machine="AMD64"), None),
        ("fp8", flags("avx2"), None),
        ("int8-static", flags("avx2", provider=CUDA), None),
        ("int8-static", flags(), None),
        ("int8-static", Facts(), None),
    ],
)
def test_what_the_cpu_lacks_is_said_where_its_flags_are_known(precision, facts, said):
    found = why(Traits(precision, "onnxruntime", "onnx"), SLOWER, None, facts)
    assert found == [] if said is None else said in found[0]
    assert len(found) <= 1


def test_what_was_not_converted_comes_first():
    traits, facts = Traits("int8-static"), flags("avx2")
    assert why(traits, SLOWER, coverage(0.6), facts)[0] == "60.0% of the weights are int8"
    named = why(traits, SLOWER, coverage(0.6, "warn", "VARIANT_NOT_APPLIED"), facts)
    assert named[0] == "VARIANT_NOT_APPLIED: 60.0% of the weights are int8"
    assert why(traits, SLOWER, coverage(1.0), flags("avx_vnni")) == []


def test_more_launches_are_advised_only_where_they_could_show_something():
    traits = Traits("int8-static")
    quick, full = flags("avx_vnni", quick=True), flags("avx_vnni")
    assert why(traits, OPEN, None, quick) == ["three launches may be too few to see it: leave --quick out"]
    assert why(traits, OPEN, None, full) == []
    assert why(traits, EQUAL, None, quick) == []
    assert why(traits, SLOWER, None, quick) == []
