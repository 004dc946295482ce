"""Small pictures for a page: the whole of a picture, and where in it the model's part lies."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simpletune.data.report.duplicates import whole_picture
from simpletune.errors import DataError

if TYPE_CHECKING:
    from simpletune.data.geometry import Placement
    from simpletune.data.scan import Sample
    from simpletune.data.sources import Source

EDGE = 220
"""Pixels of a thumbnail's longer edge."""

QUALITY = 72


@dataclass(frozen=True)
class Cut:
    """The part of a picture that is trained on, in percent of its width and height."""

    left: float
    top: float
    width: float
    height: float


def thumbnail(sample: Sample, source: Source, edge: int = EDGE) -> bytes | None:
    """A JPEG of the whole picture, upright; None when it can't be read any more."""
    try:
        return small_jpeg(sample.name, source.read(sample.name), (sample.width, sample.height), edge)
    except OSError:
        return None


def small_jpeg(name: str, data: bytes, size: tuple[int, int], edge: int, quality: int = QUALITY) -> bytes | None:
    """A file's picture, upright and `size` (width, height) pixels large, as a JPEG whose longer edge is at most `edge`;
    None when it can't be decoded or hasn't that size."""
    from PIL import Image

    from simpletune.data.images import prepare

    try:
        pixels = prepare(name, data, size, whole_picture(*size, edge))
    except DataError:
        return None
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", quality=quality)
    return written.getvalue()


def cut(placement: Placement) -> Cut:
    """Where a placement's crop lies in the picture."""
    (width, height), (left, top, right, bottom) = placement.resized, placement.crop
    across, down = 100 / width, 100 / height
    parts = left * across, top * down, (right - left) * across, (bottom - top) * down
    return Cut(*(round(part, 2) for part in parts))


def share_cut_off(placement: Placement) -> float:
    """How much of the picture's area is lost by the crop, 0 to 1."""
    return 1 - placement.bucket[0] * placement.bucket[1] / (placement.resized[0] * placement.resized[1])
