import numpy as np
import pytest

from deploykit.errors import UsageError
from deploykit.signature import Dim, Signature, TensorSpec, parse_dims, parse_input, spec_of


def test_an_input_description_is_read_and_written_alike():
    spec = parse_input("image:float32[N, 3,224,224]")
    assert spec == TensorSpec("image", "float32", ("N", 3, 224, 224))
    assert str(spec) == "image:float32[N,3,224,224]"
    assert parse_input("scale:float32[]").shape == ()


@pytest.mark.parametrize(
    "text",
    ["", "image", "image:float32", "image:float33[1]", "image:float32[0]", "image:float32[-1]", "image:float32[1,,2]",
     "image:float32[1", "1mage:float32[1]", "image:float32[1.5]", "image:float32[N=]", "image:float32[N=4..2]",
     "image:float32[N=0..2]", "image:float32[N=3..3]", "image:float32[N=8..32/0]", "image:float32[N=8..33/8]",
     "image:float32[N=8..]", "image:float32[8..16]"],
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


def test_dims_may_state_their_range():
    texts = ("image:float32[N = 1..64, 3, H=32..512/32, W]", "mask:bool[N, H]")
    assert parse_dims(texts) == (Dim("N", 1, 64), Dim("H", 32, 512, 32), Dim("W"))
    assert parse_input(texts[0]).shape == ("N", 3, "H", "W")
    assert [dim.stated for dim in parse_dims(texts)] == [True, True, False]
    with pytest.raises(UsageError, match="another range elsewhere"):
        parse_dims(("a:bool[N=1..4]", "b:bool[N=1..8]"))


def test_a_dim_knows_what_it_promises():
    dim = Dim("H", 32, 512, 32)
    assert str(dim) == "32 to 512 in steps of 32"
    assert [size in dim for size in (31, 32, 33, 64, 512, 544)] == [False, True, False, True, True, False]
    assert [dim.nearest(size) for size in (1, 32, 95, 96, 1000)] == [32, 32, 64, 96, 512]
    assert str(Dim("N", 1, 8)) == "1 to 8"
