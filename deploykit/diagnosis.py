"""Every diagnosis code: the rule that fires it and what to do about it; `docs/diagnosis.md` is made from it.

Codes are stable: other programs match on them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Diagnosis:
    """What one code means.

    Attributes:
        about: `reference`, `capture`, `artifact`, `values`, `precision`, `evidence`, `baseline`, `server`, `handoff`,
            `run`: at fault.
        rule: when it fires, one sentence.
        remedy: what to do, one sentence.
    """

    about: str
    rule: str
    remedy: str


CODES: dict[str, Diagnosis] = {
    "TRAIN_MODE": Diagnosis(
        "reference",
        "A module is in train mode when the reference is to be recorded.",
        "Call model.eval() before exporting.",
    ),
    "REFERENCE_NONDETERMINISTIC": Diagnosis(
        "reference",
        "Two eager calls with the same inputs differ.",
        "Remove randomness from forward; F.dropout needs training=self.training.",
    ),
    "STATEFUL_REFERENCE": Diagnosis(
        "reference",
        "forward changes a buffer or an attribute that goes on changing from call to call.",
        "Make forward free of side effects and hand state in and out as tensors: a graph has none of its own.",
    ),
    "INPUT_MUTATED": Diagnosis(
        "reference", "forward changes one of its inputs in place.", "Work on a copy: x = x + 1 instead of x += 1."
    ),
    "NAN_REFERENCE": Diagnosis(
        "reference",
        "Eager answers NaN on finite inputs from its own distribution.",
        "Repair the weights or the samples: nothing can be proven about this model.",
    ),
    "PREPROCESS_MISMATCH": Diagnosis(
        "reference",
        "Raw images do not become what the model was judged with: two evaluations of the preprocessing differ.",
        "Compare mean, std, scale, order, resize and interpolation with what the model was trained on.",
    ),
    "REFERENCE_ERROR": Diagnosis(
        "reference",
        "Eager itself refuses an input that the signature promises.",
        "Give inputs that the model takes with --samples, or narrow what --input promises.",
    ),
    "DIM_REFUSED": Diagnosis(
        "reference", "Eager refuses a size of a dim that is declared symbolic.", "Declare a fixed size for that dim."
    ),
    "SOURCE_FINISHED": Diagnosis(
        "capture",
        "The source is a finished ONNX file, and the variant is made from PyTorch code.",
        "Leave the variant out, or give the model that the file was exported from.",
    ),
    "STATE_LOST": Diagnosis(
        "capture",
        "The same inputs, asked twice in one session, get two answers: state is carried from call to call.",
        "Hand the state in as an input and out as an output.",
    ),
    "CONTROL_FLOW_BAKED": Diagnosis(
        "capture",
        "Right where inputs take the example's branch and wrong elsewhere: tracing kept one side of a Python `if`.",
        "Use torch.where or torch.cond instead of a Python branch on values, or export with torch.jit.script.",
    ),
    "SCALAR_BAKED": Diagnosis(
        "capture",
        "Right on the example and wrong on other inputs: a number computed from the example became a constant.",
        "Keep the computation in tensors: no float(), int() or item() on values in forward.",
    ),
    "GUARD_LOST": Diagnosis(
        "capture",
        "Right at the sizes of the example and wrong at others inside the promised range.",
        "Declare the range in which the capture holds, or make forward's shape arithmetic symbolic.",
    ),
    "DATA_DEPENDENT": Diagnosis(
        "capture",
        "forward decides in Python by the values of its tensors, which no graph holds.",
        "Use torch.where or torch.cond instead of a Python branch on values; declare sizes with torch._check.",
    ),
    "UNSUPPORTED_OP": Diagnosis(
        "capture",
        "The model uses an operator that has no form in the format asked for.",
        "Write it with operators that have one, or ship another variant.",
    ),
    "DYNAMIC_DIM_FIXED": Diagnosis(
        "capture",
        "A dim that was promised symbolic is a number in the artifact, or other sizes are refused.",
        "Use shapes in forward without int(), item() or a Python loop over them; or declare the dim as a number.",
    ),
    "OUT_OF_RANGE": Diagnosis(
        "capture",
        "One step outside the declared range of a dim the artifact answers, and the answer is not eager's.",
        "Check sizes before calling the artifact, or declare the range in which it is right.",
    ),
    "OUTPUT_ORDER": Diagnosis(
        "artifact",
        "Outputs come in another order, or carry each other's values.",
        "Name outputs at export and read them by name.",
    ),
    "OUTPUT_MISSING": Diagnosis(
        "artifact",
        "An output that eager gives is not there, or one too many is.",
        "Export all outputs that forward returns.",
    ),
    "INPUT_MISSING": Diagnosis(
        "artifact",
        "A file made elsewhere takes another number of inputs than the signature has.",
        "Check that it is this bundle's model.",
    ),
    "INPUT_ORDER": Diagnosis(
        "artifact",
        "Right when two inputs of the same form change places.",
        "Name inputs at export in forward's order and feed them by name.",
    ),
    "NAMES_BY_POSITION": Diagnosis(
        "artifact",
        "A file made elsewhere has other names than the signature and was asked by position.",
        "Check the order that the message gives, or name inputs and outputs at export.",
    ),
    "DTYPE_MISMATCH": Diagnosis(
        "artifact",
        "An output has another dtype than eager's.",
        "Cast the output inside the model, or fix the export's types.",
    ),
    "SHAPE_MISMATCH": Diagnosis(
        "artifact",
        "An output has another shape than eager's; shapes never broadcast.",
        "Look for a reshape or squeeze that depends on the example's sizes.",
    ),
    "ARTIFACT_INCOMPLETE": Diagnosis(
        "artifact",
        "The file needs data that is not beside it.",
        "Copy the external data file together with the model.",
    ),
    "WEIGHTS_DUPLICATED": Diagnosis(
        "artifact",
        "Weights that the model shares are stored more than once.",
        "Tie them after export, or accept the size.",
    ),
    "NAN_PATTERN": Diagnosis(
        "values",
        "NaN or infinity comes out where eager has none, or the other way round.",
        "Screen inputs before the model, or mask explicitly with torch.where instead of relying on NaN arithmetic.",
    ),
    "CONSTANT_DROPPED": Diagnosis(
        "values",
        "Wrong only on zeros and constants, with another non-finite pattern or value: a small constant got lost.",
        "Use a larger epsilon (1e-6 or more), or export with the option optimize=false.",
    ),
    "MASKED_ROW_SEMANTICS": Diagnosis(
        "values",
        "Wrong only where a mask hides positions or a whole row.",
        "Mask with a large negative number instead of -inf, and give fully masked rows a defined answer.",
    ),
    "LAYOUT_UNCHECKED": Diagnosis(
        "values",
        "Right on contiguous inputs and wrong on the same values with other strides.",
        "Make inputs contiguous before the call, or let the artifact check its strides.",
    ),
    "BATCH_DEPENDENCE": Diagnosis(
        "values",
        "A sample's answer depends on the rest of its batch, and eager's does not.",
        "Quantize activations statically, or run one sample at a time.",
    ),
    "VALUE_MISMATCH": Diagnosis(
        "values",
        "Values differ by more than the budget allows.",
        "Look at the first bad value, and run the reproducer where there is one.",
    ),
    "RUNTIME_FUSION": Diagnosis(
        "values",
        "Right with the engine's graph optimizations off, wrong with them on.",
        "Open the session with the named optimizer disabled, and report it to the engine with the reproducer.",
    ),
    "INT_NARROWING": Diagnosis(
        "values",
        "Integers beyond 2³¹ come out wrapped or saturated.",
        "Keep int64 through the export, or bound the values.",
    ),
    "DISCONTINUITY": Diagnosis(
        "values",
        "Values differ by whole steps at a few elements: floor, round or a comparison sits exactly on its edge.",
        "Nothing, if inputs never sit on the edge; else move the edge away from representable values.",
    ),
    "TIE": Diagnosis(
        "values",
        "An index differs where the scores behind it are equal within the allowed error.",
        "Nothing: either index is right; break ties explicitly if one is wanted.",
    ),
    "FP16_RANGE": Diagnosis(
        "precision",
        "Values inside the float64 network are beyond half of float16's range, or all too small for it.",
        "Rescale the layer that is named, keep it in float32 (op_block_list), or ship bfloat16.",
    ),
    "SATURATION_RISK": Diagnosis(
        "precision",
        "A layer would lose more than the variant may where u8×s8 pairs are added in 16 bits: on x86 without VNNI.",
        "Quantize weights with reduce_range, or run only on CPUs with VNNI.",
    ),
    "WEIGHT_INTEGRITY": Diagnosis(
        "precision",
        "A quantized weight is further from its source than half a step, or a scale or zero point does not fit.",
        "Quantize again: scales and integers do not belong together.",
    ),
    "VARIANT_NOT_APPLIED": Diagnosis(
        "precision",
        "Too exact for its precision, or most weights are still in float.",
        "Leave the variant out, or widen the operators that are converted.",
    ),
    "ALREADY_REDUCED": Diagnosis(
        "precision",
        "The graph to be reduced in precision is quantized or in float16 already.",
        "Start from the float32 model that it was made from.",
    ),
    "SQNR_LOW": Diagnosis(
        "precision",
        "The error drowns too much of the part of the output that depends on the input.",
        "Keep the named nodes in float (--keep-float auto), calibrate on real samples, or choose a wider precision.",
    ),
    "QDQ_MISMATCH": Diagnosis(
        "precision",
        "On the same integers, a fused piece of the deployed graph and its QDQ nodes part by more than two steps.",
        "Open the session at a lower graph level, and report the fusion with the reproducer.",
    ),
    "METRIC_INFERIOR": Diagnosis(
        "precision",
        "Accuracy drops by more than the margin, or decisions differ in more samples than allowed.",
        "Choose a wider precision, keep sensitive nodes in float, or retrain with quantization in the loop.",
    ),
    "SAMPLE_SIZE": Diagnosis(
        "evidence",
        "Too few samples to decide at 95 % confidence.",
        "Give as many labelled samples as the message says.",
    ),
    "PROBE_POWER": Diagnosis(
        "evidence",
        "The inputs cannot tell a faulty artifact from a sound one.",
        "Give real samples with --samples: random inputs hardly move this model.",
    ),
    "GATE_BLIND": Diagnosis(
        "evidence",
        "A mutant that moves the output by three budgets or more passed the gate.",
        "Please report this with the bundle: the gate has a hole.",
    ),
    "BASELINE_DRIFT": Diagnosis(
        "baseline",
        "A value is worse than in the baseline by more than its noise.",
        "Find the change that caused it; accept it with --update-baseline.",
    ),
    "REFERENCE_DRIFT": Diagnosis(
        "baseline",
        "The same weights give another eager answer than when the baseline was written.",
        "Look at the packages that changed; accept it with --update-baseline.",
    ),
    "BASELINE_INPUTS": Diagnosis(
        "baseline",
        "The judged cases ask other inputs than when the baseline was written, so eager cannot be compared.",
        "Export with the same --samples and --seed; if these inputs are meant, --update-baseline takes them.",
    ),
    "BASELINE_OTHER_MODEL": Diagnosis(
        "baseline",
        "The baseline is of other weights than the bundle's.",
        "Name the baseline of this model; if the new weights are meant, verify once with --update-baseline.",
    ),
    "PROVIDER_FALLBACK": Diagnosis(
        "run",
        "The session would have run on another provider than the one asked for.",
        "Install it, or ask for --on cpu.",
    ),
    "EXPORT_ERROR": Diagnosis(
        "run", "The exporter failed.", "Change what the message names, or leave the variant out."
    ),
    "LOAD_ERROR": Diagnosis("run", "The engine does not open the file.", "Export again, or use a newer engine."),
    "RUN_ERROR": Diagnosis(
        "run", "The session failed on an input that eager answers.", "Look at the message: it is the engine's."
    ),
    "WRONG_INPUT_ACCEPTED": Diagnosis(
        "server",
        "The server answers a request with a wrong shape, dtype or name as if it were right.",
        "Declare the tensors in the server's configuration and refuse what does not fit before the engine sees it.",
    ),
    "WRONG_INPUT_CRASHES": Diagnosis(
        "server",
        "A wrong request gets a 5xx, or the server answers nothing after it: callers see an outage, not their mistake.",
        "Check names, dtypes and shapes in the server and answer 4xx.",
    ),
    "CONCURRENT_ANSWERS": Diagnosis(
        "server",
        "Many clients at once get other answers than one alone: rows are mixed up, or batching changes them too much.",
        "Switch the server's batching off to see which; a model that feels its batch must not be batched.",
    ),
    "SERVER_OUTPUTS": Diagnosis(
        "server",
        "The server declares or answers other outputs than the signature has: one is missing, or one is too many.",
        "Give the server this model's outputs by their names in the signature, and see that it serves this model.",
    ),
    "SERVER_UNREACHABLE": Diagnosis(
        "server", "Nobody answers at the URL.", "Start the server, and check host and port: HTTP and gRPC have two."
    ),
    "NOT_READY": Diagnosis(
        "server",
        "The server answers, and has no such model, or the model did not become ready in time.",
        "See what the server logs, and name the model as it is called there with --model-name.",
    ),
    "SERVER_ERROR": Diagnosis(
        "server", "The server answers a right request with a 5xx.", "See what the server logs for this request."
    ),
    "REQUEST_REFUSED": Diagnosis(
        "server",
        "The server answers a right request with a 4xx.",
        "Compare the names, dtypes and dims that the server declares with the signature, and its limits on sizes.",
    ),
    "BAD_ANSWER": Diagnosis(
        "server",
        "The answer is not of the protocol: broken JSON, a size that is not the shape's, another dtype than declared.",
        "Check that the URL leads to an inference server of this protocol and that nothing on the way cuts answers.",
    ),
    "NOT_VERIFIED": Diagnosis(
        "handoff",
        "The variant does not pass the gate with the settings that would be shipped.",
        "See what deploykit verify says of it, and hand over a variant that passes.",
    ),
    "TARGET_CANNOT_SERVE": Diagnosis(
        "handoff",
        "The serving stack would not load this variant, or would load it and serve it wrongly.",
        "Take another variant or another target, or change what the message names.",
    ),
    "TARGET_CANNOT_LOAD": Diagnosis(
        "handoff",
        "The file needs a newer opset or IR than the release's onnxruntime takes, and cannot be exported again here.",
        "Export the model with --target, and hand that bundle over.",
    ),
    "TARGET_TOO_OLD": Diagnosis(
        "handoff",
        "The exporter gave a newer opset or IR than the release takes, though it was asked for an older one.",
        "Name a newer release, or leave this variant out.",
    ),
    "PREFLIGHT_FAILED": Diagnosis(
        "handoff",
        "The file does not open, or does not answer the reference, in the environment that --preflight names.",
        "Read which case differs there, and hand over another variant or name another release with --target.",
    ),
    "TIME_LIMIT": Diagnosis("run", "A step took longer than its limit.", "Use a smaller model or fewer samples."),
    "WORKER_CRASHED": Diagnosis(
        "run",
        "The library underneath crashed on this model.",
        "Leave the variant out, and report the crash to its makers.",
    ),
    "UNTRUSTED_CODE": Diagnosis(
        "run",
        "The file can run code and this machine did not make it.",
        "Give --trust-code if you trust its origin.",
    ),
}


def remedy(code: str) -> str:
    """What to do about `code`; empty for codes that are not in the table."""
    found = CODES.get(code)
    return found.remedy if found else ""
