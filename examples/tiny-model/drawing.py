"""Pictures of the library as the tiny model is to see them: trimmed, on white and square; and which look the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Image.MAX_IMAGE_PIXELS = None  # some of the library's pictures have over 200 million; _MAX_PIXELS is what counts here
_MAX_PIXELS = 250_000_000
_MAX_ASPECT = 3.0
_MIN_SIDE = 32
_INK = 10  # a pixel whose darkest channel is this far under white belongs to the drawing

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Drawing:
    """`pixels` are RGB bytes [side, side, 3]; `coverage` says where the drawing was opaque, white parts included."""

    pixels: NDArray[np.uint8]
    coverage: NDArray[np.bool_]


class UnfitError(Exception):
    """The picture is left out; the message says why in a word or two."""


def read(path: Path, side: int, margin: int) -> Drawing:
    """The drawing without its empty margin, centred on white in `side` x `side` pixels, `margin` of them free.

    Raises UnfitError for pictures that are empty, tiny, of one colour or far from square.
    """
    with Image.open(path) as opened:
        if opened.width * opened.height > _MAX_PIXELS:
            raise UnfitError("too large")
        picture = _reduced(opened.convert("RGBA"), side)
    rgb = _on_white(picture)
    alpha = np.asarray(picture.getchannel("A"))
    top, bottom, left, right = _ink_box(rgb)
    height, width = bottom - top, right - left
    if max(height, width) < _MIN_SIDE:
        raise UnfitError("tiny")
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise UnfitError("long")
    drawn = _fit(rgb[top:bottom, left:right], side, margin)
    solid = _fit_mask(alpha[top:bottom, left:right], side, margin)
    if int(np.ptp(drawn.reshape(-1, 3).astype(np.int16) @ np.array([2, 3, 1]))) < 60:
        raise UnfitError("one colour")
    return Drawing(drawn, solid)


def _reduced(picture: Image.Image, side: int) -> Image.Image:
    """Large pictures are first averaged over whole blocks, with colours weighted by how opaque they are."""
    factor = max(picture.size) // (side * 4)
    return picture if factor < 2 else picture.convert("RGBa").reduce(factor).convert("RGBA")


def _on_white(picture: Image.Image) -> NDArray[np.uint8]:
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))


def _ink_box(rgb: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    ink = rgb.min(axis=2) < 255 - _INK
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not len(rows):
        raise UnfitError("empty")
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _fit(rgb: NDArray[np.uint8], side: int, margin: int) -> NDArray[np.uint8]:
    """Resample in linear light, where averages of colours are what the eye sees from afar."""
    size, offset = _placement(rgb.shape[1], rgb.shape[0], side, margin)
    canvas = np.full((side, side, 3), 255, np.uint8)
    linear = _to_linear(rgb)
    channels = [Image.fromarray(linear[:, :, i]).resize(size, Image.Resampling.BICUBIC) for i in range(3)]
    drawn = _to_srgb(np.stack([np.asarray(channel) for channel in channels], axis=2))
    canvas[offset[1] : offset[1] + size[1], offset[0] : offset[0] + size[0]] = drawn
    return canvas


def _fit_mask(alpha: NDArray[np.uint8], side: int, margin: int) -> NDArray[np.bool_]:
    size, offset = _placement(alpha.shape[1], alpha.shape[0], side, margin)
    canvas = np.zeros((side, side), np.bool_)
    small = np.asarray(Image.fromarray(alpha).resize(size, Image.Resampling.BOX))
    canvas[offset[1] : offset[1] + size[1], offset[0] : offset[0] + size[0]] = small > 127
    return canvas


def _placement(width: int, height: int, side: int, margin: int) -> tuple[tuple[int, int], tuple[int, int]]:
    scale = (side - 2 * margin) / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return size, ((side - size[0]) // 2, (side - size[1]) // 2)


def _to_linear(rgb: NDArray[np.uint8]) -> Array:
    """IEC 61966-2-1's transfer function."""
    value = np.arange(256, dtype=np.float32) / 255
    table = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)
    return table[rgb]


def _to_srgb(linear: Array) -> NDArray[np.uint8]:
    value = np.clip(linear, 0, 1)
    coded = np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)
    return np.rint(coded * 255).astype(np.uint8)


def signature(pixels: NDArray[np.uint8], cells: int = 16) -> Array:
    """What near duplicates have in common: `cells` x `cells` mean colours as one vector [cells * cells * 3] in 0..1."""
    small = Image.fromarray(pixels).resize((cells, cells), Image.Resampling.BOX)
    return (np.asarray(small, np.float32) / 255).reshape(-1)


def duplicates(signatures: Array, ink_distance: float) -> list[list[int]]:
    """For each picture those before it that look the same.

    Two look the same when their difference is at most `ink_distance` of what either differs from white.
    """
    ink = 1 - signatures
    power = (ink**2).sum(axis=1)
    found = []
    for index in range(len(ink)):
        cross = ink[:index] @ ink[index]
        distance = np.sqrt(np.maximum(power[:index] + power[index] - 2 * cross, 0))
        scale = np.sqrt(np.minimum(power[:index], power[index])) + math.sqrt(1e-6)
        found.append(np.flatnonzero(distance <= ink_distance * scale).tolist())
    return found
