import numpy as np
import pytest

from deploykit.errors import UsageError
from deploykit.signature import Dim, Signature, TensorSpec, parse_input, spec_of


def test_an_input_description_is_read_and_written_alike():
    spec = parse_input("image:float32[N, 3,224,224]")
    assert spec == TensorSpec("image", "float32", ("N", 3, 224, 224))
    assert str(spec) == "image:float32[N,3,224,224]"
    assert parse_input("scale:float32[]").shape == ()


@pytest.mark.parametrize(
    "text",
    ["", "image", "image:float32", "image:float33[1]", "image:float32[0]", "image:float32[-1]", "image:float32[1,,2]",
     "image:float32[1", "1mage:float32[1]", "image:float32[1.5]"],
)  # fmt: skip
def test_nonsense_is_refused_with_an_example(text):
    with pytest.raises(UsageError) as caught:
        parse_input(text)
    assert caught.value.code == "BAD_INPUT"
    assert caught.value.hint


def test_sizes_of_reads_symbolic_dims_and_refuses_what_does_not_fit():
    two = Signature(
        (TensorSpec("a", "float32", ("N", 2)), TensorSpec("b", "int64", ("N", "L"))), dims=(Dim("N"), Dim("L"))
    )
    a, b = np.zeros((3, 2), np.float32), np.zeros((3, 7), np.int64)
    assert two.sizes_of({"a": a, "b": b}) == {"N": 3, "L": 7}
    assert two.batch_dim == "N"
    for feeds, code in [
        ({"a": a}, "INPUT_NAMES"),
        ({"a": a, "b": b[:2]}, "SHAPE_MISMATCH"),
        ({"a": a.astype(np.float64), "b": b}, "DTYPE_MISMATCH"),
        ({"a": a[:, :1], "b": b}, "SHAPE_MISMATCH"),
        ({"a": a[0], "b": b}, "SHAPE_MISMATCH"),
    ]:
        with pytest.raises(UsageError) as caught:
            two.sizes_of(feeds)
        assert caught.value.code == code


def test_a_batch_dim_leads_every_input_or_there_is_none():
    assert Signature((TensorSpec("a", "float32", (2, 2)),)).batch_dim is None
    assert Signature((TensorSpec("a", "float32", ("N",)), TensorSpec("b", "float32", ()))).batch_dim is None
    assert Signature((TensorSpec("a", "float32", ("N",)), TensorSpec("b", "float32", ("M",)))).batch_dim is None


def test_concrete_and_spec_of():
    spec = spec_of("x", np.zeros((2, 5), np.int32), {0: "N"})
    assert spec == TensorSpec("x", "int32", ("N", 5))
    assert spec.concrete({"N": 9}) == (9, 5)
