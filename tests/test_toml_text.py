import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit import toml_text

SCALARS = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=("Cs",)))
)
TABLES = st.recursive(
    st.dictionaries(st.text(st.characters(blacklist_categories=("Cs",)), min_size=1), SCALARS | st.lists(SCALARS)),
    lambda inner: st.dictionaries(
        st.text(st.characters(blacklist_categories=("Cs",)), min_size=1),
        SCALARS | inner | st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=12,
)


@given(TABLES)
def test_what_is_written_is_read_back(data):
    assert tomllib.loads(toml_text.dumps(data)) == data


@given(SCALARS | st.lists(SCALARS | st.lists(SCALARS)))
def test_a_value_is_one_line_that_is_read_back(value):
    text = toml_text.value(value)
    assert "\n" not in text
    assert tomllib.loads(f"x = {text}") == {"x": value}


def test_keys_are_in_quotes_only_where_they_have_to_be():
    assert toml_text.key("onnx-int8-static") == "onnx-int8-static"
    assert toml_text.key("logits.max_r") == '"logits.max_r"'
    assert toml_text.key("") == '""'


def test_tables_of_tables_have_no_empty_head():
    assert toml_text.dumps({"options": {"onnx": {"opset": 18}}}) == "[options.onnx]\nopset = 18\n"


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), object(), {"a": None}])
def test_what_toml_has_no_word_for_is_refused(value):
    with pytest.raises(ValueError, match="TOML cannot hold"):
        toml_text.value(value)
