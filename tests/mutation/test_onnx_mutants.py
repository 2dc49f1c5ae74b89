"""Every kind of ONNX mutant: the file really differs where it should, nowhere else, and onnxruntime opens it."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploykit.errors import UsageError
from deploykit.mutation import faults, make, onnx_mutants
from deploykit.mutation.faults import Site

GENERATOR = np.random.default_rng(5)


def weight(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


CONSTANTS = {
    "fold": np.array([0, 6], np.int64),
    "first.weight": weight(6, 6),
    "first.bias": weight(6),
    "gain": np.ones(6, np.float32),
    "shift": np.zeros(6, np.float32),
    "tiny": np.array(1e-5, np.float32),
    "last.weight": weight(6, 4),
    "last.bias": weight(4),
}


def network(path, dtype=TensorProto.FLOAT):
    """Reshape, square Gemm with bias, LayerNorm, x + tiny, Relu, MatMul and Add; two outputs of one form."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    tensors = [
        numpy_helper.from_array(array.astype(kind) if array.dtype == np.float32 else array, name)
        for name, array in CONSTANTS.items()
    ]
    nodes = [
        helper.make_node("Reshape", ["x", "fold"], ["flat"]),
        helper.make_node("Gemm", ["flat", "first.weight", "first.bias"], ["hidden"], transB=1),
        helper.make_node("LayerNormalization", ["hidden", "gain", "shift"], ["normed"], epsilon=1e-5),
        helper.make_node("Add", ["normed", "tiny"], ["raised"]),
        helper.make_node("Relu", ["raised"], ["positive"]),
        helper.make_node("MatMul", ["positive", "last.weight"], ["product"]),
        helper.make_node("Add", ["product", "last.bias"], ["logits"]),
        helper.make_node("Neg", ["logits"], ["other"]),
    ]
    ports = [helper.make_tensor_value_info(name, dtype, ["N", 4]) for name in ("logits", "other")]
    inputs = [helper.make_tensor_value_info("x", dtype, ["N", 2, 3])]
    graph = helper.make_graph(nodes, "net", inputs, ports, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


@pytest.fixture
def artifact(tmp_path):
    return network(tmp_path / "model.onnx")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mutants").mkdir()
    return tmp_path / "mutants"


def answers(path, dtype=np.float32, rows=5):
    x = np.random.default_rng(1).standard_normal((rows, 2, 3)).astype(dtype)
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})


def differing(before, after):
    """Names of constants that differ, and of nodes."""
    old, new = onnx.load(before), onnx.load(after)
    first, second = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (old, new))
    tensors = {n for n, a in second.items() if n not in first or not np.array_equal(a, first[n])}
    nodes = {str(list(a.output)) for a, b in zip(old.graph.node, new.graph.node, strict=True) if a != b}
    return tensors, nodes


EVERY = [
    (faults.SCALED, "first.weight", {"first.weight"}, set()),
    (faults.FLIPPED, "last.weight", {"last.weight"}, set()),
    (faults.ZEROED, "first.weight", {"first.weight"}, set()),
    (faults.SWAPPED, "last.weight", {"last.weight", "last.bias"}, set()),
    (faults.ROUNDED, "first.weight", {"first.weight"}, set()),
    (faults.TRANSPOSED, "first.weight", {"first.weight"}, set()),
    (faults.UNBIASED, "hidden", {"first.bias"}, set()),
    (faults.UNBIASED, "product", {"last.bias"}, set()),
    (faults.EPSILON, "normed", set(), {"['normed']"}),
    (faults.EPSILON, "raised", {"tiny"}, set()),
    (faults.CONSTANT, "tiny", {"tiny"}, set()),
    (faults.ACTIVATION, "positive", set(), {"['positive']"}),
]


@pytest.mark.parametrize(("fault", "place", "tensors", "nodes"), EVERY)
def test_a_fault_changes_its_place_and_nothing_else(artifact, folder, fault, place, tensors, nodes):
    assert place in onnx_mutants.places(onnx_mutants.opened(artifact), fault)
    made = onnx_mutants.mutate(artifact, folder, Site(fault, place, seed=3))
    assert differing(artifact, made.path) == (tensors, nodes)
    before, after = answers(artifact), answers(made.path)
    assert [a.shape for a in before] == [a.shape for a in after]
    assert not np.array_equal(before[0], after[0])


