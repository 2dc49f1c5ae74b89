"""Every code that can come out has an entry with a rule and a remedy, or is a plain usage error named here."""

import ast
import re
from pathlib import Path

import pytest

import deploykit
from deploykit.diagnosis import CODES, remedy
from deploykit.errors import RefusedError, StorageError, UsageError

PACKAGE = Path(deploykit.__file__).parent
CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
ERRORS = {"DeploykitError", "UsageError", "WorkError", "RefusedError", "StorageError", "InternalError"}

PLACES = {**dict.fromkeys(ERRORS, 3), "Mismatch": 1, "Failure": 0, "mark": 3, "Check": 4, "Drift": 5, "_check": 2}
"""Where a call takes its code, by position."""

ORDINARY = {
    # the request is wrong: the message says it all, there is nothing to diagnose
    "USAGE", "BAD_BATCH", "BAD_CONSTRAINT", "BAD_COUNT", "BAD_EXAMPLE", "BAD_INPUT", "BAD_KEEP_FLOAT", "BAD_LIMIT",
    "BAD_LR", "BAD_MARGIN", "BAD_METRIC", "BAD_OPTION", "BAD_OUTPUT", "BAD_PREPROCESS", "BAD_PROFILE", "BAD_RATE",
    "BAD_RECIPE", "BAD_SAMPLES", "BAD_SCENARIO", "UNKNOWN_OPTION",
    "BAD_SECONDS", "BAD_SETTING", "BAD_SLO", "BAD_SOURCE", "BAD_TRAINING", "DISTRIBUTED", "CHECKPOINT_MISMATCH",
    "NOT_COMPARABLE", "NOT_WITH_TUNE", "OTHER_MACHINE", "QUICK_GATE", "UNKNOWN_GOAL",
    "INPUT_NAMES", "NOTHING_TO_MEASURE", "NOT_A_BUNDLE", "NOT_A_MODULE", "NOT_FOUND", "NO_BUDGET",
    "NO_CALIBRATION", "NO_DATA", "NO_INPUTS", "NO_RECORD", "NO_REFERENCE", "NO_REPORT", "UNKNOWN_CALLABLE",
    "UNKNOWN_DATA",
    "UNKNOWN_LIMIT", "UNKNOWN_MODEL", "UNKNOWN_NODE", "UNKNOWN_PLUGIN", "UNKNOWN_PROVIDER", "UNKNOWN_SCHEMA",
    "UNKNOWN_VARIANT",
    # the address, the name or the token of a server is wrong, or what it is to be asked cannot be said there
    "BAD_CLIENTS", "BAD_HEADER", "BAD_HOST", "BAD_NAME", "BAD_PREFLIGHT", "BAD_TOKEN", "BAD_URL", "NOT_IN_JSON",
    "NO_DATATYPE", "PORT_IN_USE", "PORT_REFUSED", "REMOTE_REFUSED", "UNKNOWN_TARGET",
    # what the embedded server says to its clients, with the HTTP status
    "BAD_HTTP", "LENGTH_REQUIRED", "MALFORMED_REQUEST", "OUTPUT_NAMES", "TOO_LARGE", "TOO_SLOW", "WRONG_HOST",
    "WRONG_METHOD", "WRONG_ORIGIN",
    # files and storage
    "CHANGED", "DISK_FULL", "DOWNLOAD_FAILED", "EXISTS", "LOCKED", "MALFORMED", "PERMISSION", "READ_ONLY", "STORAGE",
    "TAMPERED",
    # the machine, and the user's own code
    "INTERNAL", "MEMORY_LIMIT", "PACKAGE_MISSING", "SOURCE_ERROR", "THREADS_MISMATCH", "TRAINING_DIVERGED",
    "TRAIN_ERROR",
    # a sweep: the matrix is wrong, or the cluster did not carry a cell out
    "BAD_ADDRESS", "BAD_MATRIX", "DIGEST_MISMATCH", "NOT_MEASURED", "NO_CLUSTER", "NO_RESOURCES", "OTHER_PACKAGES",
    "WORKER_LOST",
    # what an engine does not have: one row, or one profile, is missing, and its reason stands there
    "DEVICE_GRAPH", "NO_PROFILER",
    # a mutant that cannot be made says nothing about the artifact, and what failed verify is not measured
    "NO_SITE", "PARITY",
}  # fmt: skip
"""Codes that need no entry."""


GRPC = {
    "ALREADY_EXISTS", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
}  # fmt: skip
LIBTORCH = {
    "DISABLE_CUDNN", "DISABLE_OPTIMIZED_EXECUTION", "ENABLE_CACHE_CLEANING", "ENABLE_JIT_EXECUTOR",
    "ENABLE_JIT_PROFILING", "ENABLE_TENSOR_FUSER", "ENABLE_WEIGHT_SHARING", "INFERENCE_MODE", "INTER_OP_THREAD_COUNT",
    "INTRA_OP_THREAD_COUNT",
}  # fmt: skip
"""Statuses of gRPC, and parameters of Triton's PyTorch backend."""

