"""Finished variants of the bundle that is about to be replaced, found again by what they were made from.

A variant's key is a digest of everything that its bytes depend on, as far as it can be known: the weights, the code
that was imported to build the model, what eager answered to every case of the reference, the signature, the plugin with
its options, the calibration, what it was made from, the versions of the packages, this machine's CPU, and deploykit
itself. The same key gives the same bytes, so a variant with that key is copied. Only from a bundle that this machine
made: another one may carry any key, and code.
"""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deploykit import plugin_options, registry
from deploykit.bundle import MANIFEST, Bundle, FileRecord, VariantRecord, digest_of
from deploykit.environment import cpu_name, usable_cores
from deploykit.errors import DeploykitError, from_os_error
from deploykit.lines import LINES
from deploykit.model import SourceSpec
from deploykit.pipeline.fitting import ENGINE
from deploykit.pipeline.keep_float import Wanted
from deploykit.plan import PlannedVariant
from deploykit.progress import Progress
from deploykit.publish import made_here
from deploykit.releases import Release

FORM = 1
"""Of the key: another number, and no key of before is found again."""

PACKAGES = (
    "torch", "torchvision", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "onnx-ir", "numpy", "ml_dtypes",
    "protobuf", "safetensors", "scipy", "sympy",
)  # fmt: skip
"""What exporters and transforms compute with, whether or not loading the model imported it."""


@dataclass(frozen=True)
class Ingredients:
    """What all variants of one export have in common.

    Attributes:
        source: what the user named.
        captured: the answer of `capturing:capture`.
        imported: the answer of `imported:imported`, in the process that loaded the model.
        stage: folder of the bundle in the making; its reference is there.
        release: what has to load the ONNX variants, None for nothing older than what the exporter writes.
        keep_float: whether nodes to keep in float are looked for, and what is enough.
    """

    source: SourceSpec
    captured: Mapping[str, Any]
    imported: Mapping[str, Any]
    stage: Path
    release: Release | None = None
    keep_float: Wanted = field(default_factory=Wanted)

    def keys(self, planned: Sequence[PlannedVariant], options: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """The key of every variant.

        Args:
            planned: bases before what is made from them.
            options: what is asked of each variant, by name.
        """
        shared, calibration = self._shared(), ""
        looked = [self.keep_float.auto, self.keep_float.target_db]  # named nodes are among the options
        keys: dict[str, str] = {}
        for variant in planned:
            plugin = registry.load(variant.kind, variant.plugin)
            if getattr(plugin, "needs_calibration", False):
                calibration = calibration or _digests(map(Path, self.captured["calibration"]))
            keys[variant.name] = digest_of_data(
                {
                    "shared": shared,
                    "variant": variant.name,
                    "plugin": [variant.kind, variant.plugin, _origin(plugin)],
                    "options": plugin_options.effective(variant, options.get(variant.name, {})),
                    "base": keys[variant.base] if variant.base else "",
                    "calibration": calibration if getattr(plugin, "needs_calibration", False) else "",
                    "release": asdict(self.release) if self.release and variant.runtime == ENGINE else None,
                    "keep_float": looked if hasattr(plugin, "keep_float") else None,
                }
            )
        return keys

    def _shared(self) -> str:
        source = asdict(self.source)
        source["checkpoint"] = source["checkpoint"] is not None  # its weights are in the digest, its path is not
        return digest_of_data(
            {
                "form": FORM,
                "deploykit": [_version("deploykit"), _own_code()],
                "packages": {name: _version(name) for name in PACKAGES},
                "imported": self.imported,
                "machine": [cpu_name(), usable_cores()],
                "source": [source["kind"], _plain(source.pop("target")), source],
                "weights": self.captured["digest"],
                "signature": self.captured["signature"],
                "preprocessing": self.captured.get("preprocessing"),
                "reference": _digests(sorted((self.stage / "reference").iterdir())),
            }
        )


@dataclass
class Shelf:
    """What an earlier bundle holds that need not be made again.

    Attributes:
        bundle: None where nothing can be taken; `why` then says why, in words for people.
        held: exporters whose variants are not taken, see `settled`.
    """

    bundle: Bundle | None
    why: str = ""
    held: set[str] = field(default_factory=set)

    @classmethod
    def at(cls, target: Path, *, reuse: bool = True) -> Shelf:
        """The shelf of what is at `target`, an empty one where there is nothing, or nothing that can be trusted."""
        if not reuse:
            return cls(None, "--no-reuse")
        if not (target / MANIFEST).is_file():
            return cls(None, "no bundle is there")
        try:
            bundle = Bundle(target)
        except DeploykitError as error:
            return cls(None, f"the bundle there cannot be read: {error.message}")
        return cls(bundle) if made_here(bundle) else cls(None, "this machine did not make the bundle that is there")

    def settled(self, planned: Sequence[PlannedVariant], keys: Mapping[str, str], stage: Path) -> Shelf:
        """This shelf, with a decision on the record of source lines, which several exporters write together.

        Their variants are taken together or not at all: what one of them told cannot be taken out of the record. Where
        they are taken, the record comes along, and exporters that run add to it.
        """
        if self.bundle is None:
            return self
        tellers = {v.name for v in planned if v.kind == "exporters" and _tells(v.plugin)}
        before = {one.name for one in self.bundle.manifest.variants if one.name in _exported(self.bundle) and one.file}
        took_part = {name for name in before if _tells(self.bundle.manifest.variant(name).made_by)}
        hits = {name for name in tellers & took_part if self._record(name, keys[name]) is not None}
        lines = [one for one in self.bundle.manifest.files if one.path == LINES and took_part]
        if hits != took_part or not (self._sound(lines) and self._copied(lines, stage)):
            (stage / LINES).unlink(missing_ok=True)
            self.held = tellers
        return self

    def take(self, name: str, key: str, stage: Path, progress: Progress) -> VariantRecord | None:
        """Copy variant `name` into `stage` where the same was made before; None where it has to be made.

        Every copied file is held to the digest in the manifest; one that is not as recorded is left alone.

        Raises:
            DeploykitError: the copy cannot be written.
        """
        record = None if name in self.held else self._record(name, key)
        if record is None or self.bundle is None:
            return None
        prefix = f"variants/{name}/"
        files = [one for one in self.bundle.manifest.files if one.path.startswith(prefix)]
        there = {path.relative_to(self.bundle.path).as_posix() for path in (self.bundle.path / prefix).rglob("*")}
        if there != {one.path for one in files} or not self._sound(files):
            progress.note(f"{name}: what is there is not as recorded, it is made again")
            return None
        if not self._copied(files, stage):
            shutil.rmtree(stage / prefix, ignore_errors=True)
            progress.note(f"{name}: what is there is not as recorded, it is made again")
            return None
        return record.model_copy(update={"tuned": ()})  # what was tuned is no part of making it

    def _record(self, name: str, key: str) -> VariantRecord | None:
        """The record of a variant that was made with this key."""
        records = self.bundle.manifest.variants if self.bundle is not None else ()
        fitting = (one for one in records if one.name == name and key and one.key == key)
        return next((one for one in fitting if one.status == "ready" and one.file is not None), None)

    def _sound(self, files: Sequence[FileRecord]) -> bool:
        """Whether these are plain files of the recorded sizes: no links, out of the bundle or within it."""
        assert self.bundle is not None
        try:
            infos = [((self.bundle.path / one.path).lstat(), one) for one in files]
            folders = {parent for one in files for parent in Path(one.path).parents if parent != Path()}
            linked = any((self.bundle.path / folder).is_symlink() for folder in folders)
        except OSError:
            return False
        plain = all(stat.S_ISREG(i.st_mode) and i.st_nlink == 1 and i.st_size == one.size for i, one in infos)
        return plain and not linked

    def _copied(self, files: Sequence[FileRecord], stage: Path) -> bool:
        """Copy, then hold the copies to the record: what is checked is what is kept."""
        assert self.bundle is not None
        for one in files:
            target = stage / one.path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.bundle.path / one.path, target, follow_symlinks=False)
            except OSError as error:
                raise from_os_error(error, one.path) from error
            if target.is_symlink() or digest_of(target) != one.sha256:
                return False
        return True


