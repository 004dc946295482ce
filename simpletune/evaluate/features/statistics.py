"""A description of a picture that needs no model: where which brightness and colour is, edges, and which colours occur.

It knows nothing of what a picture shows. It serves where no feature model is at hand, and for near copies.

Three parts of equal weight, each of length 1, so that the cosine of two pictures is the mean of the three cosines:
layout, 8x8 means of OKLab less the picture's own mean; edges, histograms of gradient directions in 4x4 fields (as Dalal
& Triggs 2005, HOG, without their blocks); colours, the roots of a histogram of 4x5x5 OKLab bins, whose cosine is the
Bhattacharyya coefficient. OKLab: Ottosson 2020, "A perceptual color space for image processing".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Array = np.ndarray[Any, Any]

SIDE, LAYOUT, FIELDS, DIRECTIONS = 64, 8, 4, 8
BINS = (4, 5, 5)  # of L, a and b; with a middle one for colours that are none
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_RANGES = ((0.0, 1.0), (-0.3, 0.3), (-0.3, 0.3))  # of L, a and b, in OKLab


class Statistics:
    """The describer of colours and edges."""

    name = "statistics"
    model = "statistics of colours and edges, built in"
    identity = "statistics of colours and edges 1"
    preprocessing = f"resized to {SIDE}x{SIDE} pixels"

    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        return torch.from_numpy(np.stack([describe(image) for image in images]).astype(np.float32))

    def release(self) -> None:
        """It has no weights."""


def describe(image: Image.Image) -> Array:
    """float64 (420,) of an RGB picture: 192 of layout, 128 of edges, 100 of colours."""
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=3.0)
    lab_HWC = oklab(np.asarray(small, np.float64) / 255)
    return np.concatenate([_unit(_layout(lab_HWC)), _unit(_edges(lab_HWC[..., 0])), _unit(_colours(lab_HWC))])


def oklab(srgb: Array) -> Array:
    """sRGB 0 .. 1 (..., 3) -> L, a, b."""
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lab: Array = np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T
    return lab


def _layout(lab_HWC: Array) -> Array:
    step = SIDE // LAYOUT
    means = lab_HWC.reshape(LAYOUT, step, LAYOUT, step, 3).mean(axis=(1, 3))
    result: Array = (means - means.mean(axis=(0, 1))).ravel()
    return result


def _edges(light_HW: Array) -> Array:
    down, across = np.gradient(light_HW)
    strength = np.hypot(down, across)
    direction = (np.arctan2(down, across) % np.pi) / np.pi * DIRECTIONS
    low = np.floor(direction).astype(int) % DIRECTIONS
    part = direction - np.floor(direction)
    step = SIDE // FIELDS
    rows, columns = (place // step for place in np.indices(light_HW.shape))
    histogram = np.zeros((FIELDS, FIELDS, DIRECTIONS))
    np.add.at(histogram, (rows, columns, low), strength * (1 - part))
    np.add.at(histogram, (rows, columns, (low + 1) % DIRECTIONS), strength * part)
    return histogram.ravel()


def _colours(lab_HWC: Array) -> Array:
    """The roots of a histogram whose pixels count for the bins around them in proportion, so that a slight change of
    tone, as a VAE makes it, changes it slightly."""
    histogram = np.zeros(BINS)
    corners = [_around(lab_HWC[..., channel].ravel(), channel) for channel in range(3)]
    for chosen in product(range(2), repeat=3):
        places = tuple(corners[channel][0][end] for channel, end in enumerate(chosen))
        weights = np.prod([corners[channel][1][end] for channel, end in enumerate(chosen)], axis=0)
        np.add.at(histogram, places, weights)
    result: Array = np.sqrt(histogram.ravel() / histogram.sum())
    return result


def _around(values: Array, channel: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """The two bins that each value lies between, and its share of each."""
    (least, most), bins = _RANGES[channel], BINS[channel]
    place = (np.clip(values, least, most) - least) / (most - least) * (bins - 1)
    low = np.minimum(place.astype(int), bins - 2)
    return (low, low + 1), (low + 1 - place, place - low)


def _unit(values: Array) -> Array:
    length = np.linalg.norm(values)
    return values / length if length > 1e-9 else values * 0.0