ONNX = {"SAME_LOWER", "SAME_UPPER"}
"""Values of ONNX's auto_pad."""

HUGGING_FACE = {"HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY"}
OTHER = GRPC | LIBTORCH | ONNX | {"FILE_OR_BUNDLE", "STACK_GLOBAL", "WORLD_SIZE", "OMP_NUM_THREADS"} | HUGGING_FACE
"""Texts in capitals that are no codes: a name in a help text, a pickle's opcode, environment variables."""

SETTINGS = (
    "MKL_",
    "KMP_",
    "OPENBLAS_",
    "CUDA_",
    "DEPLOYKIT_",
    "GITHUB_",
    "TORCHINDUCTOR_",
    "ORT_",
    "SC_",
    "XDG_",
    "LOCAL_",
    "TYPE_",
    "KIND_",
    "TRITON_",
    "RAY_",
)
"""How environment variables, system limits, engine levels and Triton's words begin; its lint has a table of its own."""


def text_of(node):
    """The text of a literal that looks like a code; empty for all else."""
    is_code = isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value)
    return node.value if is_code else ""


def given(call):
    """What a call passes as a code, by keyword or by position: single words are codes only there."""
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    place = PLACES.get(name, len(call.args))
    return [*(k.value for k in call.keywords if k.arg == "code"), *call.args[place : place + 1]]


def single_words(tree):
    """Codes without an underscore, where they are passed, kept in a table of errors or the default of their class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from map(text_of, given(node))
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if getattr(target, "id", "") == "default_code":
                yield text_of(node.value)
            elif getattr(target, "id", "") == "_STORAGE":
                yield from map(text_of, ast.walk(node.value))


def emitted():
    """Every code that is written anywhere in the package, with the files."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path == PACKAGE / "diagnosis.py":
            continue
        tree = ast.parse(path.read_text())
        written = {text for text in map(text_of, ast.walk(tree)) if "_" in text} | {*single_words(tree)} - {""}
        for code in written:
            if code not in OTHER and not code.startswith(SETTINGS):
                found.setdefault(code, set()).add(str(path.relative_to(PACKAGE)))
    return found


EMITTED = emitted()


def test_the_search_finds_codes_wherever_they_are_written():
    wanted = {
        "BAD_SAMPLES",  # fourth argument of an error
        "OUTPUT_ORDER",  # second of a mismatch, and returned beside a reason
        "STATE_LOST",  # fourth of a mark
        "DISCONTINUITY",  # keyword of replace
        "DISK_FULL",  # in a table
        "MALFORMED",  # default of an error class
        "METRIC_INFERIOR",  # assigned beside a verdict
        "RUNTIME_FUSION",  # returned
        "INT_NARROWING",  # in a table of rules
        "SQNR_LOW",
        "PROBE_POWER",
        "TIE",
    }
    assert wanted <= EMITTED.keys()


@pytest.mark.parametrize("code", sorted(EMITTED))
def test_every_code_is_explained_or_ordinary(code):
    assert (code in CODES) != (code in ORDINARY), f"{code} of {sorted(EMITTED[code])}"


def test_no_entry_and_no_exception_is_left_over():
    assert CODES.keys() - EMITTED.keys() == set()
    assert ORDINARY - EMITTED.keys() == set()


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_entry_has_a_rule_and_a_remedy_of_one_sentence(code):
    entry = CODES[code]
    assert CODE.fullmatch(code)
    about = {
        "reference",
        "capture",
        "artifact",
        "values",
        "precision",
        "evidence",
        "baseline",
        "server",
        "handoff",
        "run",
    }
    assert entry.about in about
    for text in (entry.rule, entry.remedy):
        assert 15 <= len(text) <= 200
        assert text[0].isupper() or text.startswith("forward")
        assert text.endswith(".")
        assert "\n" not in text
        assert not re.search(r"[.!?] [A-Z]", text), "more than one sentence"
    assert remedy(code) == entry.remedy


def test_no_two_codes_mean_the_same():
    assert len({entry.rule for entry in CODES.values()}) == len(CODES)
    assert len({entry.remedy for entry in CODES.values()}) == len(CODES)


def test_a_code_that_is_not_in_the_table_has_no_remedy():
    assert remedy("") == remedy("BAD_SAMPLES") == remedy("NO_SUCH_CODE") == ""


def test_default_codes_are_ordinary():
    assert {kind.default_code for kind in (UsageError, StorageError, RefusedError)} <= ORDINARY
