"""The eager module under `torch.compile`, a second base line of bench; its artifact is that of the eager runtime."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from deploykit.runtimes import eager

if TYPE_CHECKING:
    import torch

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Where inductor, and triton under it, keep what they built."""


@dataclass(frozen=True)
class Runtime(eager.Runtime):
    """`torch.compile(module, dynamic=False)` in its default mode: a program of its own for every shape of the inputs.

    A shape is compiled when `prepare` or `run` meets it first, from nothing: the cache lies in a new folder beside the
    artifact, for whoever wrote the artifact to remove. Inductor's defaults hold but for two that change no program: it
    compiles in this process instead of a pool, and does without precompiled headers, which pay over many models only.
    """

    builds: ClassVar[bool] = True

    def unavailable(self) -> str | None:
        """Why this engine cannot be used here; None when it can."""
        if missing := super().unavailable():
            return missing
        compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
        return (
            None if shutil.which(compiler) else f"torch.compile needs a C++ compiler, and {compiler} is not installed"
        )

    def load(self, artifact: Path, device: torch.device) -> Callable[..., Any]:
        """The module of the eager runtime, compiled for each new shape at its first call."""
        module = super().load(artifact, device)
        os.environ[CACHE] = tempfile.mkdtemp(prefix="inductor-", dir=artifact.parent)
        import torch
        from torch._dynamo import config as dynamo
        from torch._inductor import config as inductor

        inductor.compile_threads = 1
        inductor.cpp_cache_precompile_headers = False
        # past the limit dynamo would run eager without a word
        dynamo.fail_on_recompile_limit_hit = True
        dynamo.recompile_limit = dynamo.accumulated_recompile_limit
        compiled: Callable[..., Any] = torch.compile(module, dynamic=False)
        return compiled
