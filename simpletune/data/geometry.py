"""Where a picture goes: the bucket it trains in, the size it is resized to, and the part that is kept. Pure arithmetic.

A bucket is a (width, height) in pixels that many pictures share, both multiples of the alignment. A picture is never
stretched: it is resized with its aspect kept until it covers its bucket, and what sticks out is cropped.

    crop false          the bucket has the picture's own aspect; only the rounding to the alignment is cropped, centred
    crop true, square   the bucket is square
              preserve  the bucket has the picture's own aspect; crop_style says which part is kept
              closest   the bucket's aspect is the nearest of crop_aspect_buckets

`maximum_image_size` changes what is seen through the crop: a picture whose shorter edge is above it is downsampled to
`target_downsample_size` (without one, to maximum_image_size), any other keeps its size, and the bucket is cut out of
that. Without it the picture is as small as covers the bucket, so that the crop shows as much as it can.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from simpletune.data.sources import Reason, Rejected, name_bytes

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet

DEFAULT_ASPECTS = (1 / 2, 9 / 16, 2 / 3, 3 / 4, 4 / 5, 1.0, 5 / 4, 4 / 3, 3 / 2, 16 / 9, 2.0)
"""width / height of the buckets of crop_aspect closest, when crop_aspect_buckets names none."""

WIDEST_ASPECT = 8.0
"""Beyond this (or its inverse) a picture that keeps its aspect would make a bucket too long to train on."""


@dataclass(frozen=True)
class Placement:
    """All sizes in pixels, of the upright picture. `crop` is (left, top, right, bottom) inside `resized`.

    With `mirrored` what was cut out is turned left to right at last.
    """

    resized: tuple[int, int]
    crop: tuple[int, int, int, int]
    bucket: tuple[int, int]
    mirrored: bool = False


def placements(
    width: int,
    height: int,
    image_set: ImageSet,
    alignment: int,
    *,
    seed: int = 0,
    name: str = "",
    focus: tuple[float, float] | None = None,
) -> tuple[Placement, ...]:
    """Every way in which a picture of `width` x `height` is shown: crop_variants crops, each mirrored too if asked for.

    All are of one bucket. `seed` and `name` alone decide where random crops lie. `focus` is the point that face crops
    keep in their middle, as far as the picture's edges let them, as shares of width and height.
    """
    count = image_set.crop_variants if image_set.crop and image_set.crop_style == "random" else 1
    crops = [
        place(width, height, image_set, alignment, seed=seed, name=name, variant=index, focus=focus)
        for index in range(count)
    ]
    distinct = tuple(dict.fromkeys(crops))
    if not image_set.horizontal_flip:
        return distinct
    return distinct + tuple(replace(placement, mirrored=True) for placement in distinct)


def place(
    width: int,
    height: int,
    image_set: ImageSet,
    alignment: int,
    *,
    seed: int = 0,
    name: str = "",
    variant: int = 0,
    focus: tuple[float, float] | None = None,
) -> Placement:
    """Place a picture of `width` x `height`; `seed`, `name` and `variant` alone decide where a random crop lies."""
    bucket = bucket_size(target_aspect(width / height, image_set), image_set, alignment)
    scale = max(bucket[0] / width, bucket[1] / height, _scale_before_crop(min(width, height), image_set))
    resized = max(bucket[0], round(width * scale)), max(bucket[1], round(height * scale))
    room = resized[0] - bucket[0], resized[1] - bucket[1]
    left, top = _around(focus, resized, bucket) if focus else _corner(room, image_set, seed, name, variant)
    return Placement(resized, (left, top, left + bucket[0], top + bucket[1]), bucket)


def objection(width: int, height: int, image_set: ImageSet, placement: Placement) -> Rejected | None:
    """Why a picture of this size isn't used in this data set, or None."""
    shorter, aspect = min(width, height), width / height
    if image_set.minimum_image_size is not None and shorter < image_set.minimum_image_size:
        detail = f"{width}x{height}: the shorter edge must be at least {image_set.minimum_image_size}"
        return Rejected(Reason.TOO_SMALL, detail)
    if image_set.minimum_aspect_ratio is not None and aspect < image_set.minimum_aspect_ratio:
        detail = f"{width}x{height} is {aspect:.3g}, below minimum_aspect_ratio {image_set.minimum_aspect_ratio:g}"
        return Rejected(Reason.ASPECT, detail)
    if image_set.maximum_aspect_ratio is not None and aspect > image_set.maximum_aspect_ratio:
        detail = f"{width}x{height} is {aspect:.3g}, above maximum_aspect_ratio {image_set.maximum_aspect_ratio:g}"
        return Rejected(Reason.ASPECT, detail)
    if _keeps_aspect(image_set) and max(aspect, 1 / aspect) > WIDEST_ASPECT:
        detail = f"{width}x{height} is longer than {WIDEST_ASPECT:g}:1; crop true with crop_aspect closest can use it"
        return Rejected(Reason.ASPECT, detail)
    grown = enlargement(width, height, placement)
    if image_set.max_upscale_threshold is not None and grown - 1 > image_set.max_upscale_threshold + 1e-9:
        detail = (
            f"{width}x{height} would be enlarged {grown:.2f} times; {1 + image_set.max_upscale_threshold:g} is allowed"
        )
        return Rejected(Reason.UPSCALE, detail)
    return None


