import re

import pytest

from deploykit import plan, plugin_options
from deploykit.recipe import TABLES, Recipe
from deploykit.recipe_text import Draft, render

VARIANTS = {variant.name: plugin_options.effective(variant, {}) for variant in plan.select("all")}
DRAFT = Draft(
    "deploykit.toml",
    "python:models.py:build",
    ("image:float32[N=1..64,3,8,8]", "size:int64[N]"),
    ("logits:float32[N,10]",),
    VARIANTS,
    "artifacts/models",
)
FULL = Draft(
    'odd"name\n.toml', "mlp", ("image:float32[N,1,28,28]",), ("out.put:float32[N,10]",), VARIANTS, 'with "quotes"\\',
    seed=3, checkpoint="w.safetensors", inputs_given=False, samples="s.npz", release="ort:1.19", trust_code=True,
)  # fmt: skip


def test_what_is_written_says_what_is_known():
    recipe = Recipe.parse(render(DRAFT))
    assert recipe.source == DRAFT.source
    assert recipe.inputs == DRAFT.inputs
    assert recipe.variants == ",".join(VARIANTS)
    assert (recipe.output, recipe.seed, recipe.checkpoint, recipe.samples) == ("artifacts/models", 0, None, None)
    assert recipe.gates.goal == "latency"
    full = Recipe.parse(render(FULL))
    assert (full.output, full.checkpoint, full.samples) == ('with "quotes"\\', "w.safetensors", "s.npz")
    assert (full.target, full.trust_code, full.seed, full.inputs) == ("ort:1.19", True, 3, ())
    assert full.training.data == "digits"


@pytest.mark.parametrize("draft", [DRAFT, FULL])
def test_every_key_that_is_commented_out_can_be_taken_into_use(draft):
    text = render(draft)
    taken = re.sub(r"^#(?! )", "", text, flags=re.MULTILINE)
    assert taken != text
    recipe = Recipe.parse(taken)
    assert recipe.options == {name: options for name, options in VARIANTS.items() if options}
    assert recipe.bench.tune == "latency"
    assert [one.to for one in recipe.handoff] == ["triton"]


@pytest.mark.parametrize("draft", [DRAFT, FULL])
def test_every_line_that_sets_something_stands_under_a_comment(draft):
    explained = False
    for line in render(draft).splitlines():
        if line.startswith("# "):
            explained = True
        elif not line:
            explained = False
        elif re.match(r"#?[\w\"-]+ = ", line):
            assert explained, line


def test_nothing_is_left_out_but_what_few_need():
    taken = re.sub(r"^#(?! )", "", render(FULL), flags=re.MULTILINE)
    rare = {
        "schema_", "inputs", "preprocess", "keep_float_target", "data_root", "download", "reproducers", "annotations",
        "compile", "profile", "rate", "metrics", "junit", "variant", "model_name", "version", "goal", "session",
        "allow_unverified", "preflight", "handoff",
    }  # fmt: skip
    for table, model in TABLES.items():
        for key in set(model.model_fields) - rare - set(TABLES) - {"options", "budget"}:
            assert re.search(rf"^{key} = ", taken, re.MULTILINE), (table, key)
