"""What verify asks of variants in reduced precision, and `--keep-float auto`: real files, real sessions, no torch."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from deploykit import registry
from deploykit.bundle import Bundle, CaseRecord, Manifest, ReferenceRecord, SourceRecord, VariantRecord
from deploykit.errors import UsageError, WorkError
from deploykit.isolation import Pool
from deploykit.model import SourceSpec
from deploykit.pipeline import keep_float
from deploykit.pipeline.judging import Gate
from deploykit.pipeline.keep_float import Search, Staged, Wanted
from deploykit.pipeline.quantized import HALF_OF_LARGEST, examine, rank
from deploykit.progress import Silent
from deploykit.publish import publish, staging
from deploykit.reference import Case, Largest, Noise, save_case
from deploykit.signature import Dim, Signature, TensorSpec

TRANSFORMS = ("fp16", "int8-dynamic", "int8-static")


@pytest.fixture(scope="module")
def quantizable():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "fixtures"))
        import quantizable as found

        yield found
        sys.modules.pop("quantizable", None)


@pytest.fixture(scope="module")
def pool():
    with Pool() as found:
        yield found


@pytest.fixture(scope="module")
def bundles(quantizable, tmp_path_factory):
    """`bundles("cnn")` has the float32 file, all transforms of it, and three cases answered by it."""
    made: dict[str, Bundle] = {}

    def bundle(name: str) -> Bundle:
        if name not in made:
            made[name] = _published(quantizable, name, tmp_path_factory.mktemp("bundle") / name)
        return made[name]

    return bundle


def _published(quantizable, name, target, largest=None):
    with staging(target, force=False) as stage:
        records, float_file = [], stage / "variants/onnx/model.onnx"
        for variant in ("onnx", *(f"onnx-{transform}" for transform in TRANSFORMS)):
            path = stage / f"variants/{variant}/model.onnx"
            path.parent.mkdir(parents=True)
            options = {}
            if variant == "onnx":
                quantizable.MODELS[name](path)
            else:
                plugin = registry.load("transforms", variant.removeprefix("onnx-"))()
                plugin.apply(float_file, path, [quantizable.feeds(name, 32, 5)])
                options = {key: value for key, value in asdict(plugin).items() if not isinstance(value, list)}
            records.append(
                VariantRecord(
                    name=variant, status="ready", made_by=variant.removeprefix("onnx-"), runtime="onnxruntime",
                    precision=variant.removeprefix("onnx-") if variant != "onnx" else "fp32", options=options,
                    file=f"variants/{variant}/model.onnx",
                )
            )  # fmt: skip
        (stage / "reference").mkdir()
        cases = []
        for case_id, kind, rows in (("real", "real", 128), ("uniform", "in range", 12), ("batch-3", "shapes", 3)):
            feeds = quantizable.feeds(name, rows, rows)
            y = quantizable.answer(float_file, feeds)["y"]
            case = Case(
                case_id, kind, "full", rows, 0, feeds, {"y": y}, {"y": y.astype(np.float64)}, {"y": Noise(1e-6)}
            )
            save_case(case, stage / f"reference/{case_id}.safetensors")
            cases.append(
                CaseRecord(
                    id=case_id, file=f"reference/{case_id}.safetensors", input_class=kind, gate="full", rows=rows,
                    seed=0, noise=case.noise,
                )
            )  # fmt: skip
        signature = Signature(
            (TensorSpec("x", "float32", quantizable.INPUTS[name]),),
            (TensorSpec("y", "float32", ("N", 5)),),
            (Dim("N"),),
        )
        manifest = Manifest(
            name=name,
            source=SourceRecord(spec=SourceSpec("mlp"), digest="0" * 64, parameters=15),
            signature=signature,
            reference=ReferenceRecord(float64="double", samples="drawn", cases=tuple(cases), largest=largest),
            variants=tuple(records),
            versions={},
        )
        return publish(stage, manifest, target)


def examined(bundle, variant, pool, artifact=None):
    gate, record = Gate(bundle), bundle.manifest.variant(variant)
    path = artifact or bundle.path / record.file
    with tempfile.TemporaryDirectory() as folder:
        answers = gate.answers(record, path, pool, Path(folder))
        return examine(gate, record, path, pool, answers)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", ["mlp", "cnn", "former"])
def test_sound_variants_have_no_findings(name, transform, bundles, pool):
    found = examined(bundles(name), f"onnx-{transform}", pool)
    assert not [check for check in found if check.verdict in {"fail", "inconclusive", "skipped"}]
    warned = {check.code for check in found if check.verdict == "warn"}
    assert warned <= {"SATURATION_RISK", "VARIANT_NOT_APPLIED"}
    assert ("VARIANT_NOT_APPLIED" in warned) == (name == "cnn" and transform == "int8-dynamic")
    ids = {check.id for check in found}
    assert {"weights", "coverage"} <= ids
    assert ("qdq" in ids) == (transform == "int8-static")
    assert ("saturation" in ids) == transform.startswith("int8")
    assert {check.input_class for check in found} <= {"weights", "graph"}


def test_float32_has_nothing_to_answer_for(bundles, pool):
    assert examined(bundles("mlp"), "onnx", pool) == []


def test_a_moved_weight_is_found_in_a_foreign_file(bundles, pool, quantizable, tmp_path):
    bundle = bundles("former")

    def moved(q):
        q.reshape(-1)[9] += -3 if q.reshape(-1)[9] > 0 else 3
        return q

    broken = quantizable.edited(bundle.file_of("onnx-int8-static"), tmp_path / "b.onnx", w1_quantized=moved)
    failed = [check for check in examined(bundle, "onnx-int8-static", pool, broken) if check.verdict == "fail"]
    assert [check.code for check in failed] == ["WEIGHT_INTEGRITY"]
    assert "w1_quantized[0, 9]" in failed[0].reason


def test_a_float_file_given_out_as_int8(bundles, pool):
    bundle = bundles("mlp")
    found = examined(bundle, "onnx-int8-static", pool, bundle.file_of("onnx"))
    assert [check.code for check in found if check.verdict == "fail"] == ["VARIANT_NOT_APPLIED"]


def test_a_file_that_is_no_onnx_is_refused(bundles, pool, tmp_path):
    bundle = bundles("mlp")
    (tmp_path / "x.onnx").write_bytes(b"garbage")
    with pytest.raises(Exception, match="not an ONNX model"):
        examine(Gate(bundle), bundle.manifest.variant("onnx-fp16"), tmp_path / "x.onnx", pool)


@pytest.mark.parametrize(
    ("value", "overflows", "verdict"), [(HALF_OF_LARGEST, 0, "pass"), (33_000.0, 0, "fail"), (70_000.0, 3, "fail")]
)
def test_the_range_of_half_precision(value, overflows, verdict, quantizable, pool, tmp_path):
    bundle = _published(quantizable, "mlp", tmp_path / "b", Largest(value, "up (aten.linear)", overflows))
    (check,) = [check for check in examined(bundle, "onnx-fp16", pool) if check.id == "range"]
    assert (check.verdict, check.value, check.limit) == (verdict, value, HALF_OF_LARGEST)
    assert check.code == ("FP16_RANGE" if verdict == "fail" else "")
    assert "up (aten.linear)" in check.reason
    assert ("3 places exceed" in check.reason) == (overflows == 3)
    assert not [check for check in examined(bundle, "onnx-int8-static", pool) if check.id == "range"]


def test_the_seed_model_has_no_findings(seed_bundle, pool):
    bundle = Bundle(seed_bundle)
    for variant in ("onnx-fp16", "onnx-int8-dynamic", "onnx-int8-static"):
        found = examined(bundle, variant, pool)
        assert {"weights", "coverage"} <= {check.id for check in found}
        assert {check.verdict for check in found if check.id != "saturation"} == {"pass"}, found


def test_a_graph_that_cannot_be_opened_up_is_told_and_no_error(bundles, pool, tmp_path):
    """Its outputs were judged already; here an unknown operator stands for whatever an engine may refuse."""
    import onnx

    bundle = bundles("mlp")
    model = onnx.load(bundle.file_of("onnx-int8-static"))
    model.graph.node[-1].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "x.onnx")
    gate, record = Gate(bundle), bundle.manifest.variant("onnx-int8-static")
    with tempfile.TemporaryDirectory() as folder:
        answers = gate.answers(record, bundle.file_of(record.name), pool, Path(folder))
        found = examine(gate, record, tmp_path / "x.onnx", pool, answers)
    (check,) = [check for check in found if check.id == "qdq"]
    assert check.verdict == "skipped"
    assert "does not run with its integers" in check.reason


# -- what costs most ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cases", [None, ("real",), ("batch-3",)])
def test_the_ranking_names_nodes_that_can_be_kept(cases, bundles, pool):
    bundle = bundles("former")
    record = bundle.manifest.variant("onnx-int8-static")
    found = rank(Gate(bundle), record, bundle.path / record.file, pool, cases)
    assert len(found) == 9
    assert found[0].gain_db == max(entry.gain_db for entry in found)
    kept = registry.load("transforms", "int8-static")(keep_float=found[0].keep)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "q.onnx"
        facts = kept.apply(bundle.file_of("onnx"), target, [{"x": np.ones((4, 6, 16), np.float32)}])
    assert facts["quantized_nodes"] == 6  # of seven with a weight


def test_nothing_is_ranked_where_nothing_is_rounded(bundles, pool):
    bundle = bundles("mlp")
    assert rank(Gate(bundle), bundle.manifest.variant("onnx"), bundle.file_of("onnx"), pool) == ()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_node_that_is_not_there_is_an_error(name, bundles, tmp_path):
    with pytest.raises(WorkError, match="UNKNOWN_NODE"):
        registry.load("transforms", name)(keep_float=("nowhere",)).apply(
            bundles("mlp").file_of("onnx"), tmp_path / "q.onnx", [{"x": np.ones((4, 24), np.float32)}]
        )


class Ears(Silent):
    def __init__(self):
        self.heard = []

    def note(self, text):
        self.heard.append(text)


def searched(bundle, variant, pool, quantizable, target, folder, make=None):
    """A search over a copy of the variant; gives what it answers, what it said, and where the artifact lies."""
    record = bundle.manifest.variant(variant)
    artifact = folder / "variants" / variant / "model.onnx"
    artifact.parent.mkdir(parents=True)
    artifact.write_bytes((bundle.path / record.file).read_bytes())
    plugin = registry.load("transforms", record.made_by)

    def again(nodes, path):
        made = plugin(keep_float=nodes)
        facts = made.apply(bundle.file_of("onnx"), path, [quantizable.feeds(bundle.manifest.name, 32, 5)])
        return {"options": asdict(made), "facts": facts}

    ears = Ears()
    search = Search(Gate(Staged(bundle.path, bundle.manifest)), make or again, pool, ears, target)
    return search.improve(record, artifact), ears.heard, artifact, search


def test_it_stops_at_the_target(bundles, pool, quantizable, tmp_path):
    bundle = bundles("former")
    record = bundle.manifest.variant("onnx-int8-static")
    gate = Gate(bundle)
    before = Search(gate, None, pool, Silent())._measured(record, bundle.path / record.file)
    found, heard, artifact, search = searched(bundle, record.name, pool, quantizable, before + 1.0, tmp_path)
    assert search._measured(record, artifact) == pytest.approx(found["facts"]["keep_float_db"], abs=0.06)
    assert found["facts"]["keep_float_db"] >= before + 0.95, heard
    assert 1 <= found["facts"]["keep_float_rounds"] <= keep_float.MAX_ROUNDS
    assert 1 <= len(found["options"]["keep_float"]) < 7
    assert found["facts"]["quantized_nodes"] < 7
    assert "keep_float_stopped" not in found["facts"]
    assert f"{before:.1f} dB, keeping " in heard[0]
    assert not list(artifact.parent.parent.glob(".keep-*"))


def test_what_is_good_enough_is_left_alone(bundles, pool, quantizable, tmp_path):
    found, heard, artifact, _ = searched(bundles("mlp"), "onnx-int8-static", pool, quantizable, 5.0, tmp_path)
    assert found["facts"]["keep_float_rounds"] == 0
    assert found["options"]["keep_float"] == ()
    assert heard == []
    assert artifact.read_bytes() == bundles("mlp").file_of("onnx-int8-static").read_bytes()


def test_a_target_out_of_reach_keeps_the_best_and_says_why(bundles, pool, quantizable, tmp_path):
    found, heard, artifact, search = searched(bundles("former"), "onnx-int8-static", pool, quantizable, 90.0, tmp_path)
    assert "of 90 dB wanted: " in heard[-1]
    assert found["facts"]["keep_float_stopped"] in heard[-1]
    record = bundles("former").manifest.variant("onnx-int8-static")
    assert search._measured(record, artifact) == pytest.approx(found["facts"]["keep_float_db"], abs=0.06)
    ranked = rank(search.gate, record, bundles("former").path / record.file, pool)
    shares = {name: entry.weights for entry in ranked for name in entry.keep}
    assert sum(shares[name] for name in found["options"]["keep_float"]) <= keep_float.MOST_WEIGHTS


def test_rounds_that_bring_nothing_end_it(bundles, pool, quantizable, tmp_path):
    """Whatever is asked for, the same file comes out."""
    bundle = bundles("former")

    def stubborn(nodes, path):
        path.write_bytes(bundle.file_of("onnx-int8-static").read_bytes())
        return {"options": {"keep_float": nodes}, "facts": {}}

    found, _, artifact, _ = searched(bundle, "onnx-int8-static", pool, quantizable, 33.0, tmp_path, stubborn)
    assert found["facts"]["keep_float_stopped"] == "keeping more nodes brings nothing"
    assert found["facts"]["keep_float_rounds"] == keep_float.MAX_IDLE
    assert found["options"]["keep_float"] == ()
    assert artifact.read_bytes() == bundle.file_of("onnx-int8-static").read_bytes()


def test_a_variant_that_cannot_be_made_again_stays_as_it_is(bundles, pool, quantizable, tmp_path):
    def refusing(nodes, path):
        raise WorkError("onnx-int8-static", "the model has nothing left to quantize", "leave it", "VARIANT_NOT_APPLIED")

    found, _, artifact, _ = searched(bundles("former"), "onnx-int8-static", pool, quantizable, 60.0, tmp_path, refusing)
    assert found["facts"]["keep_float_stopped"] == "the model has nothing left to quantize"
    assert artifact.is_file()


@pytest.mark.parametrize(
    ("given", "target", "expected"),
    [
        (None, None, Wanted()),
        ((), None, Wanted()),
        ("auto", None, Wanted(auto=True)),
        ("auto", 25.0, Wanted(auto=True, target_db=25.0)),
        ("a, b,a", None, Wanted(("a", "b"))),
        (("a", "b"), None, Wanted(("a", "b"))),
    ],
)
def test_what_can_be_asked_for(given, target, expected):
    assert Wanted.parse(given, target) == expected


@pytest.mark.parametrize(
    ("given", "target"),
    [("", None), (" , ", None), ("auto,x", None), ("x", 25.0), (None, 25.0), ("auto", 0.0), ("auto", float("nan"))],
)
def test_what_makes_no_sense_is_said_before_anything_runs(given, target):
    with pytest.raises(UsageError, match="BAD_KEEP_FLOAT"):
        Wanted.parse(given, target)


@pytest.mark.slow
def test_the_command_keeps_what_it_is_told_to(cli, tiny_source, tmp_path):
    arguments = ("export", tiny_source, "--variants", "onnx,onnx-int8-static,onnx-int8-dynamic")
    done = cli(*arguments, "-o", tmp_path / "named", "--keep-float", "node_linear")
    assert done.returncode == 0, done.stderr
    for record in Bundle(tmp_path / "named").manifest.variants[1:]:
        assert record.options["keep_float"] == ("node_linear",)
        assert record.facts["quantized_nodes"] == 1
    done = cli(*arguments, "-o", tmp_path / "auto", "--keep-float", "auto", "--keep-float-target", "60")
    assert done.returncode == 0, done.stderr
    manifest = Bundle(tmp_path / "auto").manifest
    static = manifest.variant("onnx-int8-static")
    assert static.facts["keep_float_rounds"] >= 0
    assert "dB of 60 dB wanted" in done.stderr
    done = cli(*arguments, "-o", tmp_path / "wrong", "--keep-float", "nowhere")
    assert done.returncode == 4
    assert "there is no node nowhere to keep in float" in done.stderr + done.stdout
    done = cli(*arguments, "-o", tmp_path / "x", "--keep-float", "node_linear", "--keep-float-target", "20")
    assert (done.returncode, "BAD_KEEP_FLOAT" in done.stderr) == (2, True)
