import os
import sys
from pathlib import Path

from deploykit.runtimes import eager
from deploykit.runtimes.torch_compile import CACHE, Runtime


def test_no_compiler_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    compiler = "clang++" if sys.platform == "darwin" else "g++"
    assert Runtime().unavailable() == f"torch.compile needs a C++ compiler, and {compiler} is not installed"
    monkeypatch.setenv("CXX", "mine++")
    assert "mine++ is not installed" in Runtime().unavailable()
    (tmp_path / "mine++").write_text("#!/bin/sh\n")
    (tmp_path / "mine++").chmod(0o755)
    assert Runtime().unavailable() is None


def test_compiles_each_shape_from_nothing_and_never_falls_back_in_silence(monkeypatch, tmp_path):
    import torch
    from torch._dynamo import config as dynamo
    from torch._inductor import config as inductor

    module, seen = torch.nn.Linear(2, 2), {}

    def compile_(given, **how):
        seen.update(how, module=given)
        return "compiled"

    monkeypatch.setattr(eager.Runtime, "load", lambda self, artifact, device: module)
    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setenv(CACHE, "somewhere/else")
    mine = {"compile_threads": 2, "cpp_cache_precompile_headers": True}
    theirs = {"fail_on_recompile_limit_hit": False, "recompile_limit": 8}
    with inductor.patch(mine), dynamo.patch(theirs):
        assert Runtime().load(tmp_path / "eager.json", torch.device("cpu")) == "compiled"
        assert dynamo.fail_on_recompile_limit_hit
        assert dynamo.recompile_limit >= 64
        assert inductor.compile_threads == 1
    assert seen == {"module": module, "dynamic": False}
    cache = os.environ[CACHE]
    assert cache.startswith(str(tmp_path / "inductor-"))
    assert list(Path(cache).iterdir()) == []
