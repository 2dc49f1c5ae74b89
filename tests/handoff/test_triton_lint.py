"""The lint of `config.pbtxt`: silent where all is well, and every rule finds the configuration that breaks it."""

import pytest

from deploykit.errors import RefusedError
from deploykit.handoff import _triton_config
from deploykit.handoff._triton_binding import wrongly_bound
from deploykit.handoff._triton_lint import RULES, lint
from deploykit.handoff._triton_text import entries, inner, number, read, word
from tests.handoff.triton_configs import BROKEN, CUDA, SIGNATURE, TORCH, TWO, UNBATCHED, given, subject, version

TUNED = given(SIGNATURE, version(batch=32, words="threads=2,graph_level=basic,arena=off,spinning=off"))


@pytest.mark.parametrize("sound", [given(), given(UNBATCHED), TORCH, TWO, CUDA, TUNED])
def test_what_is_written_is_sound(sound):
    assert lint(_triton_config.render(sound), subject(sound)) == ()


@pytest.mark.parametrize("broken", BROKEN, ids=lambda one: f"{one.code}-{one.new.split(chr(10))[-1][:30]}")
def test_a_rule_finds_what_it_is_for(broken):
    found = lint(broken.text, subject(broken.of))
    lines = [one.message for one in found if one.code == broken.code]
    assert any(broken.said in line for line in lines), found
    assert all("\n" not in one.message for one in found)


def test_every_rule_has_its_configuration():
    assert {one.code for one in BROKEN} == set(RULES)


SAME = {
    "dims: [ 1, 28, 20 ]": "dims: 1 dims: 28, dims: 20",
    'name: "ids"': "name: 'id' \"s\"",
    "data_type: TYPE_INT64": "data_type: 9",
    'platform: "onnxruntime_onnx"': "backend: 'onnxruntime'",
    "version_policy { all { } }": "version_policy: < all: < > >;",
    "dynamic_batching { }": "dynamic_batching { preferred_batch_size: [ 4, 64 ] }  # a remark { with a brace",
    "max_batch_size: 64": "max_batch_size: 8",
    "kind: KIND_CPU": "kind: 2",
    "  dims: [ -1 ]": "  dims: [ 5 ]",
}
"""Other ways to write the same, and narrower ones: nothing to find."""


@pytest.mark.parametrize(("old", "new"), SAME.items(), ids=range(len(SAME)))
def test_another_spelling_is_as_good(old, new):
    text = _triton_config.render(given())
    assert old in text
    changed = text.replace(old, new, 1)
    if old == "max_batch_size: 64":
        assert (
            lint(
                changed.replace("dynamic_batching { }", "dynamic_batching { preferred_batch_size: 8 }"),
                subject(given()),
            )
            == ()
        )
    assert lint(changed, subject(given())) == ()


def test_a_reshape_that_only_adds_ones_is_as_good():
    text = _triton_config.render(given()).replace(
        "dims: [ 1, 28, 20 ]", "dims: [ 28, 20 ] reshape { shape: [ 1, 28, 20 ] }", 1
    )
    assert lint(text, subject(given())) == ()


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (("x", "mask"), []),
        (("mask", "x"), ["mask", "x"]),
        (("INPUT__0", "INPUT__1"), []),
        (("INPUT__1", "INPUT__0"), []),
        (("INPUT__0", "INPUT__2"), ["INPUT__2"]),
        (("x", "INPUT__1"), []),
        (("x",), []),
    ],
)
def test_where_libtorch_finds_a_tensor(names, wrong):
    assert wrongly_bound(names, ("x", "mask")) == wrong


@pytest.mark.parametrize(
    ("names", "wrong"), [(("x__1", "x__0"), ["x__1", "x__0"]), (("a__", "b__1"), []), (("b__1", "a"), [])]
)
def test_a_models_own_names_can_be_misread(names, wrong):
    assert wrongly_bound(names, names) == wrong


def test_reading():
    found = read(
        'a: 1 # b: 2\nc { d: "x\\n\\"\\101\\x42" \'y\' d: -3 } m { key: "k" value { v: TRUE } } l: [ {}, { e: 0x10 } ]'
    )
    assert number(found, "a") == 1
    assert "b" not in found
    assert inner(found, "c")[0]["d"] == ['x\n"ABy', "-3"]
    assert word(inner(entries(found, "m")["k"], "value")[0], "v") == "TRUE"
    assert len(inner(found, "l")) == 2
    assert read("") == read("# nothing\n") == {}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a", 1), ("a 1", 1), ("a: ", 1), ("a {", 1), ("\na }", 2), ("a: [1", 1), ("a: [1 2]", 1), ('\n\na: "x', 3),
        ("a: $", 1), ("a: 1 1", 1), ("a { >", 1), ("a {" * 60, 1), ("a: 'x\ny'", 1),
    ],
)  # fmt: skip
def test_what_is_no_text_format_is_refused_with_its_line(text, line):
    with pytest.raises(RefusedError, match=f"line {line}:") as caught:
        read(text)
    assert caught.value.code == "MALFORMED"
