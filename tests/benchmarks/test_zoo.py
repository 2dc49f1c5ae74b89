"""benchmarks/zoo.py: the list, the grades, one real model through all commands; no long runs."""

from __future__ import annotations

import json
import sys

import pytest


@pytest.fixture
def script():
    import zoo

    return zoo


@pytest.fixture
def table():
    import zoo_table

    return zoo_table


@pytest.fixture
def results(script, tmp_path, monkeypatch):
    path = tmp_path / "zoo.json"
    monkeypatch.setattr(script, "RESULTS", path)
    return path


def entry(source="python:zoo_modules.py:Small", expected="", **more):
    from zoo_entry import Entry

    return Entry("hand-written", source, ("x:float32[N,16]",), expected, **more)


def found(verdict, code="", remedy="do this"):
    return {"verdict": verdict, "code": code, "reason": "so it is", "remedy": remedy if verdict != "pass" else ""}


def row(**variants):
    given = {name.replace("_", "-"): value for name, value in variants.items()}
    return {"family": "x", "variants": given, "exceeded": "", "seconds": {"export": 2.0}, "peak_tree_bytes": 2**20}


def test_the_list_is_as_large_as_promised_and_every_name_is_there_once(script):
    entries = script.zoo()
    names = [e.name for e in entries]
    assert len(names) == len(set(names))
    sizes = {family: sum(e.family == family for e in entries) for family in {e.family for e in entries}}
    assert sizes["hand-written"] >= 30
    assert sizes["timm"] >= 40
    assert sizes["transformers"] >= 20
    assert sizes["torchvision classification"] == 80
    assert all(sizes[f"torchvision {task}"] > 5 for task in ("segmentation", "video", "detection"))


def test_every_expectation_names_a_variant_a_known_code_and_a_reason(script):
    from zoo_entry import VARIANTS

    from deploykit.diagnosis import CODES

    ordinary = {"BAD_OUTPUT", "BAD_EXAMPLE"}
    for e in script.zoo():
        stated = dict(part.split("=", 1) for part in e.expected.split())
        assert set(stated) <= {*VARIANTS, "*"}, e.name
        codes = {code for text in stated.values() for code in text.split("|")} - {"pass"}
        assert codes <= set(CODES) | ordinary, e.name
        assert bool(e.why) == bool(e.expected), e.name


def test_every_hand_written_source_is_there(script):
    import importlib

    for e in script.zoo():
        if e.family == "hand-written":
            file, name = e.source.removeprefix("python:").split(".py:")
            assert callable(getattr(importlib.import_module(file), name))


def test_the_right_outcome_of_a_variant_is_its_own_or_its_base_s_or_everyone_s():
    one = entry(expected="onnx=UNSUPPORTED_OP torchscript=pass|GUARD_LOST *=DATA_DEPENDENT", why="it is")
    assert one.right("onnx") == ("UNSUPPORTED_OP",)
    assert one.right("onnx-int8-static") == ("UNSUPPORTED_OP",)
    assert one.right("torchscript") == ("pass", "GUARD_LOST")
    assert one.right("torch-export") == ("DATA_DEPENDENT",)
    assert entry().right("onnx") == ("pass",)


def test_grades(table):
    sound, refused = entry(), entry(expected="*=STATEFUL_REFERENCE", why="it counts")
    assert table.grade(sound, "onnx", found("pass")) == "pass"
    assert table.grade(sound, "onnx", found("fail", "VALUE_MISMATCH")) == "wrong"
    assert table.grade(sound, "onnx-int8-static", found("fail", "SQNR_LOW")) == "int8 over budget"
    assert table.grade(sound, "onnx", found("fail", "SQNR_LOW")) == "wrong"
    assert table.grade(sound, "onnx-int8-static", found("crashed")) == "wrong"
    assert table.grade(refused, "onnx", found("refused", "STATEFUL_REFERENCE")) == "refused rightly"
    assert table.grade(refused, "onnx", found("refused", "STATEFUL_REFERENCE", remedy="")) == "wrong"
    assert table.grade(refused, "onnx", found("refused", "EXPORT_ERROR")) == "wrong"
    assert table.grade(refused, "onnx", found("pass")) == "wrong"
    assert table.grade(refused, "onnx-int8-static", found("fail", "SQNR_LOW")) == "wrong"


@pytest.mark.parametrize(
    ("plain", "grade"),
    [
        ({"check": "export failed"}, "fails"),
        ({"check": "crashed"}, "fails"),
        ({"check": "red"}, "red"),
        ({"check": "green"}, "unjudged"),
        ({"check": "green", "far": [], "raised": [], "judge": {"verdict": "pass"}}, "right"),
        ({"check": "green", "far": ["batch-1"], "raised": [], "judge": {"verdict": "fail"}}, "wrong"),
        ({"check": "green", "far": [], "raised": ["batch-1"], "judge": {"verdict": "fail"}}, "sizes"),
        ({"check": "green", "far": [], "raised": [], "judge": {"verdict": "fail"}}, "strict"),
        (None, ""),
    ],
)
def test_grades_of_plain_torch(table, plain, grade):
    assert table.plain_grade({"plain": plain}) == grade


