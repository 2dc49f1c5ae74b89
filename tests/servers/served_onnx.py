"""What every server of a handoff's `onnx_model.py` has to answer; a subclass says what is its own."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np
import pytest

from deploykit.endpoint import Wire, connect
from deploykit.errors import WorkError
from tests.servers.blocks import blocks
from tests.servers.onnx_folders import EXAMPLES, WRONG, There, rms, tensor

OPEN = "is open: provider=CPUExecutionProvider"

NET = {
    "tokens": np.array([[1, -2, 2**62], [6, 5, 4]], np.int64),
    "scale": np.array(0.5, np.float32),
    "mask": np.array([True, False, True]),
}
RIGHT = {"scores": ["float32", [[0.5, 0.0, 2.0**61], [3.0, 0.0, 2.0]]], "largest": ["int64", [2**62, 6]]}
"""What the model `net` answers to it: dtype and values of each output."""


class Served:
    """Tests of a module-scoped fixture `there`: versions 1 and 2 of `tiny`, `changed` with other weights, and `net`.

    Attributes:
        wires: ways in which tensors travel over HTTP.
        named: what the server calls the two versions in its log.
    """

    wires: ClassVar[tuple[Wire, ...]]
    named: ClassVar[tuple[str, str]]

    def test_the_example_types_what_the_folder_says(self, there: There):
        assert blocks(EXAMPLES / there.stack / "README.md")[2:5] == blocks(there.folder / "README.md")

    @pytest.mark.parametrize("more", [(), ("--version", "1"), ("--version", "2")], ids=["latest", "1", "2"])
    def test_check_passes(self, there: There, more: tuple[str, ...]):
        done = there.check(*more)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "all answers within their limits" in done.stdout
        assert "refused: HTTP 400" in done.stdout

    def test_a_changed_weight_is_found(self, there: There):
        done = there.check("--model", "changed")
        assert done.returncode == 1, done.stdout + done.stderr
        assert "FAIL" in done.stdout

    def test_the_settings_reach_the_engine(self, there: There):
        log, (first, second) = there.server.log.read_text(), self.named
        assert f"{first} {OPEN} threads=2 graph_level=ORT_ENABLE_BASIC spinning=1 arena=1" in log
        assert f"{second} {OPEN} threads=1 graph_level=ORT_ENABLE_EXTENDED spinning=0 arena=0" in log

    @pytest.mark.parametrize("version", ["", "1", "2"])
    def test_the_endpoint_gets_the_reference(self, there: There, version: str):
        _, x, expected, limit = there.case()
        for wire in self.wires:
            endpoint = connect(there.url, "tiny", version=version, wire=wire)
            try:
                assert endpoint.ready(5)
                answer = endpoint.infer({"x": x})
                facts = endpoint.model_facts()
            finally:
                endpoint.close()
            assert answer["output"].dtype == np.float32
            assert rms(expected, answer["output"]) <= limit
            assert (facts.name, facts.versions) == ("tiny", ("1", "2"))
            assert [str(spec) for spec in facts.inputs] == ["x:float32[x.0,6]"]
            assert [str(spec) for spec in facts.outputs] == ["output:float32[output.0,3]"]

    def test_who_names_no_version_gets_the_latest(self, there: There):
        def number(path: str) -> str:
            status, text = there.post({"inputs": [tensor()]}, path)
            assert status == 200, text
            return str(json.loads(text)["model_version"])

        assert number("/v2/models/tiny/infer") == "2"
        assert number("/v2/models/tiny/versions/1/infer") == "1"
        assert number("/v2/models/tiny/versions/2/infer") == "2"
        assert there.post({"inputs": [tensor()]}, "/v2/models/tiny/versions/3/infer")[0] == 404
        assert there.post({"inputs": [tensor()]}, "/v2/models/other/infer")[0] == 404

    def test_data_may_be_nested_and_whole_numbers(self, there: There):
        flat, nested = (
            json.loads(there.post({"inputs": [tensor(data=data)]})[1])["outputs"]
            for data in ([1.0] * 12, [[1] * 6] * 2)
        )
        assert flat == nested
        assert flat[0]["shape"] == [2, 3]

    def test_scalars_booleans_and_large_integers_travel(self, there: There):
        for wire in self.wires:
            endpoint = connect(there.url, "net", wire=wire)
            try:
                answer = endpoint.infer(NET)
                facts = endpoint.model_facts()
            finally:
                endpoint.close()
            assert {name: [array.dtype.name, array.tolist()] for name, array in answer.items()} == RIGHT
            assert [str(one) for one in facts.inputs] == [
                "tokens:int64[tokens.0,tokens.1]", "scale:float32[]", "mask:bool[mask.0]",
            ]  # fmt: skip

    def test_a_dim_that_two_inputs_share_has_one_size(self, there: There):
        endpoint = connect(there.url, "net", wire="json")
        try:
            with pytest.raises(WorkError, match=r"answers 400: input mask has the shape \[T\], not \[2\]"):
                endpoint.infer({**NET, "mask": NET["mask"][:2]})
        finally:
            endpoint.close()

    def test_grpc(self, there: There):
        _, _, expected, limit = there.case()
        seen = there.over_grpc()
        assert seen["ready"]
        assert seen["net"] == RIGHT
        assert seen["inputs"] == [["x", "float32", 2]]
        for version in ("latest", "1", "2"):
            assert isinstance(seen[version], dict), seen[version]
            assert rms(expected, seen[version]["output"]) <= limit
        as_bytes, shape, numbers = seen["numbers"]  # who sends numbers gets numbers
        assert (as_bytes, shape) == (0, [3, 3])
        assert rms(expected, np.reshape(numbers, shape)) <= limit
        for what, said in seen["wrong"].items():
            status = 404 if what == "version" else 400
            assert said == status or str(said).startswith(f"REQUEST_REFUSED answers {status}"), (what, said)

    @pytest.mark.parametrize("body", WRONG.values(), ids=WRONG.keys())
    def test_a_wrong_request_is_refused(self, there: There, body: Any):
        status, text = there.post(body)
        assert status in {400, 422}, text
        assert there.post({"inputs": [tensor()]})[0] == 200  # and the next one is answered

    def test_verify_over_the_wire(self, there: There, cli):
        words = blocks(EXAMPLES / there.stack / "README.md")[5].replace("${PORT:-8080}", str(there.port)).split()
        assert words[0] == "deploykit"
        done = cli(*words[1:], cwd=there.folder.parents[1])
        assert done.returncode == 0, done.stdout + done.stderr
