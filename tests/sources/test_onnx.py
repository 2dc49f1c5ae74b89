"""An ONNX file as a source: what it says is taken, what it hides is refused, and nothing about it is made up."""

from __future__ import annotations

import copy
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from deploykit.campaign import plan
from deploykit.capture import health, outputs, record
from deploykit.errors import DeploykitError, RefusedError, UsageError, WorkError
from deploykit.finished import Finished
from deploykit.model import SourceSpec
from deploykit.sources.onnx import Source

RNG = np.random.default_rng(3)
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def value(name, kind=FLOAT, dims=("N", 4)):
    return helper.make_tensor_value_info(name, kind, dims)


def weight(name, *shape, kind=np.float32):
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(kind), name)


def built(nodes, inputs=None, outputs=None, initializers=(), opset=17, domains=(), functions=()):
    graph = helper.make_graph(
        list(nodes), "g", inputs or [value("x")], outputs or [value("y", dims=("N", 3))], list(initializers)
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))


def mlp(**changes):
    """4 → 8 → 3, ReLU between; weights `fc.1.weight`, `fc.1.bias`, `fc.2.weight`."""
    nodes = [
        helper.make_node("Gemm", ["x", "fc.1.weight", "fc.1.bias"], ["h"], name="/fc/Gemm"),
        helper.make_node("Relu", ["h"], ["a"], name="/Relu"),
        helper.make_node("MatMul", ["a", "fc.2.weight"], ["y"], name="/fc2/MatMul"),
    ]
    weights = [weight("fc.1.weight", 4, 8), weight("fc.1.bias", 8), weight("fc.2.weight", 8, 3)]
    return built(nodes, initializers=weights, **changes)


@pytest.fixture
def saved(tmp_path):
    def save(model, name="model.onnx", **options):
        path = tmp_path / name
        onnx.save(model, str(path), **options)
        return path

    return save


def load(path, *texts, **options):
    return Source().load(SourceSpec.parse(f"onnx:{path}", inputs=texts, **options))


def refusal(path, *texts) -> DeploykitError:
    with pytest.raises(DeploykitError) as caught:
        load(path, *texts)
    assert str(path.parent) not in caught.value.message + caught.value.hint
    return caught.value


def answer(loaded, feeds=None):
    feeds = feeds or loaded.example
    return [one.numpy() for one in loaded.module(*(torch.from_numpy(array.copy()) for array in feeds.values()))]


# -- what it is -----------------------------------------------------------------------------------------------------


def test_the_module_answers_what_the_graph_means(saved):
    model = mlp()
    loaded = load(saved(model))
    one, bias, two = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    x = RNG.standard_normal((5, 4)).astype("f4")
    (found,) = answer(loaded, {"x": x})
    np.testing.assert_allclose(found, np.maximum(x @ one + bias, 0) @ two, rtol=1e-5, atol=1e-6)
    assert str(loaded.signature.inputs[0]) == "x:float32[N,4]"
    assert loaded.drawn
    assert isinstance(loaded.module, Finished)


def test_weights_are_the_initializers_by_their_own_names(saved):
    model = mlp()
    module = load(saved(model)).module
    assert list(module.state_dict()) == ["fc.1.weight", "fc.1.bias", "fc.2.weight"]
    for tensor in model.graph.initializer:
        assert np.array_equal(module.state_dict()[tensor.name].numpy(), numpy_helper.to_array(tensor))
    module.load_state_dict(module.state_dict())
    with pytest.raises(RuntimeError, match=r"fc\.1\.bias is not what the ONNX file holds"):
        module.load_state_dict({**module.state_dict(), "fc.1.bias": torch.zeros(8)})


