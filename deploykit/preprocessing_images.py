"""Raw images that look like photographs as far as a resize and a network can tell: slopes, edges, texture and noise.

White noise does not do: a resize averages it to one grey, and what is wrong with the resize goes with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHAPES = 12
"""Discs and boxes in one picture: edges in every direction."""


def pictures(shape: tuple[int, ...], layout: str, generator: np.random.Generator) -> NDArray[np.uint8]:
    """uint8 images of `shape`, four axes in `layout`, which use the whole range from 0 to 255."""
    rows, channels, height, width = sizes_of(shape, layout)
    found = np.stack([_picture(channels, height, width, generator) for _ in range(rows)]) if rows else None
    if found is None:
        return np.zeros(shape, np.uint8)
    return laid(found, layout)


def sizes_of(shape: tuple[int, ...], layout: str) -> tuple[int, int, int, int]:
    """Rows, channels, height and width of raw images of `shape`."""
    rows, a, b, c = shape
    return (rows, c, a, b) if layout == "nhwc" else (rows, a, b, c)


def laid(images: NDArray[Any], layout: str) -> NDArray[np.uint8]:
    """uint8 images in `layout` from whole numbers [N, C, H, W]."""
    return np.ascontiguousarray(np.moveaxis(images, 1, 3) if layout == "nhwc" else images, np.uint8)


def _picture(channels: int, height: int, width: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """float64[C, H, W] of whole numbers from 0 to 255."""
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    slope = generator.uniform(-1, 1, (channels, 2, 1, 1))
    image = 128 + 90 * (slope[:, 0] * (y - 0.5) + slope[:, 1] * (x - 0.5))
    for _ in range(SHAPES):
        centre, reach = generator.uniform(0, 1, 2), generator.uniform(0.03, 0.3, 2)
        dy, dx = (y - centre[0]) / reach[0], (x - centre[1]) / reach[1]
        inside = (dy * dy + dx * dx < 1) if generator.random() < 0.5 else (np.maximum(abs(dy), abs(dx)) < 1)
        image = np.where(inside, generator.uniform(-20, 275, (channels, 1, 1)), image)
    waves = generator.uniform(2, max(3.0, min(height, width) / 2.2), 2)
    texture = np.sin(2 * np.pi * (waves[0] * y + waves[1] * x)) * generator.uniform(5, 40)
    image = image + texture + generator.normal(0, 6, (channels, height, width))
    whole: NDArray[np.float64] = np.clip(np.rint(image), 0, 255)
    return whole


def patterns(channels: int, height: int, width: int) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Names and images [C, H, W] at the ends of what can be: each tells one mistake from the others."""
    y, x = np.mgrid[0:height, 0:width]

    def grey(plane: NDArray[Any]) -> NDArray[np.float64]:
        return np.broadcast_to(np.asarray(plane, np.float64), (channels, height, width)).copy()

    yield "black", grey(np.zeros((height, width)))
    yield "white", grey(np.full((height, width), 255))
    yield "checkerboard", grey(255 * ((x + y) % 2))
    yield "coarse-checkerboard", grey(255 * ((x // 8 + y // 8) % 2))
    yield "rows", grey(255 * (y % 2))
    yield "columns", grey(255 * (x % 3 == 0))
    yield "downwards", grey(np.rint(255 * y / max(1, height - 1)))
    yield "rightwards", grey(np.rint(255 * x / max(1, width - 1)))
    yield "corner", grey(255 * ((y < height // 3) & (x < width // 4)))
    for channel in range(channels if channels > 1 else 0):
        only = np.zeros((channels, height, width))
        only[channel] = 255
        yield f"only-channel-{channel}", only
