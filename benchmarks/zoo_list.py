"""The zoo, one line per model: `zoo.py` runs it.

A library's model is right when it passes; a refusal of one is right only where its line names the code, after somebody
looked at why. Of the hand-written modules many have to be refused, and a pass is wrong there.
"""

# ruff: noqa: E501 - one line per model

from __future__ import annotations

from zoo_entry import Entry

# --- hand-written: class or function, inputs, right outcomes where not `pass` -----------------------------------------

X = "x:float32[N,16]"
IMAGE = "image:float32[N=1..8,3,32,32]"

DECIDES = "onnx=DATA_DEPENDENT torch-export=DATA_DEPENDENT "
"""Python decides on a value: no graph can be captured, and a trace keeps one side."""

CONTROL = (
    ("BranchOnValue", (X,), DECIDES + "torchscript=CONTROL_FLOW_BAKED|SCALAR_BAKED", "a trace keeps one side"),
    ("ByWhere", (X,), "", ""),
    ("ByCond", (X,), "torchscript=EXPORT_ERROR", "a trace takes no torch.cond"),
    ("RefusesNan", (X,), DECIDES, "a trace drops the check, and right inputs are answered right"),
    ("UntilConverged", (X,), DECIDES + "torchscript=CONTROL_FLOW_BAKED|VALUE_MISMATCH|SCALAR_BAKED", "rounds depend on data"),
    ("FixedRounds", (X,), "", ""),
    ("PeakScaled", (X,), "onnx=pass|DATA_DEPENDENT torch-export=pass|DATA_DEPENDENT torchscript=SCALAR_BAKED", "a number read out of a tensor"),
    ("ByShape", ("x:float32[N,3,32,32]",), "", ""),
    ("Routed", (X,), "", ""),
    ("Weighted", (X,), "", ""),
    ("Tagger", ("ids:int64[N,T=1..64]",), "torch-export=DYNAMIC_DIM_FIXED onnx-int8-static=pass|VARIANT_NOT_APPLIED", "torch.export fixes the length of an LSTM; most weights are in it, which static int8 leaves in float"),
    ("packed", (), "torch-export=EXPORT_ERROR|DATA_DEPENDENT onnx=pass|DATA_DEPENDENT torchscript=pass|CONTROL_FLOW_BAKED|SCALAR_BAKED", "packing reads the lengths in Python"),
    ("Stepped", ("x:float32[N,9,8]",), "", ""),
    ("Stepped", ("x:float32[N,T=1..32,8]",), "*=DYNAMIC_DIM_FIXED torchscript=DYNAMIC_DIM_FIXED|GUARD_LOST|SHAPE_MISMATCH|CONTROL_FLOW_BAKED", "a Python loop over a dim is unrolled"),
    ("HandedOn", ("x:float32[N,8]", "state:float32[N,16]"), "", ""),
    ("Acoustic", ("frames:float32[N,20,T=16..256]",), "onnx-int8-static=pass|VARIANT_NOT_APPLIED", "most weights are in the GRU, which static int8 leaves in float"),
    ("Dilated", ("x:float32[N,8,T=1..256]",), "", ""),
    ("Tabular", ("categories:int64[N,3]", "numbers:float32[N,4]"), "", ""),
    ("Hashed", ("ids:int64[N,12]",), "onnx-int8-static=VARIANT_NOT_APPLIED", "a table alone: nothing to quantize"),
    ("Bucketed", ("x:float32[N,6]",), "onnx-int8-static=VARIANT_NOT_APPLIED", "a table alone: nothing to quantize"),
    ("Pixels", ("image:uint8[N,32,32,3]",), "", ""),
    ("Ranked", (X,), "", ""),
    ("Spread", ("ids:int64[N,20]",), "onnx-int8-static=VARIANT_NOT_APPLIED", "no weights"),
    ("StraightThrough", (X,), "torchscript=EXPORT_ERROR", "a trace takes no autograd.Function"),
)  # fmt: skip

STATE = (
    ("Counting", (X,), "*=STATEFUL_REFERENCE", "a buffer counts calls"),
    ("Remembering", ("x:float32[N,9,8]",), "*=STATEFUL_REFERENCE", "hidden state in an attribute"),
    ("OnlyInTraining", (X,), "", ""),
    ("LazyTable", ("x:float32[N,12,8]",), "", ""),
    ("LazyTable", ("x:float32[N,T=1..64,8]",), "*=pass|DYNAMIC_DIM_FIXED|GUARD_LOST|STATEFUL_REFERENCE", "the table grows with the longest input so far"),
    ("Hooked", (X,), "", ""),
    ("HiddenLayers", (X,), "*=TRAIN_MODE|REFERENCE_NONDETERMINISTIC", "eval() does not reach a dropout in a plain list"),
    ("Sampling", (X,), "*=REFERENCE_NONDETERMINISTIC", "draws at every call"),
    ("AlwaysDropping", (X,), "*=REFERENCE_NONDETERMINISTIC", "dropout in eval mode"),
    ("InPlace", (X,), "*=INPUT_MUTATED", "writes into its input"),
    ("Numpy", (X,), "torchscript=SCALAR_BAKED|CONTROL_FLOW_BAKED", "a trace keeps what numpy answered for the example"),
)  # fmt: skip

