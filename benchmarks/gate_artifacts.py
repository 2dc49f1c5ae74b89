"""Makes the artifacts that `gates.py` judges: sound exports of small models, and the same files with one fault each."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from gate_models import SUBJECTS, Encoder, Subject
from onnx import ModelProto, NodeProto, helper, numpy_helper

import deploykit

Born = Literal["altered", "exported", "traced", "transformed"]


@dataclass(frozen=True)
class Artifact:
    """One file to judge.

    Attributes:
        what: one line for the table.
        healthy: a tool that complains raises a false alarm.
        born: `exported` as it is by torch.onnx.export with `options`, `traced` by its older exporter, `transformed` by
            deploykit to another precision, or `altered` after a sound export.
        make: writes the file for the subject from its sound export.
        options: of torch.onnx.export, where `born` is `exported`.
        precision: the budget that deploykit is told to use.
        samples: deploykit is given real samples, as its users can.
        twin: a sound artifact of the same kind: a tool that complains of both has told nothing apart. Empty where
            the subject's own sound export is one.
    """

    name: str
    subject: str
    what: str
    make: Callable[[Subject, Path, Path], None]
    healthy: bool = False
    born: Born = "altered"
    options: tuple[tuple[str, Any], ...] = ()
    precision: str = "fp32"
    samples: bool = False
    twin: str = ""


def export(subject: Subject, target: Path, module: torch.nn.Module | None = None, **options: Any) -> None:
    """torch.onnx.export with a symbolic batch, everything else as it comes; tracing where capturing cannot be.

    Args:
        subject: the model.
        target: the file.
        module: exported instead of the subject's own.
        options: more of torch.onnx.export's, `dynamic_shapes=None` for a fixed batch.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        arguments = export_arguments(subject, **options)
        torch.onnx.export(module or subject.build(), tuple(subject.example().values()), target, **arguments)


def export_arguments(subject: Subject, **options: Any) -> dict[str, Any]:
    """The keyword arguments with which `subject` is exported."""
    names = {"input_names": [spec.name for spec in subject.inputs], "output_names": list(subject.outputs)}
    if not subject.dynamic:
        axes = {name: {0: "N"} for name in (*names["input_names"], *names["output_names"])}
        return {"dynamo": False, "dynamic_axes": axes, **names, **options}
    shapes = {spec.name: {0: "N"} for spec in subject.inputs}
    return {"dynamo": True, "dynamic_shapes": shapes, "external_data": False, "verbose": False, **names, **options}


def sound(subject: Subject, base: Path, target: Path) -> None:
    """The export as it is."""
    del subject
    shutil.copyfile(base, target)


def options_of(artifact_options: tuple[tuple[str, Any], ...]) -> Callable[[Subject, Path, Path], None]:
    """An export with other options."""

    def make(subject: Subject, base: Path, target: Path) -> None:
        del base
        export(subject, target, **dict(artifact_options))

    return make


def edited(change: Callable[[ModelProto], None]) -> Callable[[Subject, Path, Path], None]:
    """The sound export after `change`; it must be a file that onnx's checker accepts."""

    def make(subject: Subject, base: Path, target: Path) -> None:
        del subject
        model = onnx.load(base)
        change(model)
        onnx.checker.check_model(model)
        onnx.save(model, target)

    return make


def weight(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Subject, Path, Path], None]:
    """The initializer whose name is `name` (or ends with it), changed; its dtype and shape stay."""

    def apply(model: ModelProto) -> None:
        found = [tensor for tensor in model.graph.initializer if tensor.name.endswith(name)]
        if len(found) != 1:
            raise LookupError(f"{len(found)} initializers are named {name}")
        before = numpy_helper.to_array(found[0])
        after = np.ascontiguousarray(change(before.copy()), dtype=before.dtype)
        if np.array_equal(before, after) or after.shape != before.shape:
            raise ValueError(f"{name} did not change, or changed its shape")
        found[0].CopyFrom(numpy_helper.from_array(after, found[0].name))

    return edited(apply)


def nodes(model: ModelProto, operator: str) -> list[NodeProto]:
    """The nodes of one operator, in graph order.

    Raises:
        LookupError: there is none: the exporter changed, and the fault would not be made.
    """
    found = [node for node in model.graph.node if node.op_type == operator]
    if not found:
        raise LookupError(f"no {operator} in the graph: {sorted({node.op_type for node in model.graph.node})}")
    return found


def _zero_row(array: np.ndarray) -> np.ndarray:
    array[3] = 0
    return array


def _swap_rows(array: np.ndarray) -> np.ndarray:
    array[[2, 7]] = array[[7, 2]]
    return array


def _swap_words(array: np.ndarray) -> np.ndarray:
    array[[41, 83]] = array[[83, 41]]
    return array


def _one_filter(array: np.ndarray) -> np.ndarray:
    array[5] *= 1.01
    return array


def _relu_to_identity(model: ModelProto) -> None:
    nodes(model, "Relu")[1].op_type = "Identity"


