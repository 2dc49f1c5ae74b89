import pytest

from deploykit.benchmark.gate import Rules
from deploykit.cli import gate_options
from deploykit.errors import UsageError
from deploykit.pipeline.measuring import BenchRequest

NONE = {"against": None, "metrics": None, "margin": None, "junit": None, "session": ""}


def gated(tmp_path, **given):
    return gate_options.gated(BenchRequest(tmp_path), {**NONE, **given})


def test_without_the_option_there_is_no_gate(tmp_path):
    assert gated(tmp_path) == BenchRequest(tmp_path)


def test_the_options_become_rules_declared_up_front(tmp_path):
    request = gated(tmp_path, against="old", metrics="median,p90", margin="1%,3.5%,20us", session="threads=1")
    assert (request.against, request.session) == ("old", "threads=1")
    assert request.rules == Rules(("median", "p90"), 0.01, 0.035, 20_000.0)
    assert gated(tmp_path, against="old").rules == Rules()


@pytest.mark.parametrize("option", ["metrics", "margin", "junit"])
def test_an_option_of_the_gate_alone_is_a_slip(tmp_path, option):
    with pytest.raises(UsageError) as caught:
        gated(tmp_path, **{option: "median"})
    assert option in str(caught.value)


def test_nothing_to_compare_with_is_no_reference(tmp_path):
    with pytest.raises(UsageError):
        gated(tmp_path, against=" ")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2%,5%", (0.02, 0.05, 9.0)),
        ("0%, 1%", (0.0, 0.01, 9.0)),
        ("2%,5%,0us", (0.02, 0.05, 0.0)),
        ("2%,5%,1.5ms", (0.02, 0.05, 1.5e6)),
    ],
)
def test_margins(text, found):
    assert gate_options.margins(text, 9.0) == pytest.approx(found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "2%",
        "2,5",
        "5%,2%",
        "2%,2%",
        "-1%,5%",
        "nan%,5%",
        "2%,inf%",
        "2%,101%",
        "2%,5%,5",
        "2%,5%,-5us",
        "2%,5%,5us,1",
        "²%,5%",
    ],
)
def test_what_is_no_margin(text):
    with pytest.raises(UsageError) as caught:
        gate_options.margins(text, 5000.0)
    assert caught.value.code == "BAD_MARGIN"