NO_ENGINE = "onnx=UNSUPPORTED_OP|LOAD_ERROR"
"""ONNX or ONNX Runtime lacks the operator."""

IO = (
    ("dicts", (), "", ""),
    ("lists", (), "", ""),
    ("dataclasses", (), "", ""),
    ("named_tuples", (), "", ""),
    ("keywords", (), "", ""),
    ("without_mask", (), "", ""),
    ("key_value_cache", ("ids:int64[N,1]", *(f"past_{i}_{j}:float32[N,P=1..64,16]" for i in (0, 1) for j in (0, 1))), "", ""),
    ("Chatty", (X,), "*=BAD_OUTPUT", "a plain number beside a tensor is no output of a graph"),
    ("Unused", (X, "lengths:int64[N]"), "", ""),
    ("Spectrum", ("wave:float32[N,64]",), "", ""),
    ("Spectrogram", ("wave:float32[N,256]",), "", ""),
    ("Spectral", ("x:float32[N,4,32]",), "onnx=UNSUPPORTED_OP", "ONNX multiplies no complex matrices"),
    ("Rotated", ("x:float32[N,T=1..64,16]",), "", ""),
    ("Phasors", ("z:complex64[N,8]",), "onnx=UNSUPPORTED_OP", "ONNX Runtime has no complex tensors at its border"),
    ("Precise", (X,), "", ""),
    ("half_weights", (), "onnx-int8-static=ALREADY_REDUCED", "its weights are float16 already"),
    ("Autocast", (X,), "", ""),
)  # fmt: skip

OPS = (
    ("Messages", ("nodes:float32[40,8]", "edges:int64[2,E=2..200]"), "", ""),
    ("UNet", ("image:float32[N=1..8,3,H=16..64/2,W=16..64/2]",), "", ""),
    ("Warped", (IMAGE,), "", ""),
    ("Whitened", ("x:float32[N,8,4]",), NO_ENGINE, "ONNX has no Cholesky"),
    ("Robust", (X,), "onnx=UNSUPPORTED_OP", "ONNX has no median"),
    ("Boxes", ("x:float32[V=1..64,8]",), "onnx-int8-static=pass|SHAPE_MISMATCH", "in int8 another number of boxes is left"),
    ("Pooled", ("image:float32[2,3,32,32]",), "", ""),
    ("Deformed", ("x:float32[N=1..8,4,12,12]",), "", ""),
    ("OwnOperator", (X,), NO_ENGINE + " torch-export=LOAD_ERROR|EXPORT_ERROR|pass torchscript=LOAD_ERROR|EXPORT_ERROR|pass", "an operator that only its own code knows"),
    ("Force", (X,), "*=pass|EXPORT_ERROR", "a gradient inside forward"),
    ("Checkpointed", (X,), "", ""),
    ("Normed", (X,), "", ""),
    ("Faint", (X,), "onnx=pass|CONSTANT_DROPPED", "torch's exporter deletes an epsilon of 1e-8"),
    ("Masked", ("ids:int64[N,10]", "mask:int64[N,10]"), "", ""),
    ("tied", (), "", ""),
    ("compiled", (), "torchscript=pass|EXPORT_ERROR", "a trace takes no compiled function"),
    ("parallel", (), "", ""),
    ("scripted", (), "onnx=pass|EXPORT_ERROR torch-export=pass|EXPORT_ERROR", "torch.export takes no TorchScript"),
    ("batch_of_one", (), "", ""),
    ("Lazy", ("x:float32[N=1..8,3,12,12]",), "", ""),
)  # fmt: skip

MODULES = {"zoo_modules": CONTROL, "zoo_modules_state": STATE, "zoo_modules_io": IO, "zoo_modules_ops": OPS}


def by_hand() -> list[Entry]:
    """The modules in the files beside this one; a second line of one is told apart by its inputs."""
    made: list[Entry] = []
    seen: set[str] = set()
    for file, lines in MODULES.items():
        for name, inputs, expected, why in lines:
            source = f"python:{file}.py:{name}"
            label = f" {inputs[0]}" if source in seen else ""
            made.append(Entry("hand-written", source, tuple(inputs), expected, why, label=label))
            seen.add(source)
    return made