def _relu_without_nan(model: ModelProto) -> None:
    """`x > 0 ? x : 0`, which many backends write for ReLU: NaN becomes 0."""
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.0), "gate_zero"))
    for index, node in enumerate(nodes(model, "Relu")):
        place = list(model.graph.node).index(node)
        inside, outside, test = node.input[0], node.output[0], f"gate_positive_{index}"
        model.graph.node.remove(node)
        model.graph.node.insert(place, helper.make_node("Where", [test, inside, "gate_zero"], [outside]))
        model.graph.node.insert(place, helper.make_node("Greater", [inside, "gate_zero"], [test]))


def _other_epsilon(model: ModelProto) -> None:
    for node in nodes(model, "LayerNormalization"):
        epsilon = next(attribute for attribute in node.attribute if attribute.name == "epsilon")
        if not np.isclose(epsilon.f, 1e-6):
            raise ValueError(f"epsilon is {epsilon.f}")
        epsilon.f = 1e-5


def _swap_inputs(model: ModelProto) -> None:
    names = {"left": "right", "right": "left"}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _swap_outputs(model: ModelProto) -> None:
    names = {"output_0": "output_1", "output_1": "output_0"}
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]


def _clip_input(model: ModelProto) -> None:
    """A limit that fits the training data and not the world."""
    for node in model.graph.node:
        node.input[:] = ["gate_clipped" if name == "x" else name for name in node.input]
    for name, value in (("gate_low", -6.0), ("gate_high", 6.0)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    model.graph.node.insert(0, helper.make_node("Clip", ["x", "gate_low", "gate_high"], ["gate_clipped"]))


def _zero_late_rows(model: ModelProto) -> None:
    """A buffer of a hundred rows: Pad with a negative end cuts, with a positive one fills with zeros."""
    producer = next(node for node in model.graph.node if "output" in node.output)
    producer.output[:] = ["gate_whole"]
    for name, value in (("gate_zero", [0]), ("gate_hundred", [100]), ("gate_first", [0])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    model.graph.node.extend(
        [
            helper.make_node("Slice", ["gate_whole", "gate_zero", "gate_hundred", "gate_first"], ["gate_head"]),
            helper.make_node("Shape", ["gate_whole"], ["gate_rows"], end=1),
            helper.make_node("Shape", ["gate_head"], ["gate_kept"], end=1),
            helper.make_node("Sub", ["gate_rows", "gate_kept"], ["gate_missing"]),
            helper.make_node("Concat", ["gate_zero", "gate_zero", "gate_missing", "gate_zero"], ["gate_pads"], axis=0),
            helper.make_node("Pad", ["gate_head", "gate_pads"], ["output"]),
        ]
    )


def _next_label(model: ModelProto) -> None:
    """Labels that count from 1, as where a background class comes first."""
    producer = next(node for node in model.graph.node if "output" in node.output)
    producer.output[:] = ["gate_label"]
    model.graph.initializer.append(numpy_helper.from_array(np.int64(1), "gate_one"))
    model.graph.node.append(helper.make_node("Add", ["gate_label", "gate_one"], ["output"]))


def _mask_ignored(subject: Subject, base: Path, target: Path) -> None:
    """Exported from a module with the same weights that never looks at its mask."""
    del base
    module = Encoder(heed_mask=False)
    module.load_state_dict(subject.build().state_dict())
    export(subject, target, module.eval())


def _wrong_scale(model: ModelProto) -> None:
    """The scale of one layer's weights half as large again."""
    weighted = [node for node in nodes(model, "DequantizeLinear") if "fc2.weight" in node.input[0]]
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == weighted[0].input[1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.5), scale.name))


def transformed(
    variant: str, change: Callable[[ModelProto], None] | None = None
) -> Callable[[Subject, Path, Path], None]:
    """An export of deploykit at another precision, changed afterwards where `change` says how."""

    def make(subject: Subject, base: Path, target: Path) -> None:
        bundle = base.parent / f"bundle-{variant}"
        if not bundle.is_dir():
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            example = subject.example()
            samples = write_samples(subject, base.parent) if any(s.kind == "pixels" for s in subject.inputs) else None
            deploykit.export(subject.build(), example, bundle, variants=["onnx", variant], samples=samples)
        made = bundle / "variants" / variant / "model.onnx"
        if change is None:
            shutil.copyfile(made, target)
        else:
            edited(change)(subject, made, target)

    return make


def write_samples(subject: Subject, folder: Path) -> Path:
    """Real inputs of the subject as the `.npz` that `--samples` takes."""
    path = folder / "samples.npz"
    np.savez(path, **{name: tensor.numpy() for name, tensor in subject.real(rows=320).items()})
    return path


FIXED = (("dynamic_shapes", None),)

