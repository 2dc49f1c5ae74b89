"""The text of a new recipe: what is known of the model, and beside it what else could be said, commented out.

Prose stands behind `# `, a key that can be taken into use behind `#` alone. A writer of TOML would lose both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploykit import toml_text
from deploykit.toml_text import value


@dataclass(frozen=True)
class Draft:
    """What a new recipe says.

    Attributes:
        file: its name.
        inputs: as `--input` texts; `inputs_given` says whether the source takes them, else they are only told.
        outputs: in the same form, told only.
        variants: all options of its plugin by variant, in the order of making.
    """

    file: str
    source: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    variants: Mapping[str, Mapping[str, Any]]
    output: str
    seed: int = 0
    checkpoint: str | None = None
    inputs_given: bool = True
    samples: str | None = None
    release: str | None = None
    trust_code: bool = False
    preprocess: str = ""


def render(draft: Draft) -> str:
    """The recipe as TOML."""
    parts = [_head(draft), _model(draft), _made(draft), _options(draft)]
    parts += [_TRAINING] if draft.source == "mlp" else []
    first = draft.outputs[0].partition(":")[0] if draft.outputs else "output"
    parts += [_BUDGET.format(output=toml_text.key(first)), _VERIFY, _BENCH, _GATES, _HANDOFF]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _head(draft: Draft) -> str:
    return f"""
# A recipe for deploykit. All of it: deploykit run --recipe {_word(draft.file)}
# export, verify and bench take their part of it in the same way; --plan says what would be done.
# The command line wins over what is said here. Relative paths are relative to this file's folder.
schema = 1"""


def _model(draft: Draft) -> str:
    lines = [
        "# What builds the model. Code that is named here runs when the recipe is used, not when it is read.",
        f"source = {value(draft.source)}",
        "# Weights: safetensors, or a state-dict .pt.",
        _either("checkpoint", draft.checkpoint, "weights.safetensors"),
    ]
    lines += ["# The file that is named may run code when it is opened.", "trust_code = true"] * draft.trust_code
    if draft.preprocess:
        lines += ["# What lies between raw images and the model's input.", f"preprocess = {value(draft.preprocess)}"]
    lines += ["# Seeds weights, training and the inputs that are drawn.", f"seed = {draft.seed}", ""]
    if draft.inputs_given:
        lines.append("# The inputs in call order, NAME:DTYPE[dims]. A name is a symbolic dim; N=1..64 is its range.")
        lines += ["inputs = [", *(f"    {value(text)}," for text in draft.inputs), "]"]
    else:
        lines += ["# The source itself says what goes in:", *(f"#     {text}" for text in draft.inputs)]
    lines += ["# What comes out:", *(f"#     {text}" for text in draft.outputs)]
    lines += [
        "# Real inputs to judge and to calibrate with: an array per input, and 'labels' where there are any.",
        _either("samples", draft.samples, "samples.npz"),
    ]
    return "\n".join(lines)


def _made(draft: Draft) -> str:
    return "\n".join(
        [
            "# What is made, and where the bundle goes.",
            "variants = [",
            *(f"    {value(name)}," for name in draft.variants),
            "]",
            f"output = {value(draft.output)}",
            "# What has to load the ONNX variants, for example triton:24.10; the opset follows from it.",
            _either("target", draft.release, "ort:1.19"),
            "# Nodes that reduced precision leaves in float: auto looks for them, or their names.",
            '#keep_float = "auto"',
            "# Where variants are run by verify, bench and handoff: cpu, cuda, or a full provider name.",
            '#on = "cpu"',
        ]
    )


def _options(draft: Draft) -> str:
    parts = ["# Options of the plugins, a table per variant; these are the defaults."]
    for name, options in draft.variants.items():
        if options:
            rows = [f"#{toml_text.key(option)} = {value(given)}" for option, given in options.items()]
            parts.append("\n".join([f"[options.{toml_text.key(name)}]", *rows]))
    return "\n".join(parts)


def _either(key: str, given: str | None, example: str) -> str:
    return f"{key} = {value(given)}" if given is not None else f"#{key} = {value(example)}"


def _word(name: str) -> str:
    """A file's name in a comment: nothing in it may end the line."""
    return "".join(c if c.isprintable() else "?" for c in name)


_TRAINING = """
# The seed model is trained where no checkpoint is named.
[training]
data = "digits"
optimizer = "sgd"
#epochs = 40
#lr = 0.01
"""

_BUDGET = """
# Changes to the limits that variants are held to; loosening is printed. See docs/verify.md.
[budget]
#max_r = 6
# The same for one output alone.
[budget.{output}]
#max_r = 6
"""

_VERIFY = """
# The parity gate.
[verify]
# Prove with mutants that the gate can fail.
self_check = true
# What an inconclusive answer is: fail (exit 3), or warn (exit 0).
inconclusive = "fail"
# Fail, too, when a value became worse than it was: deploykit verify BUNDLE --baseline FILE --update-baseline
#baseline = "parity.json"
#junit = "junit.xml"
#summary = "summary.md"
"""

_BENCH = """
# The benchmark. quick is indicative and has no gate; without it ten launches are made.
[bench]
batch = [1]
quick = false
#threads = 2
# Settings of every session, for example spinning off; tune looks for them.
#session = "spinning=off"
#tune = "latency"
# A load besides: offline or server.
#scenario = "server"
#slo = "p99=5ms"
#seconds = 60
"""

_GATES = """
# What a variant has to satisfy to be recommended: exit 1 when none does. goal is latency, throughput, memory or size.
[gates]
goal = "latency"
#max_accuracy_drop = "0.5%"
#latency_p90 = "5ms"
#latency_median = "1ms"
#min_throughput = "1000/s"
#memory = "500MB"
#size = "10MB"
#load = "500ms"
# The speed gate: no slower than another bundle, or another variant of this one.
#against = "../released"
#margin = "2%,5%"
"""

_HANDOFF = """
# Folders that a serving stack takes as they are, written when the gates said yes; a [[handoff]] each.
#[[handoff]]
#to = "triton"
#output = "handoff/triton"
#target = "triton:24.10"
"""
