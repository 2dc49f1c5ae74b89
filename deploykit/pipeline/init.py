"""`deploykit init`: load a source as an export would, and write a recipe for it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploykit import plan, plugin_options, recipe_text
from deploykit.errors import UsageError
from deploykit.inputs import Samples
from deploykit.isolation import Pool
from deploykit.model import SourceSpec
from deploykit.pipeline import capturing
from deploykit.pipeline.export import generous
from deploykit.plan_results import InitReport
from deploykit.progress import Progress
from deploykit.recipe import Recipe
from deploykit.recipe_keys import NAMES_NO_FILE
from deploykit.writing import check_file, write_text


@dataclass(frozen=True)
class InitRequest:
    """What to write a recipe for, and where to.

    Attributes:
        file: the recipe.
        variants: `core`, `all` or a comma-separated list; the recipe names them one by one.
        samples: `.npz` with real inputs, or None.
        release: what has to load the ONNX variants, `ort:1.19`, or None.
        bundle: where the bundle will go; None is `artifacts/NAME` beside the recipe.
        force: replace the file that is there.
    """

    source: SourceSpec
    file: Path
    variants: str = "core"
    samples: Path | None = None
    release: str | None = None
    bundle: Path | None = None
    force: bool = False


def init(request: InitRequest, progress: Progress) -> InitReport:
    """Write the recipe, with the inputs that the loaded model has.

    Raises:
        UsageError: EXISTS, the file is there; or what is named does not exist.
        DeploykitError: the model cannot be loaded or exported, or the file cannot be written.
    """
    planned = plan.select(request.variants)
    _check_place(request)
    check_file(request.file)
    if request.samples is not None:
        Samples.load(request.samples)
    progress.stage("init", 2)
    with Pool(generous()) as pool:
        found: dict[str, Any] = pool.worker("torch").call(
            "describing:describe", timeout_s=capturing.SECONDS, source=asdict(request.source)
        )
    progress.step(f"loaded {request.source.name}: {found['parameters']:,} parameters")
    draft = recipe_text.Draft(
        file=request.file.name,
        source=_told(request.source, request.file.parent),
        seed=request.source.seed,
        checkpoint=_from(request.source.checkpoint, request.file.parent),
        inputs=tuple(found["inputs"]),
        inputs_given=found["given"],
        outputs=tuple(found["outputs"]),
        samples=_from(request.samples, request.file.parent),
        release=request.release,
        variants={variant.name: plugin_options.effective(variant, {}) for variant in planned},
        output=_from(request.bundle, request.file.parent) or f"artifacts/{request.source.name}",
        trust_code=request.source.trust_code,
        preprocess=request.source.preprocess,
    )
    text = recipe_text.render(draft)
    Recipe.parse(text, request.file.parent, str(request.file))  # what is written can be read
    _check_place(request)
    write_text(request.file, text)
    progress.step(f"wrote {request.file}")
    return InitReport(str(request.file), draft.source, draft.inputs, draft.outputs, found["parameters"])


def _check_place(request: InitRequest) -> None:
    if not request.force and (request.file.exists() or request.file.is_symlink()):
        hint = "replace it with --force, or choose another path with -o"
        raise UsageError(str(request.file), "a file is there already", hint, "EXISTS")


def _told(source: SourceSpec, folder: Path) -> str:
    """SOURCE as it is to stand in a recipe in `folder`: files relative to that."""
    if not source.target:
        return source.kind
    file, rest = source.parted
    is_file = file.endswith(".py") or (source.kind not in {*NAMES_NO_FILE, "python"} and Path(file).exists())
    return f"{source.kind}:{_from(file, folder) if is_file else file}{rest}"


def _from(path: Path | str | None, folder: Path) -> str | None:
    """A path as seen from the recipe's folder; an absolute one stays as it is."""
    if path is None:
        return None
    return str(path) if Path(path).is_absolute() else os.path.relpath(path, folder).replace(os.sep, "/")
