"""How many threads torch's operators take, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside operators, and then as many as before, whatever happens in between.

    Sums come in one order then, however many cores there are; and work too small to share out does not wait for others.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
