"""The pytest fixture `parity`: a test that fails when an export of a live module does not compute what the module does.

pytest finds it by the entry point `pytest11`. Nothing but pytest is imported until a test calls the fixture.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    import torch

    from deploykit.results import VerifyReport


@dataclass(frozen=True)
class Parity:
    """What the fixture gives to a test: a call exports a live module to a temporary bundle and holds it to eager."""

    _folders: pytest.TempPathFactory

    def __call__(
        self,
        module: torch.nn.Module | str,
        inputs: Any = None,
        variants: Sequence[str] | str = ("onnx",),
        samples: str | Path | Mapping[str, Any] | None = None,
        limits: Mapping[str, float] | None = None,
        inconclusive: Literal["fail", "warn"] = "fail",
    ) -> VerifyReport:
        """Export `module`, verify every variant, and fail the test where one does not pass.

        Args:
            module: an `nn.Module` in eval mode, which is left as it was, or a SOURCE text as on the command line.
            inputs: example inputs, as `deploykit.export` takes them; None for a SOURCE that knows its own.
            variants: names, or `core`.
            samples: an `.npz` file with real inputs, or the arrays themselves by name; `labels` where there are any.
            limits: changes to the budgets, `{"max_r": 6.0}`.
            inconclusive: `warn` lets a test pass in which the data does not decide.

        Returns:
            The report, for further assertions.
        """
        from deploykit import api
        from deploykit.errors import DeploykitError

        folder = self._folders.mktemp("parity")
        name = module.rpartition(":")[2] if isinstance(module, str) else type(module).__name__
        said = ""
        try:
            file = _file(samples, folder)
            with _quiet():
                bundle = api.export(module, inputs, folder / name, variants=variants, samples=file)
            report = api.verify(bundle.path, limits=limits)
        except DeploykitError as error:
            said = str(error)
        if said:  # outside of the except: pytest would print the whole chain
            pytest.fail(said, pytrace=False)
        if report.exit_code and not (report.exit_code == 3 and inconclusive == "warn"):
            pytest.fail(_told(report), pytrace=False)
        return report


@pytest.fixture
def parity(tmp_path_factory: pytest.TempPathFactory) -> Parity:
    """Export a live module to a temporary bundle and hold each variant to it; see `deploykit.pytest_plugin.Parity`."""
    return Parity(tmp_path_factory)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's trace log, of which pytest would print dozens of empty lines below a failure.

    torch logs there whatever the level is, so pytest's handlers are taken off; one of TORCH_TRACE stays.
    """
    log = logging.getLogger("torch.__trace")
    taken = [handler for handler in log.handlers if type(handler).__module__.startswith("_pytest")]
    for handler in taken:
        log.removeHandler(handler)
    try:
        yield
    finally:
        for handler in taken:
            log.addHandler(handler)


def _file(samples: str | Path | Mapping[str, Any] | None, folder: Path) -> Path | None:
    """The samples as a file, written when they are arrays."""
    if samples is None or isinstance(samples, str | Path):
        return None if samples is None else Path(samples)
    import numpy as np

    np.savez(folder / "samples.npz", allow_pickle=False, **samples)
    return folder / "samples.npz"


def _told(report: VerifyReport) -> str:
    """The text report, without the variants that passed."""
    from deploykit.report import text

    bad = tuple(variant for variant in report.variants if variant.exit_code)
    return text.render_verify(replace(report, variants=bad or report.variants))
