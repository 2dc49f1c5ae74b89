"""Operators of ONNX that onnx's reference implementation computes in Python loops, computed in float64 by torch.

Each function takes the node and its inputs and gives the outputs, or None where it does not cover the case: then the
reference implementation does. The definitions are those of onnx.ai/onnx/operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch.nn import functional

from deploykit.onnx_graph import attribute

if TYPE_CHECKING:
    from onnx import NodeProto

Outputs: TypeAlias = "list[Any] | None"


def _conv(node: NodeProto, given: list[Any]) -> Outputs:
    x, w, b = _tensors(given, 3)
    pads = _pads(node, x.shape[2:], w.shape[2:])
    if pads is None or x.dtype != torch.float64 or not 3 <= x.ndim <= 5:
        return None
    convolve: Callable[..., torch.Tensor] = (functional.conv1d, functional.conv2d, functional.conv3d)[x.ndim - 3]
    n = x.ndim - 2
    strides, dilations = _list(node, "strides", n), _list(node, "dilations", n)
    return _arrays(convolve(_padded(x, pads), w, b, strides, 0, dilations, attribute(node, "group", 1)))


def _conv_transpose(node: NodeProto, given: list[Any]) -> Outputs:
    x, w, b = _tensors(given, 3)
    n = x.ndim - 2
    auto = attribute(node, "auto_pad", b"NOTSET").decode()
    pads = list(attribute(node, "pads", [0] * 2 * n))
    if auto != "NOTSET" or attribute(node, "output_shape") or x.dtype != torch.float64 or not 3 <= x.ndim <= 5:
        return None
    extra = _list(node, "output_padding", n, 0)
    convolve: Callable[..., torch.Tensor] = (
        functional.conv_transpose1d,
        functional.conv_transpose2d,
        functional.conv_transpose3d,
    )[n - 1]
    strides, dilations = _list(node, "strides", n), _list(node, "dilations", n)
    # padding cuts the whole answer, which differs at both ends
    if any(one >= max(stride, dilation) for one, stride, dilation in zip(extra, strides, dilations, strict=True)):
        return None
    whole = convolve(x, w, b, strides, 0, extra, attribute(node, "group", 1), dilations)
    for axis in range(n):
        whole = whole.narrow(axis + 2, pads[axis], whole.shape[axis + 2] - pads[axis] - pads[axis + n])
    return _arrays(whole)


def _max_pool(node: NodeProto, given: list[Any]) -> Outputs:
    x = _tensors(given, 1)[0]
    n = x.ndim - 2
    kernel = list(attribute(node, "kernel_shape"))
    pads = _pads(node, x.shape[2:], kernel)
    if len(node.output) > 1 or pads is None or attribute(node, "ceil_mode", 0) or x.dtype != torch.float64 or n > 3:
        return None
    pool: Callable[..., torch.Tensor] = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[n - 1]
    padded = _padded(x, pads, -torch.inf)
    return _arrays(pool(padded, kernel, _list(node, "strides", n), 0, _list(node, "dilations", n)))


def _average_pool(node: NodeProto, given: list[Any]) -> Outputs:
    x = _tensors(given, 1)[0]
    n = x.ndim - 2
    kernel = list(attribute(node, "kernel_shape"))
    pads = _pads(node, x.shape[2:], kernel)
    if pads is None or attribute(node, "ceil_mode", 0) or x.dtype != torch.float64 or n > 3:
        return None
    if any(one != 1 for one in _list(node, "dilations", n)):
        return None
    pool: Callable[..., torch.Tensor] = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[n - 1]
    strides = _list(node, "strides", n)
    mean = pool(_padded(x, pads), kernel, strides)
    if not attribute(node, "count_include_pad", 0) and any(pads):
        mean = mean / pool(_padded(torch.ones_like(x), pads), kernel, strides)
    return _arrays(mean)


def _erf(_node: NodeProto, given: list[Any]) -> Outputs:
    return _arrays(torch.erf(_tensors(given, 1)[0]))


def _gelu(node: NodeProto, given: list[Any]) -> Outputs:
    return _arrays(functional.gelu(_tensors(given, 1)[0], approximate=attribute(node, "approximate", b"none").decode()))


OPERATORS: dict[str, Callable[[Any, list[Any]], Outputs]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Erf": _erf,
    "Gelu": _gelu,
}
"""By the operator's name in the standard set."""


