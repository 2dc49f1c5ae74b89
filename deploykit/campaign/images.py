"""Cases about preprocessing, from raw uint8 images: pictures, patterns at the ends of what can be, odd sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploykit.campaign.draw import MAX_ELEMENTS, Draw, Drawer
from deploykit.inputs import CaseInputs
from deploykit.preprocessed import source_size
from deploykit.preprocessing import Preprocessing
from deploykit.preprocessing_images import laid, patterns, pictures, sizes_of
from deploykit.signature import Feeds, Signature, TensorSpec

ODD = ((33, 301), (301, 33), (255, 257), (640, 480), (97, 97))
"""Heights and widths beside the usual: thin both ways, around a resize to 256, a camera's, and smaller than a crop."""


@dataclass(frozen=True)
class Images:
    """The input that images go into.

    Attributes:
        preprocessing: fused: the input is raw; recorded: it is what `prepare` makes of raw images.
        prepare: float32[N, C, H, W] from raw images, for recorded steps.
    """

    preprocessing: Preprocessing
    prepare: Callable[[NDArray[np.uint8]], NDArray[np.float32]]

    @property
    def own(self) -> Mapping[str, Drawer]:
        """How the campaign draws that input."""
        return {self.preprocessing.input: self._drawn}

    @property
    def recorded(self) -> bool:
        """Whether the steps are left to whoever feeds the model."""
        return self.preprocessing.mode == "recorded"

    def cases(self, source: Draw) -> Iterator[CaseInputs]:
        """Every pattern, a few to a case; then pictures of other sizes, as far as the signature takes them."""
        spec = next(one for one in source.signature.inputs if one.name == self.preprocessing.input)
        rows, channels, height, width = self._raw_sizes(source.example[spec.name].shape)
        count = source.few if source.signature.batch_dim else rows
        named = list(patterns(channels, height, width))
        for start in range(0, len(named), count):
            group = named[start : start + count]
            planes = [image for _, image in group] + [group[-1][1]] * (count - len(group))
            raw = laid(np.stack(planes), self.preprocessing.layout)
            yield self._case(source, f"image-{group[0][0]}", "images", raw)
        for high, wide in dict.fromkeys(self._others(source.signature, spec)):
            if count * channels * high * wide <= MAX_ELEMENTS:
                shape = self.preprocessing.raw_shape(count, channels, high, wide)
                raw = pictures(shape, self.preprocessing.layout, source.generator())
                yield self._case(source, f"image-{high}x{wide}", "shapes", raw)

    def _drawn(self, shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[Any]:
        if not self.recorded:
            return pictures(shape, self.preprocessing.layout, generator)
        wanted = self.preprocessing.raw_shape(*self._raw_sizes(shape))
        return self.prepare(pictures(wanted, self.preprocessing.layout, generator))

    def _raw_sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Rows, channels, height and width of the raw images for an input of `shape`."""
        if not self.recorded:
            return sizes_of(shape, self.preprocessing.layout)
        return shape[0], shape[1], *source_size(self.preprocessing, shape[2], shape[3])

    def _others(self, signature: Signature, spec: TensorSpec) -> Iterator[tuple[int, int]]:
        """Other heights and widths: of fused steps those that the signature promises."""
        if self.recorded:
            free = self.preprocessing.size or (self.preprocessing.resize and self.preprocessing.crop)
            yield from ODD if free else ()
            return
        high, wide = self.preprocessing.sides(spec.shape)
        dims = {dim.name: dim for dim in signature.dims}
        for odd in ODD if isinstance(high, str) or isinstance(wide, str) else ():
            yield (
                high if isinstance(high, int) else dims[high].nearest(odd[0]),
                wide if isinstance(wide, int) else dims[wide].nearest(odd[1]),
            )

    def _case(self, source: Draw, name: str, input_class: str, raw: NDArray[np.uint8]) -> CaseInputs:
        """The images beside ordinary values of the other inputs."""
        batch = source.signature.batch_dim
        others: Feeds = {}
        if len(source.signature.inputs) > 1:
            others = source.rows(len(raw), source.generator()) if batch else source.some()
        image = self.preprocessing.input
        inputs = {**others, image: self.prepare(raw) if self.recorded else raw}
        more = {image: raw} if self.recorded else {}
        return source.case(name, input_class, "full", inputs, raw=more, optional=False)
