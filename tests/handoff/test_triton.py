"""The folder for Triton, as text: what becomes of shapes, types, ranges, settings and versions, and what is refused."""

import re
import shutil

import pytest

from deploykit.errors import RefusedError
from deploykit.handoff import _triton_config
from deploykit.handoff._triton_text import entries, inner, number, read, word
from deploykit.handoff.interface import Given
from deploykit.handoff.triton import Target, lint_folder
from deploykit.registry import names
from deploykit.session import CUDA, SessionSettings
from deploykit.signature import Dim, Signature, TensorSpec
from tests.handoff.triton_configs import SIGNATURE, UNBATCHED, given, version


def config(one: Given):
    """The configuration that is written, after all checks."""
    Target().check(one)
    tree = Target().files(one)
    return read(tree["model_repository/mlp/config.pbtxt"])


def dims(one: Given) -> dict[str, list[int]]:
    found = config(one)
    return {
        word(io, "name"): [int(dim) for dim in io["dims"]] for side in ("input", "output") for io in inner(found, side)
    }


def signature(inputs: dict[str, tuple], outputs: dict[str, tuple], *ranges: Dim) -> Signature:
    sides = [tuple(TensorSpec(name, "float32", shape) for name, shape in side.items()) for side in (inputs, outputs)]
    return Signature(*sides, ranges)


def test_it_is_a_target():
    assert "triton" in names("handoff")


def test_the_files():
    tree = Target().files(given(SIGNATURE, version(1), version(3)))
    assert sorted(tree) == [
        "model_repository/mlp/1/model.onnx", "model_repository/mlp/1/weights.data",
        "model_repository/mlp/3/model.onnx", "model_repository/mlp/3/weights.data",
        "model_repository/mlp/config.pbtxt",
    ]  # fmt: skip


def test_an_artifact_has_one_name_in_all_versions():
    one = version(1)
    odd = one.variant.model_copy(update={"file": "variants/onnx/graph.onnx"})
    other = type(one)(2, odd, {"graph.onnx": one.files["model.onnx"]})
    tree = Target().files(given(SIGNATURE, one, other))
    assert "model_repository/mlp/2/model.onnx" in tree
    assert word(config(given(SIGNATURE, one, other)), "default_model_filename") == "model.onnx"


def test_with_a_batch():
    found = config(given())
    assert word(found, "name") == "mlp"
    assert word(found, "platform") == "onnxruntime_onnx"
    assert number(found, "max_batch_size") == 64
    assert dims(given()) == {"image": [1, 28, 20], "ids": [-1], "logits": [10], "seen": [-1]}
    assert [word(io, "data_type") for io in inner(found, "input")] == ["TYPE_FP32", "TYPE_INT64"]
    assert inner(found, "dynamic_batching") == [{}]
    assert word(inner(found, "instance_group")[0], "kind") == "KIND_CPU"
    warmup = inner(found, "model_warmup")[0]
    assert number(warmup, "batch_size") == 1
    values = {name: inner(entry, "value")[0] for name, entry in entries(warmup, "inputs").items()}
    assert [[int(dim) for dim in values[name]["dims"]] for name in ("image", "ids")] == [[1, 28, 20], [2]]
    assert all(word(value, "zero_data") == "true" for value in values.values())


NO_BATCH = {
    "no batch": (UNBATCHED, "share no symbolic first dim"),
    "an output without it": (signature({"x": ("N", 4)}, {"mean": (4,)}), "first dim of mean is not N"),
    "an output that it is twice in": (signature({"x": ("N", 4)}, {"gram": ("N", "N")}), "inner dim of gram"),
    "an output with a multiple of it": (signature({"x": ("N", 4)}, {"y": ("N", "2*N")}), "inner dim of y"),
    "a multiple of it first": (signature({"x": ("N", 4)}, {"y": ("2*N", 4)}), "first dim of y is not N"),
    "an output of it alone": (signature({"x": ("N", 4)}, {"label": ("N",)}), "label has no dim beside N"),
    "an input of it alone": (signature({"x": ("N",)}, {"y": ("N", 2)}), "x has no dim beside N"),
    "one input without it": (signature({"x": ("N", 4), "w": (4,)}, {"y": ("N", 4)}), "share no symbolic first dim"),
}