def test_the_sizes_of_changes_are_told(artifact, folder):
    changes = {f: onnx_mutants.mutate(artifact, folder, Site(f, p, 3)).change for f, p, _, _ in EVERY}
    assert changes[faults.SCALED] == pytest.approx(0.01, rel=1e-4)
    assert 1e-5 < changes[faults.ROUNDED] < 2.0**-11
    assert changes[faults.EPSILON] is None
    assert all(changes[fault] > 0.1 for fault in (faults.FLIPPED, faults.ZEROED, faults.SWAPPED, faults.TRANSPOSED))


def test_a_flipped_channel_is_one_output_channel(artifact, folder):
    made = onnx_mutants.mutate(artifact, folder, Site(faults.FLIPPED, "last.weight", seed=3))
    moved = np.abs(answers(made.path)[0] - answers(artifact)[0]).max(axis=0)
    assert np.count_nonzero(moved > 1e-6) == 1


def test_swapped_classes_take_their_bias_along(artifact, folder):
    made = onnx_mutants.mutate(artifact, folder, Site(faults.SWAPPED, "last.weight", seed=3))
    first, second = faults.classes(4, 3)
    order = np.arange(4)
    order[[first, second]] = [second, first]
    assert np.allclose(answers(made.path)[0], answers(artifact)[0][:, order], atol=1e-6)


def test_swapped_outputs_keep_their_names_and_change_places(artifact, folder):
    (place,) = onnx_mutants.places(onnx_mutants.opened(artifact), faults.OUTPUTS)
    made = onnx_mutants.mutate(artifact, folder, Site(faults.OUTPUTS, place))
    names = [port.name for port in ort.InferenceSession(made.path).get_outputs()]
    assert names == ["logits", "other"]
    assert np.array_equal(answers(made.path)[0], answers(artifact)[1])


def test_a_baked_batch_is_right_at_that_batch_alone(artifact, folder):
    assert onnx_mutants.places(onnx_mutants.opened(artifact), faults.DIM) == ["flat"]
    made = onnx_mutants.mutate(artifact, folder, Site(faults.DIM, "flat", amount=5.0))
    assert np.array_equal(answers(made.path, rows=5)[0], answers(artifact, rows=5)[0])
    with pytest.raises(Exception, match="Reshape"):
        answers(made.path, rows=4)


def test_without_a_reshape_the_input_itself_is_fixed(tmp_path, folder):
    port = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", port[:1], port[1:])
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    made = onnx_mutants.mutate(path, folder, Site(faults.DIM, "x", amount=5.0))
    assert ort.InferenceSession(made.path).get_inputs()[0].shape == [5, 3]


def test_the_original_is_left_alone(artifact, folder):
    before = artifact.read_bytes()
    sites, _ = make.sites(artifact, "onnxruntime", "fp32", seed=0)
    assert len(sites) == make.DOZEN
    for site in sites:
        assert make.one(artifact, "onnxruntime", folder, site).path.read_bytes() != before
    assert artifact.read_bytes() == before


def test_half_precision_stays_half_and_is_not_rounded_again(tmp_path, folder):
    path = network(tmp_path / "half.onnx", TensorProto.FLOAT16)
    sites, _ = make.sites(path, "onnxruntime", "fp16", 0)
    assert faults.ROUNDED not in {site.fault for site in sites}
    made = onnx_mutants.mutate(path, folder, Site(faults.SCALED, "first.weight"))
    kinds = {t.name: t.data_type for t in onnx.load(made.path).graph.initializer}
    assert kinds["first.weight"] == TensorProto.FLOAT16
    assert not np.array_equal(answers(made.path, np.float16)[0], answers(path, np.float16)[0])


