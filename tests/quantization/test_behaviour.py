"""Coverage, saturation, literal against deployed, and the ranking: sound files, and files that are not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploykit.quantization import coverage, literal, ranking, saturation
from deploykit.quantization.graph import Graph
from deploykit.quantization.sources import prepared

INT8 = [(name, kind) for name in ("mlp", "cnn", "former") for kind in ("int8-static", "int8-dynamic")]


# -- coverage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [*INT8[::2], INT8[1], INT8[5], ("cnn", "fp16")])
def test_everything_is_converted(name, kind, made):
    (check,) = coverage.check(Graph.load(made(name, kind)), kind, {})
    assert (check.verdict, check.value, check.code) == ("pass", 1.0, "")


@pytest.mark.parametrize("kind", ["fp16", "int8-static", "int8-dynamic", "int4"])
def test_a_float_file_under_another_name(kind, made):
    (check,) = coverage.check(Graph.load(made("mlp")), kind, {})
    assert (check.verdict, check.code, check.value) == ("fail", "VARIANT_NOT_APPLIED", 0.0)


def test_a_file_that_is_half_quantized(made):
    """`up` holds 768 of 928 weights."""
    graph = Graph.load(made("mlp", "int8-static", "up"))
    (check,) = coverage.check(graph, "int8-static", {})
    assert (check.verdict, check.code) == ("fail", "VARIANT_NOT_APPLIED")
    assert check.value == pytest.approx(160 / 928)


@pytest.mark.parametrize("kind", ["fp16", "int8-static", "int8-dynamic"])
def test_a_kept_node_keeps_its_weight(kind, made):
    graph = Graph.load(made("mlp", kind, "up"))
    assert coverage.measure(graph, kind).converted == 160
    kinds = {graph.kind(name) for name, _ in graph.constants() if name.startswith("up.weight")}
    assert kinds == {"float"}


def test_what_is_kept_in_float_on_purpose_may_be_half(made):
    options = {"keep_float": ["down", "c1"]}
    (kept,) = coverage.check(Graph.load(made("mlp", "int8-static", "down")), "int8-static", options)
    assert (kept.verdict, kept.limit) == ("pass", 0.5)
    (most,) = coverage.check(Graph.load(made("mlp", "int8-static", "up")), "int8-static", options)
    assert (most.verdict, most.code) == ("fail", "VARIANT_NOT_APPLIED")


def test_convolutions_left_out_by_design_are_a_warning(made):
    graph = Graph.load(made("cnn", "int8-dynamic"))
    (check,) = coverage.check(graph, "int8-dynamic", {"op_types": ["MatMul", "Gemm"]})
    assert (check.verdict, check.code) == ("warn", "VARIANT_NOT_APPLIED")
    assert "Conv weights stay in float by design" in check.reason
    (foreign,) = coverage.check(graph, "int8-dynamic", {})
    assert foreign.verdict == "fail"


# -- literal against deployed ---------------------------------------------------------------------------------------


def compared(path, base, quantizable, name, deployed=None):
    graph, feeds = Graph.load(path), quantizable.feeds(name, 8, 1)
    word = literal.execute(graph, feeds, 1)
    given = deployed or quantizable.answer(path, feeds)
    return literal.check(graph, word, feeds, given, quantizable.answer(base, feeds), 1)


@pytest.mark.parametrize("name", ["mlp", "cnn", "former"])
def test_fused_kernels_do_what_the_nodes_say(name, made, quantizable):
    found = compared(made(name, "int8-static"), made(name), quantizable, name)
    assert [check.metric for check in found] == ["steps", "ratio", "ratio"]
    assert {check.verdict for check in found} == {"pass"}
    assert found[0].value <= 1
    assert found[1].value < 1e-3


def test_the_graph_is_left_as_it_was(made, quantizable):
    graph = Graph.load(made("cnn", "int8-static"))
    before = graph.model.SerializeToString(deterministic=True)
    feeds = quantizable.feeds("cnn", 4, 1)
    literal.check(graph, literal.execute(graph, feeds, 1), feeds, {}, {}, 1)
    assert graph.model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("name", "weight", "said"),
    [("cnn", "ConvBnFusion_BN_B_b1.bias_quantized", "b (Conv c1)"), ("mlp", "down.bias_quantized", "the last piece")],
)
def test_a_fused_kernel_that_computes_something_else(name, weight, said, made, quantizable, monkeypatch):
    """The engine's own rewriting is played: what it opens at the deployed level has another bias."""
    honest = literal.open_session

    def open_session(model, level, threads):
        if level == "ORT_ENABLE_ALL":
            copy = onnx.ModelProto.FromString(model.SerializeToString())
            tensor = next(tensor for tensor in copy.graph.initializer if tensor.name == weight)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 4000, weight))
            model = copy
        return honest(model, level, threads)

    monkeypatch.setattr(literal, "open_session", open_session)
    found = compared(made(name, "int8-static"), made(name), quantizable, name)
    wrong = [check for check in found if check.verdict == "fail"]
    assert {check.code for check in wrong} == {"QDQ_MISMATCH"}
    assert said in wrong[0].reason