def enlargement(width: int, height: int, placement: Placement) -> float:
    """How many times larger the resized picture is than the original, along an edge; below 1 it is made smaller."""
    return min(placement.resized[0] / width, placement.resized[1] / height)


def target_aspect(aspect: float, image_set: ImageSet) -> float:
    """The bucket's width / height before rounding, for a picture of that `aspect`."""
    if _keeps_aspect(image_set):
        return aspect
    if image_set.crop_aspect == "square":
        return 1.0
    choices = image_set.crop_aspect_buckets or DEFAULT_ASPECTS
    return min(choices, key=lambda choice: (abs(math.log(choice / aspect)), choice))


def bucket_size(aspect: float, image_set: ImageSet, alignment: int) -> tuple[int, int]:
    """(width, height) nearest to `aspect` at the set's resolution, both multiples of `alignment`."""
    edge = image_set.resolution
    if image_set.resolution_type == "pixel_area":
        width, height = edge * math.sqrt(aspect), edge / math.sqrt(aspect)
    else:
        width, height = edge * max(aspect, 1.0), edge * max(1 / aspect, 1.0)
    return _aligned(width, alignment), _aligned(height, alignment)


def _keeps_aspect(image_set: ImageSet) -> bool:
    return not image_set.crop or image_set.crop_aspect == "preserve"


def _aligned(length: float, alignment: int) -> int:
    return max(alignment, alignment * math.floor(length / alignment + 0.5))


def _scale_before_crop(shorter: int, image_set: ImageSet) -> float:
    """The scale maximum_image_size asks for; 0 where it has no say and covering the bucket decides alone."""
    limit = image_set.maximum_image_size
    if not image_set.crop or limit is None:
        return 0.0
    if shorter <= limit:
        return 1.0
    return (image_set.target_downsample_size or limit) / shorter


def _around(focus: tuple[float, float], resized: tuple[int, int], bucket: tuple[int, int]) -> tuple[int, int]:
    """The left and top of a crop with the focus in its middle, moved no further than the picture reaches."""
    across, down = (
        min(max(0, round(share * whole - part / 2)), whole - part)
        for share, whole, part in zip(focus, resized, bucket, strict=True)
    )
    return across, down


def _corner(room: tuple[int, int], image_set: ImageSet, seed: int, name: str, variant: int) -> tuple[int, int]:
    """The crop's left and top, given how many pixels stick out to the right and below."""
    if not image_set.crop or image_set.crop_style in {"center", "face"}:
        return room[0] // 2, room[1] // 2
    if image_set.crop_style == "corner":
        return 0, 0
    parts = [
        b"crop",
        str(seed).encode(),
        image_set.id.encode(),
        name_bytes(name),
        *([str(variant).encode()] * (variant > 0)),
    ]
    digest = hashlib.sha256(b"\0".join(parts)).digest()
    across, down = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
    return across % (room[0] + 1), down % (room[1] + 1)