@pytest.mark.parametrize(("model", "why"), NO_BATCH.values(), ids=NO_BATCH.keys())
def test_without_a_batch_the_whole_shape_is_written_and_nothing_is_put_together(model, why):
    found = config(given(model))
    assert number(found, "max_batch_size", -1) == 0
    assert "dynamic_batching" not in found
    for spec in (*model.inputs, *model.outputs):
        assert dims(given(model))[spec.name] == [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    assert any("never put together" in note and why in note for note in Target().commands(given(model)).notes)


@pytest.mark.parametrize(
    ("most", "batch", "expected"),
    [(65_535, None, 512), (100, None, 100), (65_535, 1024, 1024), (100, 128, 100), (1, None, 1)],
)
def test_the_largest_batch_is_of_the_range_and_sane(most, batch, expected):
    model = signature({"x": ("N", 4)}, {"y": ("N", 4)}, Dim("N", 1, most))
    found = config(given(model, version(batch=batch)))
    assert number(found, "max_batch_size") == expected
    preferred = [word(one, "preferred_batch_size") for one in inner(found, "dynamic_batching")]
    assert preferred == ([] if most == 1 else [str(batch) if batch and batch <= most else ""])


def test_a_range_that_does_not_begin_at_one_warms_up_at_its_beginning():
    model = signature({"x": ("N", "L")}, {"y": ("N", 4)}, Dim("N", 2, 8), Dim("L", 3, 5))
    warmup = inner(config(given(model)), "model_warmup")[0]
    assert number(warmup, "batch_size") == 2
    assert inner(entries(warmup, "inputs")["x"], "value")[0]["dims"] == ["3"]
    notes = " ".join(Target().commands(given(model)).notes)
    assert "no lower end of N" in notes
    assert "any size of L" in notes


@pytest.mark.parametrize("dtype", sorted(_triton_config.TYPES))
def test_every_type_has_a_word(dtype):
    model = Signature((TensorSpec("x", dtype, ("N", 2)),), (TensorSpec("y", dtype, ("N", 2)),))
    expected = {"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"}.get(dtype, dtype.upper())
    assert word(inner(config(given(model)), "input")[0], "data_type") == f"TYPE_{expected}"


SETTINGS = {
    "": ({}, None),
    "threads=3": ({"intra_op_thread_count": "3"}, None),
    "arena=off": ({"enable_mem_arena": "0", "enable_mem_pattern": "0"}, None),
    "graph_level=disable": ({}, 2),
    "graph_level=basic": ({}, -1),
    "graph_level=extended": ({}, 1),
}


@pytest.mark.parametrize(("words", "expected"), SETTINGS.items(), ids=SETTINGS.keys())
def test_settings(words, expected):
    found = config(given(SIGNATURE, version(words=words)))
    values = {
        key: word(inner(entry, "value")[0], "string_value") for key, entry in entries(found, "parameters").items()
    }
    graphs = [graph for place in inner(found, "optimization") for graph in inner(place, "graph")]
    assert (values, number(graphs[0], "level") if graphs else None) == expected


def test_a_note_for_what_no_configuration_says():
    def notes(words: str) -> str:
        return " ".join(Target().commands(given(SIGNATURE, version(words=words))).notes)

    assert "`spinning=off` cannot be expressed" in notes("spinning=off")
    assert "spinning" not in notes("spinning=off,threads=1")  # one thread has no pool that could spin
    assert "spinning" not in notes("")
    assert "always binds" in notes("binding=on")


def test_every_setting_is_expressed_or_spoken_of_or_refused():
    """A new field of SessionSettings has to be thought of here."""
    known = {"provider", "threads", "graph_level", "spinning", "arena", "binding", "tf32", "device_graph"}
    assert set(SessionSettings.__dataclass_fields__) == known


@pytest.mark.parametrize(("words", "value"), [("", "0"), ("tf32=on", "1")])
def test_cuda(words, value):
    found = config(given(SIGNATURE, version(words=words, on=CUDA), provider=CUDA))
    assert word(inner(found, "instance_group")[0], "kind") == "KIND_GPU"
    place = inner(inner(found, "optimization")[0], "execution_accelerators")[0]
    accelerator = inner(place, "gpu_execution_accelerator")[0]
    assert word(accelerator, "name") == "cuda"
    assert word(entries(accelerator, "parameters")["use_tf32"], "value") == value


def test_torchscript():
    one = given(SIGNATURE, version(runtime="torchscript", words="threads=2"))
    found = config(one)
    assert word(found, "platform") == "pytorch_libtorch"
    assert word(found, "default_model_filename") == "model.pt"
    assert list(entries(found, "parameters")) == ["INTRA_OP_THREAD_COUNT"]
    assert "optimization" not in found
    assert "model_repository/mlp/1/model.pt" in Target().files(one)


def x(dtype: str = "float32", shape: tuple = ("N", 2), name: str = "x") -> Signature:
    return Signature((TensorSpec(name, dtype, shape),), (TensorSpec("y", "float32", ("N", 2)),))


TORCH = version(runtime="torchscript")
REFUSED = {
    "complex": (given(x("complex64")), "no type for"),
    "scalar": (given(x(shape=())), "is a scalar"),
    "uint16 for libtorch": (given(x("uint16"), TORCH), "no type for"),
    "a name that libtorch misreads": (given(x(name="x__3"), TORCH), "takes the number"),
    "another provider": (given(provider="OpenVINOExecutionProvider"), "may not have"),
    "a recorded graph": (
        given(SIGNATURE, version(words="device_graph=on", on=CUDA), provider=CUDA), "records the buffers"
    ),
    "cuda in an old release": (given(provider=CUDA, release="24.06"), "whether to use TF32"),
    "libtorch's threads in an old release": (
        given(SIGNATURE, version(runtime="torchscript", words="threads=1"), release="24.04"), "cannot be told threads=1"
    ),
    "two engines": (given(SIGNATURE, version(1), version(2, runtime="torchscript")), "one backend"),
    "two settings": (given(SIGNATURE, version(1, words="threads=1"), version(2)), "one configuration"),
}  # fmt: skip


@pytest.mark.parametrize(("one", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_triton_would_serve_otherwise_is_refused(one, why):
    with pytest.raises(RefusedError, match=re.escape(why)) as caught:
        Target().check(one)
    assert caught.value.code == "TARGET_CANNOT_SERVE"
    assert caught.value.hint


@pytest.mark.parametrize("release", ["24.07", "25.01", "onnxruntime 1.15", None])
def test_a_release_that_can_is_not_refused(release):
    Target().check(given(provider=CUDA, release=release))


def test_settings_without_an_expression_may_differ():
    Target().check(given(SIGNATURE, version(1, words="spinning=off"), version(2, words="binding=on")))


@pytest.fixture(scope="module")
def folder(cli, tiny_bundle, tmp_path_factory):
    place = tmp_path_factory.mktemp("triton") / "folder"
    done = cli("handoff", tiny_bundle, "--to", "triton", "-o", place, "--variant", "onnx", "--session", "threads=1")
    assert done.returncode == 0, done.stderr
    return place


def test_the_folder(folder):
    assert (folder / "model_repository/tiny/1/model.onnx").is_file()
    assert not (folder / "requirements.txt").exists()
    text = (folder / "README.md").read_text()
    assert "tritonserver --model-repository=model_repository --disable-auto-complete-config" in text
    assert "python check.py --url http://127.0.0.1:${PORT:-8000}" in text
    assert "not run: that backend itself, the PyTorch backend, GPUs" in text
    assert lint_folder(folder) == ()


def test_an_edited_folder_is_found_out(folder, tmp_path):
    edited = tmp_path / "edited"
    shutil.copytree(folder, edited)
    path = edited / "model_repository/tiny/config.pbtxt"
    path.write_text(path.read_text().replace("max_batch_size: 512", "max_batch_size: 0"))
    assert [one.code for one in lint_folder(edited)] == ["TRITON_NEVER_BATCHES", "TRITON_DIMS", "TRITON_DIMS"]


def test_torchscript_is_handed_over(cli, tiny_bundle, tmp_path):
    words = ("--variant", "torchscript", "-o", tmp_path / "folder")
    done = cli("handoff", tiny_bundle, "--to", "triton", *words)
    assert done.returncode == 0, done.stderr
    assert lint_folder(tmp_path / "folder") == ()


def test_another_version_with_other_settings_is_refused(cli, folder, tiny_bundle, tmp_path):
    shutil.copytree(folder, tmp_path / "folder")
    words = ("--variant", "onnx", "-o", tmp_path / "folder", "--version", "2")
    done = cli("handoff", tiny_bundle, "--to", "triton", *words)
    assert done.returncode == 5
    assert "error[TARGET_CANNOT_SERVE]" in done.stderr
    hint = re.search(r"give --session (\S+),", done.stderr)
    assert hint is not None, done.stderr
    done = cli("handoff", tiny_bundle, "--to", "triton", *words, "--session", hint[1])
    assert done.returncode == 0, done.stderr
