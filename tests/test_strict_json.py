"""JSON is read as it stands, or not at all."""

import pytest
from pydantic import BaseModel, ValidationError

from deploykit import strict_json


@pytest.mark.parametrize("raw", ['{"a": [1, {"b": null}], "c": {"a": 2}}', b'{"a": [1, {"b": null}], "c": {"a": 2}}'])
def test_what_is_well_formed_is_read(raw):
    assert strict_json.parse(raw) == {"a": [1, {"b": None}], "c": {"a": 2}}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ('{"a": 1, "a": 1}', "a key is there twice"),
        ('[{"x": {"a": 1, "b": 2, "a": 3}}]', "a key is there twice"),
        ('{"a": 1, "\\u0061": 2}', "a key is there twice"),
        ("{", "Expecting"),
        ("", "Expecting"),
        (b"\xff\xfe\xfd", "decode"),
    ],
)
def test_what_readers_would_understand_differently_is_refused(raw, said):
    with pytest.raises(ValueError, match=said):
        strict_json.parse(raw)


def test_the_first_fault_is_told_with_its_place_and_without_the_input():
    class Inner(BaseModel):
        n: int

    class Outer(BaseModel):
        items: list[Inner]

    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"items": [{"n": 1}, {"n": "secret" * 1000}]})
    said = strict_json.first_fault(caught.value)
    assert said.startswith("items.1.n: Input should be a valid integer")
    assert "secret" not in said