BROKEN = (
    Artifact("weight-x1.01", "mlp", "one layer's weights × 1.01", weight("fc2.weight", lambda w: w * 1.01)),
    Artifact("sign-flip", "mlp", "one layer's weights negated", weight("fc2.weight", lambda w: -w)),
    Artifact("channel-zeroed", "mlp", "one hidden unit is zero", weight("fc2.weight", _zero_row)),
    Artifact("classes-swapped", "mlp", "two class rows swapped", weight("fc3.weight", _swap_rows)),
    Artifact("bias-dropped", "mlp", "one bias is zero", weight("fc2.bias", lambda b: b * 0)),
    Artifact("relu-identity", "mlp", "one ReLU is missing", edited(_relu_to_identity)),
    Artifact("relu-hides-nan", "mlp", "ReLU turns NaN into 0", edited(_relu_without_nan)),
    Artifact(
        "head-in-fp16",
        "mlp",
        "last layer rounded to fp16, sold as fp32",
        weight("fc3.weight", lambda w: w.astype(np.float16).astype(np.float32)),
    ),
    Artifact("batch-baked", "mlp", "promised batch is fixed", options_of(FIXED), born="exported", options=FIXED),
    Artifact(
        "int8-scale",
        "mlp",
        "int8: one layer's scale × 1.5",
        transformed("onnx-int8-static", _wrong_scale),
        precision="int8-static",
        twin="mlp-int8-static",
    ),
    Artifact("filter-x1.01", "resnet", "one of 32 filters × 1.01", weight("blocks.1.conv2.weight", _one_filter)),
    Artifact("layernorm-eps", "encoder", "LayerNorm's epsilon 1e-5 for 1e-6", edited(_other_epsilon)),
    Artifact("two-words", "encoder", "two of 97 embedding rows swapped", weight("embed.weight", _swap_words)),
    Artifact("mask-ignored", "encoder", "padding mask without effect", _mask_ignored),
    Artifact("epsilon-deleted", "standardize", "+ 1e-8 is gone", sound, born="exported"),
    Artifact("branch-baked", "branch", "one branch traced, the other gone", sound, born="traced"),
    Artifact("scalar-baked", "scaled", "one input's maximum is a constant", sound, born="traced"),
    Artifact("input-clipped", "faint", "inputs clipped to ±6", edited(_clip_input)),
    Artifact("rows-over-100", "faint", "rows after the 100th are zero", edited(_zero_late_rows)),
    Artifact("inputs-swapped", "pair", "each input goes where the other should", edited(_swap_inputs)),
    Artifact("outputs-swapped", "pair", "each output under the other's name", edited(_swap_outputs)),
    Artifact("faint-wrong", "faint", "outputs around 1e-6, all wrong", weight("fc2.weight", lambda w: w[::-1])),
    Artifact("label-plus-1", "picker", "class number off by one", edited(_next_label)),
    Artifact(
        "fp16-overflow",
        "energy",
        "fp16 overflows on real pixels",
        transformed("onnx-fp16"),
        born="transformed",
        precision="fp16",
        samples=True,
        twin="energy-fp16",
    ),
)

NO_FOLDING = (("optimize", False),)

HEALTHY = (
    *(
        Artifact(name, name, SUBJECTS[name].what, sound, healthy=True, born="exported")
        for name in ("mlp", "resnet", "encoder", "pair", "faint", "picker", "tied", "tied-label", "steep", "energy")
    ),
    Artifact(
        "standardize",
        "standardize",
        "the same with optimize=False",
        options_of(NO_FOLDING),
        healthy=True,
        born="exported",
        options=NO_FOLDING,
    ),
    Artifact("mlp-fp16", "mlp", "fp16", transformed("onnx-fp16"), healthy=True, born="transformed", precision="fp16"),
    Artifact(
        "energy-fp16",
        "energy-scaled",
        "fp16, real pixels within its range",
        transformed("onnx-fp16"),
        healthy=True,
        born="transformed",
        precision="fp16",
        samples=True,
    ),
    Artifact(
        "mlp-int8-dynamic",
        "mlp",
        "int8, dynamic",
        transformed("onnx-int8-dynamic"),
        healthy=True,
        born="transformed",
        precision="int8-dynamic",
    ),
    Artifact(
        "mlp-int8-static",
        "mlp",
        "int8, static",
        transformed("onnx-int8-static"),
        healthy=True,
        born="transformed",
        precision="int8-static",
    ),
)


def by_name(names: str = "") -> list[Artifact]:
    """The artifacts of a comma-separated list, all where it is empty.

    Raises:
        SystemExit: a name is unknown.
    """
    every = {artifact.name: artifact for artifact in (*BROKEN, *HEALTHY)}
    wanted = [name for name in names.split(",") if name] or list(every)
    if unknown := [name for name in wanted if name not in every]:
        raise SystemExit(f"no artifact {', '.join(unknown)}; there are {', '.join(every)}")
    return [every[name] for name in wanted]


def make(artifact: Artifact, folder: Path) -> Path:
    """Write the artifact's file (and its subject's sound export, once) below `folder`."""
    subject = SUBJECTS[artifact.subject]
    home = folder / subject.name
    home.mkdir(parents=True, exist_ok=True)
    base, target = home / "base.onnx", home / f"{artifact.name}.onnx"
    if not base.is_file():
        export(subject, base)
        torch.save(subject.build().state_dict(), home / "weights.pt")
    artifact.make(subject, base, target)
    return target