def test_the_table_counts_what_the_rows_say(table):
    sound, counting = entry(), entry("python:zoo_modules_state.py:Counting", "*=STATEFUL_REFERENCE", why="it counts")
    good = row(onnx=found("pass"), torchscript=found("fail", "VALUE_MISMATCH"), torch_export=found("pass"))
    good["variants"]["onnx-int8-static"] = found("fail", "SQNR_LOW")
    models = {sound.name: good, counting.name: row(reference=found("refused", "STATEFUL_REFERENCE"))}
    text = table.markdown([sound, counting], models)
    assert "| **all** | 8 | 2 | 4 | 1 | 1 | 87.5 % |" in text
    assert "| python:zoo_modules_state.py:Counting | all | STATEFUL_REFERENCE | refused rightly | so it is |" in text
    assert "7 of 8 rows are right (87.5 %)" in text
    said = table.summary([sound, counting], models)
    assert said.startswith(
        "2 of 2 models, 8 rows: 2 pass, 4 refused rightly, 1 int8 over budget, 1 wrong; 87.5 % right"
    )
    assert "  python:zoo_modules.py:Small torchscript: fail VALUE_MISMATCH: so it is" in said
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert all(len({line.count("|") for line in part.splitlines()}) == 1 for part in tables)


def test_a_command_that_says_nothing_has_crashed_and_one_that_refuses_has_a_code(script):
    said = "error[STATEFUL_REFERENCE]: buffer calls: forward changes this buffer; hint: hand it out\n"
    assert script.stopped(4, said, "") == {
        "verdict": "refused",
        "code": "STATEFUL_REFERENCE",
        "reason": "buffer calls: forward changes this buffer",
        "remedy": "hand it out",
    }
    assert script.stopped(-11, "Fatal Python error", "")["verdict"] == "crashed"
    assert script.stopped(70, "error[INTERNAL]: x: y; hint: z", "")["verdict"] == "crashed"
    assert script.stopped(4, "error[WORKER_CRASHED]: onnx: died; hint: z", "")["verdict"] == "crashed"
    assert script.stopped(-9, "", "over 5 s")["verdict"] == "too slow"
    assert script.stopped(-9, "", "over 3 GiB of memory")["verdict"] == "too large"


def test_patterns(script):
    entries = [entry(), entry("timm:resnet10t")]
    assert script.chosen(entries, "") == entries
    assert script.chosen(entries, "resnet*") == entries[1:]
    assert script.chosen(entries, "hand-written,timm:") == entries
    with pytest.raises(SystemExit, match="no model fits nonsense"):
        script.chosen(entries, "resnet*,nonsense")


def test_what_is_there_is_passed_over_and_the_table_is_written(script, results, monkeypatch, capsys):
    monkeypatch.setattr(script, "zoo", lambda: [entry(), entry("timm:resnet10t")])
    asked = []
    monkeypatch.setattr(script, "one", lambda e, *_: asked.append(e.name) or row(onnx=found("pass")))
    script.keep("timm:resnet10t", row(onnx=found("pass")))
    monkeypatch.setattr(sys, "argv", ["zoo.py"])
    script.main()
    assert asked == ["python:zoo_modules.py:Small"]
    assert "2 of 2 models" in capsys.readouterr().out
    assert json.loads(results.read_text())["models"].keys() == {"python:zoo_modules.py:Small", "timm:resnet10t"}
    assert results.with_suffix(".md").read_text().startswith("# The zoo")


def test_a_model_that_takes_too_long_is_a_row(script):
    made = script.one(entry(), 0.5, 2**40)
    assert made["variants"]["reference"]["verdict"] == "too slow"
    assert "plain" not in made


@pytest.mark.slow
def test_a_small_module_goes_through_all_commands(script, table):
    made = script.one(entry(), 600, 2**40)
    assert [(v, f["verdict"], was) for v, f, was in table.graded(entry(), made)] == [
        ("onnx", "pass", "pass"),
        ("torchscript", "pass", "pass"),
        ("torch-export", "pass", "pass"),
        ("onnx-int8-static", "pass", "pass"),
    ]
    assert table.plain_grade(made) == "right"
    assert set(made["seconds"]) == {"export", "verify", "plain", "judge"}
    assert made["peak_tree_bytes"] > 2**26


@pytest.mark.slow
def test_a_module_that_counts_is_refused_and_plain_torch_does_not_notice(script, table):
    counting = next(e for e in script.zoo() if e.source.endswith(":Counting"))
    made = script.one(counting, 600, 2**40)
    assert {was for _, _, was in table.graded(counting, made)} == {"refused rightly"}
