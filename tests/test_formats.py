"""A file is what its bytes say. Nothing here is loaded, so the canaries in these files can only fire by a mistake."""

import io
import pickle
import struct
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploykit.errors import RefusedError, UsageError
from deploykit.formats import recognize

KNOWN = {"onnxruntime", "torchscript", "torch-export"}

ONNX = b"\x08\x0a\x12\x07pytorch\x3a\x00"
"""ir_version 10, producer_name, an empty graph."""

TORCHSCRIPT = {"m/data.pkl": b"x", "m/constants.pkl": b"x", "m/code/__torch__.py": b"x"}
PT2 = {"m/archive_format": b"pt2", "m/models/model.json": b"{}", "m/data/weights/weight_0": b"x"}
STATE_DICT = {"m/data.pkl": b"x", "m/data/0": b"x", "m/version": b"3"}


def archive(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as opened:
        for name, content in entries.items():
            opened.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["model.onnx", "model.pt", "readme.txt", "no-ending"])
@pytest.mark.parametrize(
    ("content", "runtime"),
    [
        (ONNX, "onnxruntime"),
        (archive(TORCHSCRIPT), "torchscript"),
        (archive(PT2), "torch-export"),
        (archive({"serialized_exported_program.json": b"{}"}), "torch-export"),
    ],
)
def test_the_content_decides_and_never_the_name(tmp_path, name, content, runtime):
    (tmp_path / name).write_bytes(content)
    assert recognize(tmp_path / name) == runtime


def test_real_artifacts_are_recognized(tiny_bundle):
    found = {path.parent.name: recognize(path) for path in (tiny_bundle / "variants").glob("*/model.*")}
    assert found == {"onnx": "onnxruntime", "torchscript": "torchscript", "torch-export": "torch-export"}


def test_code_before_or_behind_data_counts_as_code(tmp_path):
    """A file that is two things at once is treated as the more dangerous one."""
    path = tmp_path / "model.onnx"
    path.write_bytes(ONNX + archive(TORCHSCRIPT))
    assert recognize(path) == "torchscript"


class Canary:
    def __reduce__(self):
        return (open, ("canary", "w"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"import torch\n", "is a text file"),
        ("größer als\n".encode(), "is a text file"),
        (b"\x08", "no artifact"),
        (b"\x80\x02}q\x00.", "no artifact"),
        (pickle.dumps(Canary()), "no artifact"),
        (struct.pack("<Q", 2) + b"{}", "no artifact"),
        (b"\x7fELF\x02\x01\x01", "no artifact"),
        (archive(STATE_DICT), "neither TorchScript nor torch.export"),
        (archive({}), "neither TorchScript nor torch.export"),
        (archive(TORCHSCRIPT, zipfile.ZIP_LZMA), "compressed"),
        (archive(TORCHSCRIPT | {"m/data/0": bytes(65 << 20)}, zipfile.ZIP_DEFLATED), "unpacks to"),
        (archive(TORCHSCRIPT | {"m/../../x": b"x"}), "points outside"),
        (archive(TORCHSCRIPT | {"/etc/passwd": b"x"}), "points outside"),
        (archive(TORCHSCRIPT)[:-10], "no artifact"),
        (archive(TORCHSCRIPT)[200:], "broken zip archive"),
    ],
)
def test_what_is_no_artifact_is_refused_with_the_reason(tmp_path, content, said):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(RefusedError, match=said) as caught:
        recognize(path)
    assert caught.value.exit_code == 5
    assert not (tmp_path / "canary").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_doubled_entries_is_refused(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for _ in range(2):
            for name, content in TORCHSCRIPT.items():
                opened.writestr(name, content)
    (tmp_path / "x").write_bytes(stream.getvalue())
    with pytest.raises(RefusedError, match="doubled"):
        recognize(tmp_path / "x")


def test_an_archive_that_would_unpack_to_more_than_it_holds_is_refused(tmp_path):
    path = tmp_path / "x"
    content = bytearray(archive(TORCHSCRIPT))
    entry = content.index(b"PK\x01\x02")
    struct.pack_into("<I", content, entry + 24, 1 << 30)  # only the size after unpacking
    path.write_bytes(content)
    with pytest.raises(RefusedError, match="two sizes"):
        recognize(path)
    struct.pack_into("<II", content, entry + 20, 1 << 30, 1 << 30)  # both
    path.write_bytes(content)
    with pytest.raises(RefusedError, match="over each other"):
        recognize(path)


def test_a_missing_file_or_a_directory_is_a_usage_error(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError) as caught:
            recognize(path)
        assert caught.value.code == "NOT_FOUND"


def _answer(path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        said = recognize(path)
    except RefusedError as error:
        said = str(error)
    assert said in KNOWN or (len(said) <= 400 and "\n" not in said)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), head=st.sampled_from([b"", b"\x08\x08", b"PK\x03\x04", b"PK\x05\x06"]))
def test_any_bytes_are_known_or_refused(tmp_path, content, head):
    _answer(tmp_path / "x", head + content)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    kind=st.sampled_from([TORCHSCRIPT, PT2]),
    cut=st.integers(0, 40),
)
def test_any_mutant_of_an_archive_is_known_or_refused(tmp_path, places, kind, cut):
    content = bytearray(archive(kind))
    for place, byte in places:
        content[-(place % len(content)) - 1] = byte
    _answer(tmp_path / "x", bytes(content[: len(content) - cut]))