def test_external_data_is_copied_once_and_the_changed_tensor_is_inside(artifact, tmp_path, folder):
    big = tmp_path / "big" / "model.onnx"
    big.parent.mkdir()
    onnx.save(
        onnx.load(artifact), big, save_as_external_data=True, location="model.onnx.data", size_threshold=64
    )  # fmt: skip
    before = (big.parent / "model.onnx.data").read_bytes()
    made = onnx_mutants.mutate(big, folder, Site(faults.SCALED, "first.weight"))
    copied = (folder / "model.onnx.data").stat()
    again = onnx_mutants.mutate(big, folder, Site(faults.FLIPPED, "last.weight", 3))
    assert (folder / "model.onnx.data").stat().st_mtime_ns == copied.st_mtime_ns
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert not np.allclose(answers(again.path)[0], answers(big)[0])
    assert made.change == pytest.approx(0.01, rel=1e-4)
    assert (big.parent / "model.onnx.data").read_bytes() == before


def test_a_place_that_is_not_there_is_refused(artifact, folder):
    with pytest.raises(UsageError, match="NO_SITE"):
        onnx_mutants.mutate(artifact, folder, Site(faults.SCALED, "nowhere"))


@pytest.fixture(params=["dynamic", "static"])
def quantized(request, artifact, tmp_path):
    from onnxruntime import quantization as q

    target = tmp_path / "quantized.onnx"
    if request.param == "dynamic":
        q.quantize_dynamic(artifact, target, per_channel=True, weight_type=q.QuantType.QInt8)
        return target

    class Reader(q.CalibrationDataReader):
        def __init__(self):
            self.rest = iter([{"x": GENERATOR.standard_normal((8, 2, 3)).astype(np.float32)}])

        def get_next(self):
            return next(self.rest, None)

    q.quantize_static(
        artifact, target, Reader(), per_channel=True, weight_type=q.QuantType.QInt8,
        activation_type=q.QuantType.QUInt8,
    )  # fmt: skip
    return target


@pytest.mark.filterwarnings("ignore")
def test_every_mutant_of_a_quantized_file_opens_and_answers_differently(quantized, folder):
    sites, probe = make.sites(quantized, "onnxruntime", "int8-static", seed=0)
    kinds = {site.fault for site in sites}
    assert {faults.STEPS, faults.WIDER_SCALE, faults.ZERO_POINT, faults.FLIPPED} <= kinds
    assert probe.endswith("scale")
    for site in sites:
        made = onnx_mutants.mutate(quantized, folder, site)
        assert made.path.read_bytes() != quantized.read_bytes()
        rows = 2 if site.fault == faults.DIM else 5
        difference = np.abs(answers(made.path, rows=rows)[0] - answers(quantized, rows=rows)[0]).max()
        if site.fault not in {faults.DIM, faults.CONSTANT, faults.ACTIVATION}:  # the last may be in the ranges already
            assert difference > 0, site


def test_the_same_seed_makes_the_same_choice_and_another_seed_another(artifact):
    def chosen(seed):
        return make.sites(artifact, "onnxruntime", "fp32", seed)

    assert chosen(1) == chosen(1)
    assert len({str(chosen(seed)) for seed in range(4)}) > 1


def test_every_kind_comes_before_any_comes_twice(artifact):
    sites, probe = make.sites(artifact, "onnxruntime", "fp32", 0)
    assert len(sites) == make.DOZEN
    assert {site.fault for site in sites} == set(onnx_mutants.order("fp32"))
    assert probe in {"first.weight", "last.weight"}


def test_a_weight_that_was_folded_and_numbered_is_called_after_its_layer(artifact, tmp_path, folder):
    model = onnx.load(artifact)
    for tensor in model.graph.initializer:
        tensor.name = {"last.weight": "val_7"}.get(tensor.name, tensor.name)
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = {"last.weight": "val_7"}.get(name, name)
    onnx.save(model, tmp_path / "folded.onnx")
    made = onnx_mutants.mutate(tmp_path / "folded.onnx", folder, Site(faults.SCALED, "val_7"))
    assert made.place == "last.weight"
    made = onnx_mutants.mutate(tmp_path / "folded.onnx", folder, Site(faults.UNBIASED, "product"))
    assert made.place == "last"
    assert onnx_mutants.mutate(artifact, folder, Site(faults.CONSTANT, "tiny")).place == "tiny"
