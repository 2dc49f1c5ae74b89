"""The whole campaign, in the order in which variants are asked, and the batches that calibrate a quantizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from deploykit.campaign import forms, images, values
from deploykit.campaign.draw import Draw, batches, take
from deploykit.inputs import CALIBRATION, CaseInputs, Samples
from deploykit.signature import Feeds, Signature


def campaign(
    signature: Signature,
    example: Feeds,
    samples: Samples | None,
    seed: int,
    limits: Mapping[str, int] | None = None,
    photos: images.Images | None = None,
) -> Iterator[CaseInputs]:
    """All cases for a model, deterministic by `seed`.

    Args:
        signature: names, dtypes and dims of the inputs, and of the outputs where they are known.
        example: one valid set of inputs; gives the sizes of dims that no case varies, and the range of integers.
        samples: real inputs; None draws standard normal ones instead.
        seed: each case derives a generator of its own from it and its place in the campaign.
        limits: highest integer that eager takes, by input, where it was asked.
        photos: the input that images go into, where preprocessing says so.

    Raises:
        UsageError: the samples do not fit the signature.
    """
    source = Draw(signature, example, samples, seed, photos.own if photos else {})
    hidden = forms.mask_names(source)
    yield values.example(source)
    yield from values.judged(source)
    yield from forms.shapes(source)
    if photos:
        yield from photos.cases(source)
    yield from values.constants(source, hidden)
    yield from values.straddle(source)
    yield from values.extreme(source)
    yield from values.non_finite(source)
    yield from values.integers(source, limits or {}, hidden)
    yield from values.ties(source)
    yield from forms.masks(source, hidden)
    yield from forms.layouts(source)
    yield from forms.neighbours(source)
    yield from forms.outside(source)
    yield forms.again(source)


def calibration(
    signature: Signature,
    example: Feeds,
    samples: Samples | None,
    seed: int,
    photos: images.Images | None = None,
) -> list[Feeds]:
    """Batches for static quantization, disjoint from every case: the user's own, else drawn like the base cases."""
    source = Draw(signature, example, samples, seed, photos.own if photos else {})
    if samples is not None:
        signature.sizes_of(take(samples.calibration, slice(0, source.batch)))
        # a fixed batch takes no shorter one
        return list(batches(samples.calibration, source.batch, drop_last=signature.batch_dim is None))
    generator = np.random.default_rng([seed, 0xCA11])
    rows = CALIBRATION if photos else min(CALIBRATION, source.cap)  # raw pixels are a byte each, and differ much
    count = max(1, rows // source.batch)
    return [source.draw(source.sizes, generator) for _ in range(count)]
