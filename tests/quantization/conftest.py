"""Quantized files of three small models, made once by the transforms themselves."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest

from deploykit import registry


@pytest.fixture(scope="session")
def quantizable():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "fixtures"))
        import quantizable as found

        yield found
        sys.modules.pop("quantizable", None)


@pytest.fixture(scope="session")
def made(quantizable, tmp_path_factory):
    """`made("cnn")` is the float32 file, `made("cnn", "int8-static")` what a transform makes of it."""
    folder = tmp_path_factory.mktemp("quantized")

    @cache
    def make(name: str, transform: str = "", *keep_float: str) -> Path:
        if not transform:
            return quantizable.MODELS[name](folder / f"{name}.onnx")
        target = folder / f"{name}-{transform}-{'-'.join(keep_float)}.onnx"
        calibration = [quantizable.feeds(name, 32, seed) for seed in (5, 6)]
        registry.load("transforms", transform)(keep_float=keep_float).apply(make(name), target, calibration)
        return target

    return make
