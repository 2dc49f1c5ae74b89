"""Who is measured when. Pure.

A machine drifts (heat, neighbours), and what ran before leaves its traces in caches and clocks. So the subjects take
turns in an order that is random, and balanced: over a square of rounds each subject stands at each place equally
often, and each follows each other one equally often (E. J. Williams, "Experimental designs balanced for the
estimation of residual effects of treatments", Australian Journal of Scientific Research A 2 (1949) 149-168).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def orders(count: int, *seed: int) -> Iterator[tuple[int, ...]]:
    """Endless rounds, each an order of `range(count)`; the same `seed` gives the same rounds.

    After any number of rounds, how often two subjects stood at the same place differs by at most one.
    """
    random = np.random.default_rng(seed)
    squares = _squares(count)
    while True:
        labels = random.permutation(count)  # one naming for both squares: their carry-over balance is a joint one
        for square in squares:
            for row in random.permutation(count):
                yield tuple(int(labels[place]) for place in square[row])


def _squares(count: int) -> list[list[list[int]]]:
    """Williams' Latin square for an even `count`; the square and its mirror image for an odd one."""
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(count)]
    square = [[(step + shift) % count for step in zigzag] for shift in range(count)]
    return [square] if count % 2 == 0 else [square, [row[::-1] for row in square]]
