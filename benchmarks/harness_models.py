"""The networks that `harness.py` times: the seed model and one of about 1 ms, as ONNX and as TorchScript."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from deploykit.reference import save_arrays

SEED = (784, 128, 10)
WIDTH, LAYERS, ROWS = 256, 12, 64
SLOW = (WIDTH,) * (LAYERS + 1)
"""About 1 ms on one core for `ROWS` rows, with weights of 3 MiB: one that reads memory measures the neighbours."""


def seed_model(folder: Path) -> Path:
    """The seed MLP as ONNX: 784-128-10 with log-softmax, random weights, which take the same time as trained ones."""
    return network(folder / "seed.onnx", SEED)


def slow_model(folder: Path) -> Path:
    """About 1 ms on one core."""
    return network(folder / "slow.onnx", SLOW)


def network(path: Path, widths: tuple[int, ...]) -> Path:
    """Linear layers of these widths with ReLU between and log-softmax at the end; x float32[N, first], y [N, last]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for index, (rows, columns) in enumerate(pairwise(widths)):
        weight = generator.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(rows, dtype=np.float32)
        weights += [numpy_helper.from_array(weight, f"w{index}")]
        weights += [numpy_helper.from_array(np.zeros(columns, np.float32), f"b{index}")]
        nodes.append(helper.make_node("Gemm", [value, f"w{index}", f"b{index}"], [f"h{index}"]))
        last = index == len(widths) - 2
        value = "y" if last else f"r{index}"
        nodes.append(helper.make_node("LogSoftmax" if last else "Relu", [f"h{index}"], [value]))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", widths[0]])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", widths[-1]])
    graph = helper.make_graph(nodes, "network", [given], [answer], weights)
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def feeds(folder: Path, width: int, rows: int = 1) -> Path:
    """Four sets of so many rows."""
    path = folder / f"feeds-{width}.safetensors"
    generator = np.random.default_rng(1)
    save_arrays({f"{index}/x": generator.standard_normal((rows, width), dtype=np.float32) for index in range(4)}, path)
    return path


def scripted(folder: Path, widths: tuple[int, ...]) -> Path:
    """The same network as TorchScript."""
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    for rows, columns in pairwise(widths):
        layers += [nn.Linear(rows, columns), nn.ReLU()]
    module = nn.Sequential(*layers[:-1], nn.LogSoftmax(dim=1)).eval()
    path = folder / f"{len(widths)}.pt"
    torch.jit.save(torch.jit.freeze(torch.jit.trace(module, torch.zeros(1, widths[0]))), path)
    return path