def test_a_deployed_graph_that_answers_something_else(made, quantizable):
    path = made("mlp", "int8-static")
    other = {"y": quantizable.answer(path, quantizable.feeds("mlp", 8, 1))["y"] + np.float32(1)}
    found = compared(path, made("mlp"), quantizable, "mlp", other)
    assert [check.code for check in found] == ["", "", "QDQ_MISMATCH"]


def test_dynamic_quantization_has_no_pairs_to_fuse(made, quantizable):
    assert compared(made("mlp", "int8-dynamic"), made("mlp"), quantizable, "mlp") == []


# -- saturation -----------------------------------------------------------------------------------------------------


def brute_force(rows, weight):
    """Sums of saturated pairs, one at a time."""
    total = np.zeros((len(rows), weight.shape[1]), np.int64)
    for k in range(0, len(weight), 2):
        for n in range(weight.shape[1]):
            pair = sum(rows[:, j].astype(int) * int(weight[j, n]) for j in range(k, min(k + 2, len(weight))))
            total[:, n] += np.clip(pair, -32_768, 32_767)
    return total


@pytest.mark.parametrize("size", [8, 9])
def test_saturated_sums_are_those_of_the_instruction(size):
    random = np.random.default_rng(0)
    rows = random.integers(180, 256, (5, size)).astype(np.uint8)
    weight = random.integers(-127, 128, (size, 6)).astype(np.int8)
    exact = rows.astype(int) @ weight.astype(int)
    lost = brute_force(rows, weight) - exact
    assert lost.any()
    reach, loss = saturation._both_ways(rows, weight, 0)
    assert loss == pytest.approx(20 * np.log10(np.linalg.norm(exact) / np.linalg.norm(lost)), abs=1e-3)
    assert reach > 32_767


def test_what_fits_seven_bits_cannot_saturate():
    rows = np.full((4, 8), 255, np.uint8)
    assert saturation._both_ways(rows, np.full((8, 3), 63, np.int8), 0) == (32_130, np.inf)


def risk(path, name, quantizable, limit, flags=("avx512f",), machine="x86_64"):
    graph = Graph.load(path)
    (check,) = saturation.check(graph, literal.execute(graph, quantizable.feeds(name, 8, 1), 1), limit, flags, machine)
    return check


@pytest.mark.parametrize(("name", "kind"), INT8)
def test_a_layer_that_would_lose_more_than_its_variant_may(name, kind, made, quantizable):
    check = risk(made(name, kind), name, quantizable, 200.0)
    assert (check.verdict, check.code) == ("warn", "SATURATION_RISK")
    assert "would be left with" in check.reason
    assert risk(made(name, kind), name, quantizable, 5.0).verdict == "pass"


