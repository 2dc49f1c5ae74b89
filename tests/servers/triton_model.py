"""Stands in for Triton's ONNX Runtime backend, which the wheel does not have: the same file, the same configuration.

Triton's Python backend imports this as the `model.py` of a version. It reads what the real backend reads (its
parameters, `optimization.graph.level`), puts the requests that Triton hands it together along the first axis as that
one does, and prints how the session is open, read back from the engine.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

LEVELS = {-1: "ORT_ENABLE_BASIC", 0: "ORT_ENABLE_ALL", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}
"""As in the real backend; 0 is what protobuf has where nothing is said."""


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        level = config.get("optimization", {}).get("graph", {}).get("level", 0)
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[level])
        options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0))
        options.enable_cpu_mem_arena = parameters.get("enable_mem_arena", "1") == "1"
        options.enable_mem_pattern = parameters.get("enable_mem_pattern", "1") == "1"
        artifact = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = ort.InferenceSession(artifact, options)
        self.inputs = [one["name"] for one in config["input"]]
        self.outputs = [one["name"] for one in config["output"]]
        self.batched = config["max_batch_size"] > 0
        seen = self.session.get_session_options()
        words = [
            f"threads={seen.intra_op_num_threads}",
            f"graph_level={seen.graph_optimization_level.name}",
            f"arena={int(seen.enable_cpu_mem_arena)}",
            f"pattern={int(seen.enable_mem_pattern)}",
        ]
        print(args["model_name"], args["model_version"], "is open:", *words, flush=True)

    def execute(self, requests):
        feeds = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
            for request in requests
        ]
        if not self.batched:
            return [self.response(self.session.run(self.outputs, one)) for one in feeds]
        rows = np.cumsum([len(one[self.inputs[0]]) for one in feeds])[:-1]
        joined = {name: np.concatenate([one[name] for one in feeds]) for name in self.inputs}
        found = [np.split(array, rows) for array in self.session.run(self.outputs, joined)]
        return [self.response(arrays) for arrays in zip(*found, strict=True)]

    def response(self, arrays):
        tensors = [pb_utils.Tensor(name, array) for name, array in zip(self.outputs, arrays, strict=True)]
        return pb_utils.InferenceResponse(tensors)
