"""Same input, same versions: the same bytes, from anywhere. And nothing of this machine is in them."""

from __future__ import annotations

import getpass
import re
import shutil
import site
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from deploykit.bundle import MANIFEST, Bundle


@pytest.fixture(scope="module")
def twice(cli, tmp_path_factory) -> tuple[Path, Path]:
    """One checkpoint, exported from two directories, under two hash seeds, two homes, two temporary directories."""
    base = tmp_path_factory.mktemp("twice")
    done = cli("train", "-o", base / "mlp.safetensors", "--epochs", "2")
    assert done.returncode == 0, done.stderr
    made = []
    for seed in ("1", "77"):
        place = base / f"somewhere-{seed}"
        for folder in ("tmp", "home", "deep/er"):
            (place / folder).mkdir(parents=True)
        own = shutil.copy(base / "mlp.safetensors", place / f"weights-{seed}.safetensors")
        done = cli(
            "export", "mlp", "--checkpoint", own, "-o", place / "deep" / "mlp", cwd=place / "deep" / "er",
            PYTHONHASHSEED=seed, HOME=str(place / "home"), TMPDIR=str(place / "tmp"), USER=f"somebody{seed}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made.append(place / "deep" / "mlp")
    return made[0], made[1]


def test_the_same_checkpoint_gives_the_same_bundle_byte_for_byte(twice):
    first, second = (Bundle(path) for path in twice)
    assert {v.status for v in first.manifest.variants} == {"ready"}
    assert len(first.manifest.variants) == 6
    different = [a.path for a, b in zip(first.manifest.files, second.manifest.files, strict=True) if a != b]
    assert different == []
    assert (twice[0] / MANIFEST).read_text() == (twice[1] / MANIFEST).read_text()
    assert first.digest == second.digest


def test_a_module_of_the_users_own_gives_the_same_bundle_from_another_folder(cli, tiny_source, tiny_bundle, tmp_path):
    shutil.copy(tiny_source.split(":")[1], tmp_path / "tiny.py")
    (tmp_path / "out").mkdir()
    done = cli(
        "export", "python:tiny.py:build", "-o", "out/tiny", "--variants", "torchscript,torch-export,onnx",
        cwd=tmp_path, PYTHONHASHSEED="5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    other = Bundle(tmp_path / "out" / "tiny")
    records = zip(Bundle(tiny_bundle).manifest.files, other.manifest.files, strict=True)
    assert [a.path for a, b in records if a != b] == []
    assert Bundle(tiny_bundle).digest == other.digest


def test_another_seed_gives_another_bundle(cli, tiny_source, tiny_bundle, tmp_path):
    """The comparison above can tell bundles apart."""
    done = cli("export", tiny_source, "-o", tmp_path / "tiny", "--variants", "torchscript", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert Bundle(tmp_path / "tiny").digest != Bundle(tiny_bundle).digest


def of_this_machine() -> dict[str, bytes]:
    texts = {
        "home": str(Path.home()),
        "temporary directory": tempfile.gettempdir(),
        "working directory": str(Path.cwd()),
        "prefix": sys.prefix,
        "base prefix": sys.base_prefix,
        "site-packages": site.getsitepackages()[0],
        "any site-packages": "site-packages",
        "a traceback": 'File "',
        "a staging directory": ".staging-",
        "user": f"/{getpass.getuser()}/",
    }
    return {name: text.encode() for name, text in texts.items()}


def contents(bundle: Path) -> list[tuple[str, bytes]]:
    """Every file, and what is inside the archives among them."""
    found = []
    for path in sorted(p for p in bundle.rglob("*") if p.is_file()):
        name = path.relative_to(bundle).as_posix()
        found.append((name, path.read_bytes()))
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found += [(f"{name}:{entry}", entry.encode() + archive.read(entry)) for entry in archive.namelist()]
    return found


def leaks(bundle: Path, *more: str) -> list[str]:
    looked_for = {**of_this_machine(), **{text: text.encode() for text in more}}
    found = [f"{name}: {what}" for name, content in contents(bundle) for what, t in looked_for.items() if t in content]
    wide = [(name, content.replace(b"\0", b"")) for name, content in contents(bundle) if b"/\0" in content]
    return found + [f"{name}: {what}" for name, content in wide for what, t in looked_for.items() if t in content]


def test_no_path_of_this_machine_is_in_any_file_of_a_bundle(twice):
    assert leaks(twice[0], "somewhere-1", "weights-1", "somebody1") == []


def test_no_path_of_the_users_code_is_in_any_file_of_a_bundle(tiny_bundle, tiny_source):
    assert leaks(tiny_bundle, str(Path(tiny_source.split(":")[1]).parent)) == []


def test_the_bundle_and_reports_of_a_whole_run_hold_no_path_either(seed_bundle):
    assert leaks(seed_bundle, seed_bundle.parent.name + "/") == []


def test_the_search_for_leaks_finds_one_in_a_file_and_in_an_archive(tmp_path):
    (tmp_path / "plain").write_bytes(b"\0\1" + str(Path.home()).encode())
    with zipfile.ZipFile(tmp_path / "packed", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", f"{sys.prefix}/lib")
    assert {leak.split(":")[0] for leak in leaks(tmp_path)} == {"plain", "packed"}


def test_no_time_is_in_a_manifest(twice):
    assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", (twice[0] / MANIFEST).read_text())