@pytest.mark.parametrize(
    ("flags", "machine", "said"),
    [
        (["avx512_vnni"], "x86_64", "adds in 32 bits (VNNI)"),
        (["avx_vnni"], "x86_64", "adds in 32 bits (VNNI)"),
        (["avx2"], "AMD64", "has no VNNI: the values compared here suffer"),
        (["asimddp"], "aarch64", "this ARM CPU adds in 32 bits"),
    ],
)
def test_it_says_what_this_machine_does(flags, machine, said, made, quantizable):
    assert said in risk(made("mlp", "int8-static"), "mlp", quantizable, 200.0, flags, machine).reason


def test_a_reduced_range_carries_no_risk(made, quantizable, tmp_path):
    """Weights of 7 bits, as `reduce_range` writes them."""
    halved = quantizable.edited(
        made("mlp", "int8-static"), tmp_path / "h.onnx",
        up__weight_quantized=lambda q: q // 2, down__weight_quantized=lambda q: q // 2,
    )  # fmt: skip
    assert risk(halved, "mlp", quantizable, 200.0).verdict == "pass"


# -- ranking --------------------------------------------------------------------------------------------------------


def ranked(base, path, kind, quantizable, name):
    return ranking.rank(prepared(base), Graph.load(path), quantizable.feeds(name, 8, 1), kind)


@pytest.mark.parametrize(("name", "kind"), INT8)
def test_the_noises_of_single_nodes_add_up(name, kind, made, quantizable):
    found = ranked(made(name), made(name, kind), kind, quantizable, name)
    exact = quantizable.answer(made(name), quantizable.feeds(name, 8, 1))["y"].astype(np.float64)
    actual = quantizable.answer(made(name, kind), quantizable.feeds(name, 8, 1))["y"]
    noise = np.mean((actual - exact) ** 2) / np.mean((exact - exact.mean(axis=0)) ** 2)
    assert abs(10 * np.log10(sum(entry.noise for entry in found) / noise)) < 3.0
    assert [entry.noise for entry in found] == sorted((entry.noise for entry in found), reverse=True)
    weights = {"cnn": 40 / 832} if kind == "int8-dynamic" else {}
    assert sum(entry.weights for entry in found) == pytest.approx(weights.get(name, 1.0))


def test_a_coarse_weight_comes_first(made, quantizable, tmp_path):
    def coarse(q):
        return (np.round(q / 32) * 32).clip(-128, 127).astype(np.int8)

    worse = quantizable.edited(made("former", "int8-static"), tmp_path / "w.onnx", wo_quantized=coarse)
    found = ranked(made("former"), worse, "int8-static", quantizable, "former")
    assert found[0].node == "out"
    assert found[0].gain_db > 3.0
    assert found[0].local_db < min(entry.local_db for entry in found[1:])
    assert found[0].keep == ("out",)
    names = {node.name for node in onnx.load(made("former")).graph.node}
    assert {entry.node for entry in found} <= names


def test_products_of_activations_are_ranked_too(made, quantizable):
    found = ranked(made("former"), made("former", "int8-static"), "int8-static", quantizable, "former")
    assert {"scores", "mix"} <= {entry.node for entry in found}


def test_half_precision_has_to_keep_what_makes_the_input(made, quantizable):
    found = {e.node: e for e in ranked(made("mlp"), made("mlp", "fp16"), "fp16", quantizable, "mlp")}
    assert set(found["down"].keep) == {"down", "relu", "up"}
    assert found["up"].keep == ("up",)


def test_an_unquantized_file_has_nothing_to_rank(made, quantizable):
    assert ranked(made("mlp"), made("mlp"), "int8-static", quantizable, "mlp") == []


def test_nodes_kept_in_float_are_not_ranked(made, quantizable):
    found = ranked(made("former"), made("former", "int8-static", "up", "head"), "int8-static", quantizable, "former")
    assert {"up", "head"}.isdisjoint(entry.node for entry in found)
