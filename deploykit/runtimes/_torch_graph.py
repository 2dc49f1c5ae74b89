"""A torch call recorded as a CUDA graph: one launch replays all kernels. It imports torch at the top, as `_torch.py`.

The recipe is that of torch's "CUDA Graphs" notes: some calls on a side stream, the recording, then copies into the
recorded inputs and a replay. Addresses are part of a graph, so inputs and outputs stay where they were recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

WARM_UP_CALLS = 3
"""Calls before the recording, in which libraries choose their kernels and take their workspaces."""


class Replay:
    """One recorded call, for inputs of one set of shapes.

    Args:
        call: takes tensors on `device` and gives a list of tensors.
        inputs: tensors on the host, whose shapes and dtypes all later ones have.
        device: a CUDA device.

    Raises:
        RuntimeError: from torch: the call waits for the device, for example since a shape depends on values.
    """

    def __init__(
        self, call: Callable[..., list[torch.Tensor]], inputs: Sequence[torch.Tensor], device: torch.device
    ) -> None:
        self._inputs = [tensor.to(device, copy=True) for tensor in inputs]
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_CALLS):
                call(*self._inputs)
        torch.cuda.current_stream(device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.outputs = call(*self._inputs)

    def copy_in(self, inputs: Sequence[torch.Tensor]) -> None:
        """Put new values where the graph reads them."""
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)

    def replay(self) -> list[torch.Tensor]:
        """Run the graph; the outputs hold until the next replay."""
        self._graph.replay()
        return self.outputs


class Replays:
    """Recorded calls by the shapes and dtypes of their inputs; each is recorded when it is first asked for."""

    def __init__(self, call: Callable[..., list[torch.Tensor]], device: torch.device) -> None:
        self._call, self._device = call, device
        self._made: dict[tuple[Any, ...], Replay] = {}

    def of(self, inputs: Sequence[torch.Tensor]) -> Replay:
        """The recording for inputs like these, which lie on the host."""
        key = tuple((tuple(tensor.shape), tensor.dtype) for tensor in inputs)
        if key not in self._made:
            self._made[key] = Replay(self._call, inputs, self._device)
        return self._made[key]