def digest_of_data(data: Any) -> str:
    """sha256 of JSON data, whatever the order of its keys."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def _digests(paths: Any) -> str:
    return digest_of_data([[path.name, digest_of(path)] for path in paths])


def _plain(target: str) -> str:
    """The target without folders: a project may move, and what is in its files is digested."""
    return target.replace("\\", "/").rpartition("/")[2]


def _own_code(package: Path = Path(__file__).parents[1]) -> str:
    """The package's own files: a version number stands still while it is being worked on."""
    files = sorted([*package.rglob("*.py"), *package.glob("*.json")])
    return digest_of_data([[path.relative_to(package).as_posix(), digest_of(path)] for path in files])


def _origin(plugin: type) -> list[str | None]:
    """Where a plugin of others comes from: its package's version and its file; ours is in `_own_code`."""
    import inspect

    top = plugin.__module__.partition(".")[0]
    if top == "deploykit":
        return []
    from importlib.metadata import packages_distributions

    owners = packages_distributions().get(top, [])
    try:
        file = inspect.getsourcefile(plugin)
    except TypeError:
        file = None
    return [plugin.__module__, *(_version(name) for name in owners), digest_of(Path(file)) if file else None]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _tells(plugin: str) -> bool:
    """Whether an exporter writes to the record of source lines; one of others may."""
    if plugin not in registry.names("exporters"):
        return True
    return bool(getattr(registry.load("exporters", plugin), "tells_lines", True))


def _exported(bundle: Bundle) -> set[str]:
    """Variants that an exporter made: a transform's name begins with its base's."""
    return {one.name for one in bundle.manifest.variants if one.made_by == one.name}