def test_float64_is_computed_and_not_copied_from_float32(saved):
    model = mlp()
    loaded = load(saved(model))
    wide = copy.deepcopy(loaded.module).to(torch.float64)
    x = RNG.standard_normal((5, 4)).astype("f4")
    one, bias, two = (numpy_helper.to_array(tensor).astype("f8") for tensor in model.graph.initializer)
    exact = np.maximum(x.astype("f8") @ one + bias, 0) @ two
    (found,) = (tensor.numpy() for tensor in wide(torch.from_numpy(x.astype("f8"))))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=1e-13)
    (narrow,) = answer(loaded, {"x": x})
    assert 0 < np.abs(narrow - exact).max() < 1e-4  # the copy's weights are wide, the module's are as they were
    assert all(parameter.dtype == torch.float32 for parameter in loaded.module.parameters())


def test_the_digest_is_that_of_the_file_and_its_data(saved, tmp_path):
    path = saved(mlp())
    assert load(path).module.digest == sha256(path.read_bytes()).hexdigest()
    external = saved(mlp(), "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    before = load(external).module.digest
    data = tmp_path / "e.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\x3f")
    assert load(external).module.digest != before


def test_the_recorder_takes_it_as_any_module(saved):
    loaded = load(saved(mlp()))
    health.check(loaded)
    signature = outputs.with_outputs(loaded)
    assert str(signature.outputs[0]) == "y:float32[N,3]"
    recorder = record.Recorder(loaded)
    assert recorder.float64 == "reference"
    cases = [recorder.answer(question) for question in plan.campaign(signature, loaded.example, None, 0, {})]
    case = cases[0]
    assert case.expected64["y"].dtype == np.float64
    assert 0 < case.noise["y"].fp32 < 1e-5
    assert recorder.largest.where in {"/fc/Gemm (Gemm)", "/Relu (Relu)", "/fc2/MatMul (MatMul)"}


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize(
    ("node", "shape", "weights"),
    [
        (("Conv", {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]}), (2, 3, 9, 11), [(4, 3, 3, 3), (4,)]),
        (("Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2], "group": 2}), (2, 4, 9, 8), [(6, 2, 3, 2)]),
        (("Conv", {"pads": [2, 1]}), (2, 3, 9), [(4, 3, 3)]),
        (
            ("ConvTranspose", {"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 1]}),
            (2, 3, 5, 4),
            [(3, 2, 3, 3)],
        ),
        (("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}), (2, 3, 9, 8), []),
        (("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}), (2, 3, 8, 8), []),
        (("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}), (2, 3, 7, 8), []),
        (("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}), (2, 3, 7, 8), []),
        (("Erf", {}), (3, 5), []),
        (("LayerNormalization", {}), (3, 5), [(5,), (5,)]),
    ],
)
def test_float64_operators_agree_with_onnxruntime(saved, node, shape, weights, opset):
    operator, attributes = node
    if operator == "LayerNormalization" and opset < 17:
        pytest.skip("the operator is newer")
    names = [f"w{i}" for i in range(len(weights))]
    model = built(
        [helper.make_node(operator, ["x", *names], ["y"], **attributes)],
        [value("x", dims=shape)],
        [value("y", dims=None)],
        [weight(name, *dims) for name, dims in zip(names, weights, strict=True)],
        opset,
    )
    loaded = load(saved(model))
    x = RNG.standard_normal(shape).astype("f4")
    (narrow,) = answer(loaded, {"x": x})
    wide = copy.deepcopy(loaded.module).to(torch.float64)
    (exact,) = (tensor.numpy() for tensor in wide(torch.from_numpy(x.astype("f8"))))
    assert exact.shape == narrow.shape
    assert exact.dtype == np.float64
    np.testing.assert_allclose(narrow, exact, rtol=1e-4, atol=1e-5)


def test_casts_and_constants_inside_do_not_round_the_float64_answer(saved):
    third = helper.make_tensor("", FLOAT, [1], [1 / 3])
    nodes = [
        helper.make_node("Constant", [], ["third"], value=third),
        helper.make_node("Cast", ["x"], ["short"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["short"], ["long"], to=FLOAT),
        helper.make_node("Mul", ["long", "third"], ["y"]),
    ]
    loaded = load(saved(built(nodes, outputs=[value("y")])))
    x = RNG.standard_normal((3, 4))
    (exact,) = copy.deepcopy(loaded.module).to(torch.float64)(torch.from_numpy(x))
    np.testing.assert_allclose(exact.numpy(), x * np.float64(np.float32(1 / 3)), rtol=1e-15)


def test_indices_come_with_the_scores_they_were_chosen_from(saved):
    nodes = [
        *mlp().graph.node[:2],
        helper.make_node("MatMul", ["a", "fc.2.weight"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    weights = list(mlp().graph.initializer)
    loaded = load(saved(built(nodes, outputs=[value("label", INT64, ("N",))], initializers=weights)))
    recorder = record.Recorder(loaded)
    assert list(recorder.index_outputs) == ["label"]
    signature = outputs.with_outputs(loaded)
    case = recorder.answer(next(iter(plan.campaign(signature, loaded.example, None, 0, {}))))
    assert case.scores["label"].shape == (case.rows, 3)
    assert np.array_equal(case.scores["label"].argmax(axis=1), case.expected["label"])


def test_an_operator_without_reference_implementation_makes_the_reference_weak(saved):
    nodes = [helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")]
    loaded = load(saved(built(nodes, initializers=[weight("w", 4, 3)], domains=["com.microsoft"])))
    assert record.Recorder(loaded).float64 is None
    assert answer(loaded)[0].shape == (2, 3)


# -- what goes in and comes out ---------------------------------------------------------------------------------------


def test_dims_keep_the_letters_of_the_graph_and_anonymous_ones_get_a_name(saved):
    model = mlp()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch size"
    assert str(load(saved(model)).signature.inputs[0]) == "x:float32[batch_size,4]"
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    loaded = load(saved(model))
    assert str(loaded.signature.inputs[0]) == "x:float32[N,4]"
    assert loaded.notes["dims"] == "without a name in the file: N"


def test_input_names_bounds_and_fixes_what_is_open(saved):
    two = built(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [value("a", dims=(None, None)), value("b", dims=(None, None))],
        [value("y", dims=(None, None))],
    )
    path = saved(two)
    assert [str(one) for one in load(path).signature.inputs] == ["a:float32[N,a_1]", "b:float32[N,b_1]"]
    named = load(path, "a:float32[B=1..8,L=2..6]", "b:float32[B,L]").signature
    assert [str(one) for one in named.inputs] == ["a:float32[B,L]", "b:float32[B,L]"]
    assert [(dim.name, dim.min, dim.max) for dim in named.dims] == [("B", 1, 8), ("L", 2, 6)]
    fixed = load(path, "a:float32[3,5]", "b:float32[3,5]").signature
    assert [str(one) for one in fixed.inputs] == ["a:float32[3,5]", "b:float32[3,5]"]
    assert fixed.dims == ()


def test_one_text_fixes_a_letter_everywhere(saved):
    model = built(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [value("a", dims=("N", "L")), value("b", dims=("N", "L"))],
        [value("y", dims=("N", "L"))],
    )
    shapes = [one.shape for one in load(saved(model), "a:float32[N,7]").signature.inputs]
    assert shapes == [("N", 7), ("N", 7)]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x:float32[N,5]", "BAD_INPUT"),
        ("x:float32[N,W]", "BAD_INPUT"),
        ("x:int64[N,4]", "BAD_INPUT"),
        ("x:float32[4]", "BAD_INPUT"),
        ("z:float32[N,4]", "INPUT_NAMES"),
    ],
)
def test_input_cannot_contradict_the_graph(saved, text, code):
    assert refusal(saved(mlp()), text).code == code


def test_initializers_that_are_listed_as_inputs_are_none(saved):
    model = mlp()
    model.graph.input.extend(value(t.name, FLOAT, t.dims) for t in model.graph.initializer)
    loaded = load(saved(model))
    assert [one.name for one in loaded.signature.inputs] == ["x"]
    assert answer(loaded)[0].shape == (2, 3)


def test_names_that_are_no_identifiers_stay(saved):
    model = built([helper.make_node("Relu", ["serving/x:0"], ["/out/0"])], [value("serving/x:0")], [value("/out/0")])
    loaded = load(saved(model), "serving_x_0:float32[B,4]")
    signature = outputs.with_outputs(loaded)
    assert str(signature.inputs[0]) == "serving/x:0:float32[B,4]"
    assert [one.name for one in signature.outputs] == ["/out/0"]


def test_an_unused_input_is_told(saved):
    model = mlp()
    model.graph.input.append(value("idle"))
    assert load(saved(model)).notes["unused idle"] == "no node reads it"


def test_sequences_maps_and_texts_are_refused_with_a_remedy(saved):
    zipmap = built(
        [helper.make_node("ZipMap", ["x"], ["p"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])],
        outputs=[
            helper.make_value_info(
                "p",
                helper.make_sequence_type_proto(
                    helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))
                ),
            )
        ],
        domains=["ai.onnx.ml"],
    )
    error = refusal(saved(zipmap))
    assert (error.code, error.exit_code) == ("BAD_OUTPUT", 2)
    assert error.message == "is a sequence of maps"
    assert error.hint == "scikit-learn's converter leaves it out with options={'zipmap': False}"
    texts = built(
        [helper.make_node("Identity", ["x"], ["y"])], [value("x", TensorProto.STRING)], [value("y", TensorProto.STRING)]
    )
    assert refusal(saved(texts)).message == "is a tensor of string elements, not a tensor of numbers"
    halves = built(
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", TensorProto.BFLOAT16)],
        [value("y", TensorProto.BFLOAT16)],
    )
    assert refusal(saved(halves)).code == "BAD_INPUT"


def test_an_unknown_rank_asks_for_input(saved):
    model = built([helper.make_node("Relu", ["x"], ["y"])], [value("x", dims=None)], [value("y", dims=None)])
    error = refusal(saved(model))
    assert (error.code, error.hint) == ("NO_INPUTS", "add --input x:float32[dims]")
    assert str(load(saved(model), "x:float32[N,6]").signature.inputs[0]) == "x:float32[N,6]"


# -- what is refused --------------------------------------------------------------------------------------------------


def test_what_is_no_onnx_file(tmp_path):
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "cut.onnx").write_bytes(mlp().SerializeToString()[:-40])
    (tmp_path / "junk.onnx").write_bytes(b"\x08\x08\x12" + bytes(range(200)))
    os.mkfifo(tmp_path / "pipe.onnx")
    for name in ("text", "empty", "cut", "junk", "pipe"):
        assert refusal(tmp_path / f"{name}.onnx").code == "MALFORMED", name
    assert refusal(tmp_path / "none.onnx").code == "NOT_FOUND"
    with pytest.raises(UsageError):
        load(tmp_path)


def test_a_sparse_file_of_terabytes_is_not_read(tmp_path):
    path = tmp_path / "huge.onnx"
    path.write_bytes(mlp().SerializeToString())
    os.truncate(path, 1 << 40)
    assert refusal(path).message == "over 2 GiB, where protobuf ends"


def test_a_checkpoint_beside_an_onnx_file_is_an_error(saved):
    with pytest.raises(UsageError, match="holds its own weights"):
        load(saved(mlp()), checkpoint="w.safetensors")


def test_a_cycle_is_refused(saved):
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    error = refusal(saved(built(nodes, outputs=[value("y")])))
    assert (error.code, error.exit_code) == ("MALFORMED", 5)


def test_weights_that_are_shorter_than_they_say(saved):
    model = mlp()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-8]
    assert refusal(saved(model)).exit_code in {4, 5}


def test_custom_operators_are_named(saved):
    model = built([helper.make_node("Warp", ["x"], ["y"], name="w1", domain="my.ops")], domains=["my.ops"])
    error = refusal(saved(model))
    assert (error.code, error.subject) == ("UNSUPPORTED_OP", "node w1")
    assert error.message.startswith("my.ops.Warp is a custom operator")


def test_functions_in_the_file_are_no_custom_operators(saved):
    double = helper.make_function(
        "my.ops", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model = built(
        [helper.make_node("Double", ["x"], ["y"], domain="my.ops")],
        outputs=[value("y")],
        domains=["my.ops"],
        functions=[double],
    )
    loaded = load(saved(model))
    assert np.array_equal(answer(loaded)[0], 2 * loaded.example["x"])
    assert record.Recorder(loaded).float64 == "reference"


@pytest.mark.parametrize(
    ("node", "code"),
    [
        (helper.make_node("RandomNormalLike", ["x"], ["y"], name="noise"), "REFERENCE_NONDETERMINISTIC"),
        (helper.make_node("Dropout", ["x", "", "on"], ["y"], name="drop"), "TRAIN_MODE"),
        (
            helper.make_node("BatchNormalization", ["x", *"1111"], ["y", "m", "v"], name="bn", training_mode=1),
            "TRAIN_MODE",
        ),
    ],
)
def test_random_and_training_nodes_are_named(saved, node, code):
    constants = [numpy_helper.from_array(np.array(True), "on"), weight("1", 4)]
    error = refusal(saved(built([node], outputs=[value("y")], initializers=constants)))
    assert (error.code, error.subject, error.exit_code) == (code, f"node {node.name}", 4)


def test_random_nodes_in_subgraphs_are_found(saved):
    inner = helper.make_graph(
        [helper.make_node("RandomUniform", [], ["r"], shape=[2, 4])], "i", [], [value("r", dims=(2, 4))]
    )
    same = helper.make_graph([helper.make_node("Identity", ["x"], ["s"])], "e", [], [value("s", dims=(2, 4))])
    node = helper.make_node("If", ["flag"], ["y"], then_branch=inner, else_branch=same)
    flag = numpy_helper.from_array(np.array(False), "flag")
    assert (
        refusal(saved(built([node], [value("x", dims=(2, 4))], [value("y", dims=(2, 4))], [flag]))).code
        == "REFERENCE_NONDETERMINISTIC"
    )


class TestExternalData:
    @pytest.fixture
    def external(self, saved):
        def save(location="model.data"):
            path = saved(mlp(), save_as_external_data=True, location="model.data", size_threshold=0)
            model = onnx.load(str(path), load_external_data=False)
            for tensor in model.graph.initializer:
                for entry in tensor.external_data:
                    if entry.key == "location":
                        entry.value = location
            path.write_bytes(model.SerializeToString())
            return path

        return save

    def test_it_is_read_from_beside_the_model(self, external):
        loaded = load(external())
        assert loaded.module.state_dict()["fc.1.weight"].shape == (4, 8)
        assert answer(loaded)[0].shape == (2, 3)

    @pytest.mark.parametrize("location", ["/etc/passwd", "../model.data", "a/../../model.data", "C:\\x", "", "a:b"])
    def test_no_place_outside_is_read(self, external, location):
        error = refusal(external(location))
        assert (error.code, error.exit_code) == ("MALFORMED", 5)
        assert "elsewhere" in error.message

    def test_links_are_not_followed(self, external, tmp_path):
        path = external()
        (tmp_path / "model.data").rename(tmp_path / "other")
        (tmp_path / "model.data").symlink_to(tmp_path / "other")
        assert refusal(path).message == "its external data model.data is a link"

    def test_what_is_missing_or_cut_off_is_told(self, external, tmp_path):
        path = external()
        data = tmp_path / "model.data"
        data.write_bytes(data.read_bytes()[:20])
        assert "lies outside its external data" in refusal(path).message
        data.unlink()
        assert refusal(path).code == "ARTIFACT_INCOMPLETE"


# -- what is handed out -----------------------------------------------------------------------------------------------


def test_the_onnx_variant_is_the_file_byte_for_byte(saved, tmp_path):
    path = saved(mlp())
    facts = load(path).module.write(tmp_path / "out.onnx", None)
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()
    assert facts == {"opset": 17, "ir_version": 8, "origin": "the file, byte for byte"}


def test_user_metadata_stays_and_paths_do_not(saved, tmp_path):
    model = mlp()
    model.metadata_props.add(key="names", value="{0: 'cat', 1: 'dog and/or fox'}")
    model.graph.node[0].metadata_props.add(key="trace", value='File "/home/someone/model.py", line 3')
    model.graph.node[1].doc_string = "C:\\Users\\someone\\model.py(3)"
    facts = load(saved(model)).module.write(tmp_path / "out.onnx", None)
    found = onnx.load(str(tmp_path / "out.onnx"))
    assert facts["origin"] == "the file without 2 notes that name paths"
    assert b"someone" not in (tmp_path / "out.onnx").read_bytes()
    assert [entry.key for entry in found.metadata_props] == ["names"]
    model.graph.node[0].ClearField("metadata_props")
    model.graph.node[1].ClearField("doc_string")
    assert found == model


def test_external_data_travels(saved, tmp_path):
    path = saved(mlp(), save_as_external_data=True, location="my weights.bin", size_threshold=0)
    target = tmp_path / "bundle" / "model.onnx"
    target.parent.mkdir()
    load(path).module.write(target, None)
    assert sorted(one.name for one in target.parent.iterdir()) == ["model.onnx"]  # written anew, the weights inside
    plain = saved(mlp(), "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    load(plain).module.write(target, None)
    assert (target.parent / "weights.bin").read_bytes() == (tmp_path / "weights.bin").read_bytes()
    assert target.read_bytes() == plain.read_bytes()


def test_an_older_opset_is_converted_and_a_newer_one_is_not_asked_for(saved, tmp_path):
    path = saved(mlp(opset=21))
    module = load(path).module
    facts = module.write(tmp_path / "old.onnx", 15)
    assert facts["opset"] == 15
    assert facts["origin"] == "the file, converted from opset 21"
    old = load(tmp_path / "old.onnx")
    x = {"x": RNG.standard_normal((5, 4)).astype("f4")}
    np.testing.assert_allclose(answer(old, x)[0], answer(load(path), x)[0], rtol=1e-6)
    assert module.write(tmp_path / "same.onnx", 22)["opset"] == 21


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8-static", "int8-dynamic"])
def test_the_precision_of_the_file_is_recorded(saved, kind):
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.transformers import float16

    path = saved(mlp())
    if kind == "fp16":
        path = saved(float16.convert_float_to_float16(onnx.load(str(path))), "half.onnx")
    elif kind == "int8-dynamic":
        quantize_dynamic(path, path.with_name("q.onnx"))
        path = path.with_name("q.onnx")
    elif kind == "int8-static":
        path = saved(quantized(path))
    assert load(path).notes["precision"] == kind


def quantized(path: Path) -> onnx.ModelProto:
    """The file quantized by our own transform, as another tool would have."""
    from deploykit.transforms.int8_static import Transform

    target = path.with_name("quantized.onnx")
    Transform().apply(path, target, [{"x": RNG.standard_normal((64, 4)).astype("f4")}])
    return onnx.load(str(target))


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_a_quantized_graph_has_a_float64_answer_at_every_opset(saved, opset):
    loaded = load(saved(quantized(saved(mlp(opset=opset))), "q.onnx"))
    assert record.Recorder(loaded).float64 == "reference"


@pytest.mark.parametrize("name", ["fp16", "int8_dynamic", "int8_static"])
def test_no_transform_reduces_twice(saved, tmp_path, name):
    from importlib import import_module

    path = saved(quantized(saved(mlp())), "q.onnx")
    transform = import_module(f"deploykit.transforms.{name}").Transform()
    with pytest.raises(WorkError) as caught:
        transform.apply(path, tmp_path / "t.onnx", [{"x": np.zeros((2, 4), "f4")}])
    assert caught.value.code == "ALREADY_REDUCED"
    assert "quantized already" in caught.value.message


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.trace:FutureWarning",
    "ignore:.torch.jit.trace_method:FutureWarning",
    "ignore:.torch.jit.save:FutureWarning",
)
def test_a_file_of_another_format_is_refused_by_what_it_is(tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(4, 3), torch.zeros(2, 4)), str(path))
    with pytest.raises(RefusedError, match="not an ONNX model but a file of torchscript"):
        load(path)