def follow(node: NodeProto, given: list[Any], followed: dict[str, torch.Tensor]) -> list[torch.Tensor] | None:
    """Answers of operators that choose (ArgMax, TopK) and what only hands these on, as tensors that torch made.

    What watches torch sees so which scores an index was chosen from. None for every other node.
    """
    if node.op_type in {"ArgMax", "ArgMin"} and not attribute(node, "select_last_index", 0):
        choose = torch.argmax if node.op_type == "ArgMax" else torch.argmin
        scores = torch.from_numpy(np.array(given[0]))
        return [choose(scores, attribute(node, "axis", 0), bool(attribute(node, "keepdims", 1)))]
    if node.op_type == "TopK" and len(given) == 2 and attribute(node, "sorted", 1):
        scores, count = torch.from_numpy(np.array(given[0])), int(np.reshape(given[1], ()))
        found = torch.topk(scores, count, attribute(node, "axis", -1), bool(attribute(node, "largest", 1)))
        return [found.values, found.indices]
    tensor = followed.get(node.input[0]) if node.input else None
    if tensor is None or tensor.is_floating_point():
        return None
    return _handed(node, tensor, given)


def _handed(node: NodeProto, tensor: torch.Tensor, given: list[Any]) -> list[torch.Tensor] | None:
    shape = [int(size) for size in np.reshape(given[1], -1)] if len(given) > 1 and given[1] is not None else []
    if node.op_type == "Identity":
        return [tensor.clone()]
    if node.op_type == "Cast" and attribute(node, "to") in {6, 7}:
        return [tensor.to(torch.int64 if attribute(node, "to") == 7 else torch.int32, copy=True)]
    if node.op_type == "Reshape" and 0 not in shape:
        return [tensor.reshape(shape)]
    if node.op_type == "Squeeze" and shape:
        return [tensor.squeeze(tuple(shape))]
    if node.op_type == "Unsqueeze" and len(shape) == 1:
        return [tensor.unsqueeze(shape[0])]
    if node.op_type == "Flatten":
        lead = int(np.prod(tensor.shape[: attribute(node, "axis", 1)], dtype=np.int64))
        return [tensor.reshape(lead, -1)]
    return None


def _tensors(given: Sequence[Any], count: int) -> list[Any]:
    """The inputs as tensors, None where one was left out."""
    padded = [*given, *[None] * (count - len(given))]
    return [torch.from_numpy(np.array(one)) if one is not None else None for one in padded]


def _arrays(*found: torch.Tensor) -> list[Any]:
    return [tensor.numpy() for tensor in found]


def _list(node: NodeProto, name: str, count: int, default: int = 1) -> list[int]:
    return list(attribute(node, name, [])) or [default] * count


def _padded(x: torch.Tensor, pads: list[int], value: float = 0.0) -> torch.Tensor:
    """`x` with ONNX's pads: all beginnings, then all ends, the first axis first; torch wants pairs, the last first."""
    n = len(pads) // 2
    pairs = [pads[axis + side] for axis in reversed(range(n)) for side in (0, n)]
    return functional.pad(x, pairs, value=value) if any(pads) else x


def _pads(node: NodeProto, sizes: Sequence[int], kernel: Sequence[int]) -> list[int] | None:
    """What `pads` says, or `auto_pad` means; None where it is neither."""
    n = len(sizes)
    auto = attribute(node, "auto_pad", b"NOTSET").decode()
    if auto == "NOTSET":
        return [int(one) for one in attribute(node, "pads", [0] * 2 * n)]
    if auto == "VALID":
        return [0] * 2 * n
    if auto not in {"SAME_UPPER", "SAME_LOWER"}:
        return None
    begins, ends = [], []
    rows = zip(sizes, kernel, _list(node, "strides", n), _list(node, "dilations", n), strict=True)
    for size, taps, stride, dilation in rows:
        total = max(0, (-(-size // stride) - 1) * stride + (taps - 1) * dilation + 1 - size)
        less, more = total // 2, total - total // 2
        begins.append(less if auto == "SAME_UPPER" else more)
        ends.append(more if auto == "SAME_UPPER" else less)
    return begins + ends
