"""The web folder: what its files say, what is refused, and its JavaScript that needs no engine, run by Node."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploykit import registry
from deploykit.bundle import VariantRecord
from deploykit.errors import RefusedError
from deploykit.handoff import web
from deploykit.handoff.interface import Given, Version
from deploykit.session import CUDA, SessionSettings
from deploykit.signature import Dim, Signature, TensorSpec
from tests.servers.browser import program

SIGNATURE = Signature(
    (TensorSpec("tokens", "int64", ("N", "T")), TensorSpec("scale", "float32", ())),
    (TensorSpec("scores", "float32", ("N", "T", 3)), TensorSpec("first", "int64", ("N",))),
    (Dim("N", 1, 16), Dim("T", 2, 128)),
)
TARGET = web.Target()
PAGE = Path(web.__file__).parent / "_web"


@pytest.fixture
def given(tmp_path):
    """Two inputs, a scalar among them, two outputs, a symbolic inner dim, external data."""

    def make(settings=SessionSettings(), numbers=(1,), signature=SIGNATURE, provider=None):  # noqa: B008
        record = VariantRecord(
            name="onnx", status="ready", made_by="onnx", precision="fp32", runtime="onnxruntime",
            file="variants/onnx/net.onnx",
        )  # fmt: skip
        versions = []
        for number in numbers:
            files = {name: tmp_path / str(number) / name for name in ("net.onnx", "net.onnx.data")}
            for path in files.values():
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"weights")
            versions.append(Version(number, record, files, settings))
        return Given("net", signature, tuple(versions), provider=provider or settings.provider)

    return make


def javascript(code, **values):
    """What a module prints as JSON; `values` are its constants."""
    names = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in values.items())
    script = f"{names}{code}"
    argv = [program("node"), "--input-type=module", "-"]
    done = subprocess.run(argv, input=script, capture_output=True, text=True, timeout=60, check=False, cwd=PAGE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_target_is_found_by_its_name():
    assert registry.load("handoff", "web") is web.Target


def test_every_version_is_there_once_with_what_lies_beside_it(given):
    handed = given(numbers=(1, 3))
    tree = TARGET.files(handed)
    assert {path: content for path, content in tree.items() if path.startswith("model/")} == {
        f"model/{version.number}/{name}": path for version in handed.versions for name, path in version.files.items()
    }
    said = json.loads(tree["web.json"])["versions"]
    assert set(said) == {"1", "3"}
    assert said["3"]["model"] == "model/3/net.onnx"
    assert said["3"]["external"] == {"net.onnx.data": "model/3/net.onnx.data"}


def test_the_npm_project_is_the_one_that_is_tested(given):
    tree = TARGET.files(given())
    assert tree["package.json"] == web._PINS / "package.json"
    lock = json.loads(tree["package-lock.json"].read_text())
    pins = json.loads(tree["package.json"].read_text())["dependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", pin) for pin in pins.values())
    packages = {name: one for name, one in lock["packages"].items() if name}
    assert all("integrity" in one and "resolved" not in one for one in packages.values())
    assert {name: packages[f"node_modules/{name}"]["version"] for name in pins} == pins


def test_the_page_loads_nothing_from_elsewhere(given):
    texts = {
        path: content.read_text()
        for path, content in TARGET.files(given()).items()
        if path.endswith((".mjs", ".html", ".css"))
    }
    assert {"index.html", "page.mjs", "run.mjs", "serve.mjs", "model.mjs", "npz.mjs"} <= set(texts)
    for text in texts.values():
        assert [url for url in re.findall(r"https?://[^\s'\"`)]+", text) if "127.0.0.1" not in url] in (
            [],
            ["https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html"],  # a comment
        )
    html = texts["index.html"]
    assert "default-src 'none'" in html
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", html)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (SessionSettings(), {"graphOptimizationLevel": "all", "enableCpuMemArena": True, "enableMemPattern": True}),
        (SessionSettings(threads=3), {"intraOpNumThreads": 3, "interOpNumThreads": 1}),
        (SessionSettings(graph_level="disable"), {"graphOptimizationLevel": "disabled"}),
        (SessionSettings(graph_level="basic"), {"graphOptimizationLevel": "basic"}),
        (SessionSettings(graph_level="extended"), {"graphOptimizationLevel": "extended"}),
        (SessionSettings(spinning=False), {"extra": {"session": {"intra_op": {"allow_spinning": "0"}}}}),
        (SessionSettings(arena=False), {"enableCpuMemArena": False, "enableMemPattern": False}),
    ],
)
def test_settings_are_said_in_the_packages_words(given, settings, options):
    said = json.loads(TARGET.files(given(settings))["web.json"])["versions"]["1"]["session"]
    assert {key: said[key] for key in options} == options
    assert ("intraOpNumThreads" in said) == (settings.threads is not None)


def test_what_cannot_be_said_is_in_a_note(given):
    assert "`binding`" not in "\n".join(TARGET.commands(given()).notes)
    assert "`binding`" in "\n".join(TARGET.commands(given(SessionSettings(binding=True))).notes)


def test_refused(given, monkeypatch):
    wrong = replace(SIGNATURE, outputs=(TensorSpec("z", "complex64", (2,)),))
    cases = (
        (given(SessionSettings(CUDA)), "WebAssembly"),
        (given(signature=wrong), "complex64"),
        (replace(given(), release="24.10"), "24.10 is a server's"),
    )
    for handed, words in cases:
        with pytest.raises(RefusedError, match=words) as caught:
            TARGET.check(handed)
        assert caught.value.code == "TARGET_CANNOT_SERVE"
    TARGET.check(given())
    monkeypatch.setattr(web, "MAX_BYTES", 13)  # the two files hold seven bytes each
    with pytest.raises(RefusedError, match="14 bytes"):
        TARGET.check(given())


DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_read_as_numpy_wrote_it(tmp_path, save):
    random = np.random.default_rng(3)
    arrays = {
        dtype: (random.standard_normal((2, 3)) * 5).astype(dtype) for dtype in DTYPES if not dtype.startswith("u")
    }
    arrays |= {dtype: random.integers(0, 200, (4,)).astype(dtype) for dtype in DTYPES if dtype.startswith("u")}
    arrays["int64"][0, 0], arrays["uint64"][0] = -(2**63), 2**64 - 1
    arrays["float16"][0] = [65504, 6e-8, -0.0]
    arrays |= {"inputs/é.b": np.arange(24, dtype="i2").reshape(2, 3, 4).transpose(2, 0, 1), "scalar": np.float32(1.5)}
    arrays |= {"none": np.zeros((0, 3), "f4"), "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4))}
    save(tmp_path / "a.npz", **arrays)
    code = """
    import { readFileSync } from 'node:fs';
    import { npz, values } from './npz.mjs';
    const found = {};
    for (const [name, array] of Object.entries(await npz(readFileSync(path)))) {
      found[name] = [array.dtype, array.shape, array.data.constructor.name, Array.from(values(array), String)];
    }
    console.log(JSON.stringify(found));
    """
    found = javascript(code, path=str(tmp_path / "a.npz"))
    assert set(found) == set(arrays)
    for name, (dtype, shape, kind, values) in found.items():
        array = np.asarray(arrays[name])
        assert (dtype, shape) == (array.dtype.name, list(array.shape))
        read = [int(text) if array.dtype.kind in "biu" else float(text) for text in values]
        assert read == array.ravel().tolist(), name
        assert {"int64": "BigInt64Array", "uint64": "BigUint64Array", "float16": "Uint16Array"}.get(dtype, kind) == kind


DAMAGES = {
    "cut": lambda raw: raw[:-60],
    "other": lambda raw: b"no",
    "big-endian": lambda raw: raw.replace(b"'<f4'", b"'>f4'"),
    "complex": lambda raw: raw.replace(b"'<f4'", b"'<c8'"),
    "shape": lambda raw: raw.replace(b"(2, 3)", b"(9, 3)"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_no_npz_is_an_error_that_says_so(tmp_path, damage):
    np.savez(tmp_path / "a.npz", a=np.ones((2, 3), "f4"))
    (tmp_path / "b.npz").write_bytes(damage((tmp_path / "a.npz").read_bytes()))
    code = """
    import { readFileSync } from 'node:fs';
    import { npz } from './npz.mjs';
    const found = await npz(readFileSync(path)).then(() => 'read', (error) => [error.name, error.message]);
    console.log(JSON.stringify(found));
    """
    name, said = javascript(code, path=str(tmp_path / "b.npz"))
    assert name == "Error"
    assert re.search("not an .npz|not read here|too early|damaged|larger", said), said


def test_float16_bits_round_as_numpys():
    numbers = [
        0.0,
        -0.0,
        1.0,
        -2.5,
        0.1,
        65504.0,
        65519.9,
        65520.0,
        -1e9,
        6.1e-5,
        6.097e-5,
        5.96e-8,
        2.98e-8,
        2.99e-8,
        1e-9,
    ]
    numbers += [1.00048828125, 1.00146484375, 2047.5, 2.0**-14, *np.random.default_rng(1).normal(0, 10, 400).tolist()]
    code = "import { halfBits } from './npz.mjs'; console.log(JSON.stringify(numbers.map(halfBits)));"
    with np.errstate(over="ignore"):
        right = np.array(numbers).astype(np.float16).view(np.uint16).tolist()
    assert javascript(code, numbers=numbers) == right


FITS = """
import { fits, Refused } from './model.mjs';
const product = (shape) => shape.reduce((a, b) => a * b, 1);
const tokens = (shape, dtype = 'int64', count = product(shape)) => ({ dtype, shape, data: new BigInt64Array(count) });
const scale = { dtype: 'float32', shape: [], data: new Float32Array(1) };
const asked = (feeds) => {
  try {
    return [...fits(signature, feeds)];
  } catch (error) {
    return `${error instanceof Refused} ${error.message}`;
  }
};
console.log(JSON.stringify([
  asked({ tokens: tokens([2, 3]), scale }), asked({ tokens: tokens([2, 3]) }),
  asked({ tokens: tokens([2, 3]), scale, more: scale }), asked({ tokens: tokens([2, 3], 'int32'), scale }),
  asked({ tokens: tokens([2]), scale }), asked({ tokens: tokens([17, 3]), scale }),
  asked({ tokens: tokens([2, 1]), scale }), asked({ tokens: tokens([2, 3], 'int64', 5), scale }),
  asked({ tokens: tokens([2, 3]), scale: { ...scale, shape: [1] } }),
]));
"""


def test_what_does_not_fit_the_signature_is_refused_before_the_engine_sees_it():
    signature = {
        "inputs": [{"name": spec.name, "dtype": spec.dtype, "shape": spec.shape} for spec in SIGNATURE.inputs],
        "dims": [{"name": dim.name, "min": dim.min, "max": dim.max} for dim in SIGNATURE.dims],
    }
    fine, *wrong = javascript(FITS, signature=signature)
    assert fine == [["N", 2], ["T", 3]]
    words = (
        "scale is missing", "no input more", "this is int32", r"shape \[2\]", "N is from 1 to 16", "T is from 2",
        "5 values", r"shape \[1\]",
    )  # fmt: skip
    assert len(wrong) == len(words)
    for said, word in zip(wrong, words, strict=True):
        assert re.match(f"true .*{word}", said), said


JUDGED = """
import { judged } from './check.mjs';
const f32 = (...values) => ({ dtype: 'float32', shape: [values.length], data: Float32Array.from(values) });
const f64 = (...values) => ({ dtype: 'float64', shape: [values.length], data: Float64Array.from(values) });
const i64 = (...values) => ({ dtype: 'int64', shape: [values.length], data: BigInt64Array.from(values) });
const f16 = { dtype: 'float16', shape: [2], data: Uint16Array.from([0x3c00, 0x4000]) };
console.log(JSON.stringify([
  judged(f64(1, 2), f32(1, 2.5), 'float32', 0.36), judged(f64(1, 2), f32(1, 2.5), 'float32', 0.35),
  judged(f64(1, 2), f32(1, NaN), 'float32', 9), judged(f64(1, 2), f32(1), 'float32', 9),
  judged(f64(1, 2), f64(1, 2), 'float32', 9), judged(i64(9007199254740993n), i64(9007199254740993n), 'int64', null),
  judged(i64(9007199254740993n), i64(9007199254740992n), 'int64', null),
  judged(f64(1, 2), f16, 'float16', 0), judged(f64(), f32(), 'float32', 0),
]));
"""


def test_answers_are_held_to_their_limits():
    found = javascript(JUDGED)
    assert [fine for fine, _ in found] == [True, False, False, False, False, True, False, True, True]
    assert [said for _, said in found][1:5] == [
        "error 0.354, limit 0.350", "not finite", "shape [1] instead of [2]", "float64 instead of float32",
    ]  # fmt: skip


TYPED = """
import { parsed, textOf } from './arrays.mjs';
const read = ([dtype, text]) => {
  try {
    const array = parsed({ name: 'x', dtype }, text);
    return [array.shape, Array.from(array.data, String), textOf(array)];
  } catch (error) { return error.message; }
};
console.log(JSON.stringify(texts.map(read)));
"""


def test_typed_values_become_arrays_or_an_error_that_says_why():
    good = [
        ("float32", "[[1, 0.1], [3e2, -4]]"), ("int64", "[9007199254740993, -9223372036854775808]"),
        ("bool", "[true, 0, 1]"), ("uint8", "255"), ("float16", "[[0.5]]"), ("float32", "[]"),
    ]  # fmt: skip
    bad = [
        ("float32", "[1, 2"), ("float32", "[[1], [2, 3]]"), ("float32", "[[1], 2]"), ("float32", '["1"]'),
        ("int8", "[128]"), ("int32", "[1.5]"), ("uint64", "[-1]"), ("int64", "[1.5]"), ("bool", "[2]"),
        ("float32", "null"),
    ]  # fmt: skip
    found = javascript(TYPED, texts=good + bad)
    assert [one[:2] for one in found[: len(good)]] == [
        [[2, 2], ["1", "0.10000000149011612", "300", "-4"]], [[2], ["9007199254740993", "-9223372036854775808"]],
        [[3], ["1", "0", "1"]], [[], ["255"]], [[1, 1], [str(0x3800)]], [[0], []],
    ]  # fmt: skip
    assert found[0][2] == "[[1, 0.1],\n[300, -4]]"
    for said, (dtype, _) in zip(found[len(good) :], bad, strict=True):
        assert isinstance(said, str), dtype
        assert re.search("no JSON|not even|is no ", said), said
