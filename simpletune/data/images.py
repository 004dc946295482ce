"""Pictures as the VAE gets them: upright RGB in sRGB on white, resized with Lanczos and cropped to their bucket.

A change of the pixels counts up `PREPARATION` in `entries.py`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from simpletune.data.geometry import Placement
from simpletune.data.header import SIDEWAYS, SIXTEEN_BIT_MODES, open_picture, orientation, refusal, upright
from simpletune.data.sources import Reason, shown
from simpletune.errors import DataError

_DRAFT_MARGIN = 2
"""A JPEG may be decoded smaller, but to at least this many times its final size: Lanczos does the last part."""

_REDUCING_GAP = 3.0
"""Pillow averages whole pixels first while that leaves this many times the final size: faster, and not visible."""

_LARGEST_PROFILE = 8 << 20
"""Bytes of a colour profile. Of a larger one, which no device has, the colours are taken as they are."""

_MIRROR = Image.Transpose.FLIP_LEFT_RIGHT

_MODE_OF_COLOUR_SPACE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def load_rgb(where: str, data: bytes) -> Image.Image:
    """A whole picture as upright 8-bit RGB: transparency on white, first frame of an animation, colours in sRGB.

    `data` are the file's bytes, `where` names it. Raises DataError naming the file and its fault.
    """
    image = _open(where, data)
    return _decode(where, image, orientation(image))


def prepare(where: str, data: bytes, size: tuple[int, int], placement: Placement) -> np.ndarray[Any, Any]:
    """A picture's pixels, uint8 (H, W, 3) of its bucket's size, resized, cropped and mirrored as the placement says.

    `size` is the upright (width, height) in pixels that it was scanned with. Raises DataError, naming it by `where`,
    when the file can't be decoded or hasn't that size any more.
    """
    return prepare_all(where, data, size, (placement,))[0]


def prepare_all(
    where: str, data: bytes, size: tuple[int, int], placements: Sequence[Placement]
) -> list[np.ndarray[Any, Any]]:
    """What `prepare` gives for each placement; those of one resized size share one decoding."""
    made: dict[Placement, np.ndarray[Any, Any]] = {}
    for resized in dict.fromkeys(placement.resized for placement in placements):
        picture, extent = _decoded_for(where, data, size, resized)
        cuts: dict[Any, Image.Image] = {}
        for placement in (one for one in placements if one.resized == resized):
            part = placement.crop, placement.bucket
            cuts[part] = cut = cuts.get(part) or _cut(picture, extent, placement)
            made[placement] = np.array(cut.transpose(_MIRROR) if placement.mirrored else cut)
    return [made[placement] for placement in placements]


def _decoded_for(
    where: str, data: bytes, size: tuple[int, int], resized: tuple[int, int]
) -> tuple[Image.Image, tuple[float, float]]:
    """The upright picture, at least _DRAFT_MARGIN times as large as `resized` where it is larger, and its extent."""
    image = _open(where, data)
    turn = orientation(image)
    _check_size(where, size, _turned(image.size, turn))
    drafted = image.draft(None, _turned(_times(resized, _DRAFT_MARGIN), turn))
    extent = drafted[1][2:] if drafted else image.size
    return _decode(where, image, turn), _turned(extent, turn)


def _cut(picture: Image.Image, extent: tuple[float, float], placement: Placement) -> Image.Image:
    """Resize and crop in one go, so that only what is kept is computed.

    `extent` is the picture's size in its own pixels: that of a JPEG decoded smaller needn't be whole numbers.
    """
    left, top, right, bottom = placement.crop
    across, down = extent[0] / placement.resized[0], extent[1] / placement.resized[1]
    box = left * across, top * down, min(right * across, picture.width), min(bottom * down, picture.height)
    return picture.resize(placement.bucket, Image.Resampling.LANCZOS, box, _REDUCING_GAP)


def _open(where: str, data: bytes) -> Image.Image:
    try:
        image = open_picture(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise _failure(where, Reason.UNREADABLE.value) from error
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged headers
        raise _failure(where, f"its header is damaged ({error})") from error
    refused = refusal(image)
    if refused is not None:
        raise _failure(where, refused.detail)
    return image


def _decode(where: str, image: Image.Image, turn: int) -> Image.Image:
    try:
        image.load()
        rgb = _to_rgb(image)
    except Exception as error:  # a damaged stream can make a decoder raise nearly anything
        raise _failure(where, f"it is damaged or truncated ({error})") from error
    return upright(rgb, turn)


def _failure(where: str, what: str) -> DataError:
    return DataError(f"{shown(where)}: {what}", hint="replace the file or take it out of the folder")


def _check_size(where: str, scanned: tuple[int, int], size: tuple[int, int]) -> None:
    if size != scanned:
        was, now = (f"{width}x{height}" for width, height in (scanned, size))
        raise _failure(where, f"{Reason.CHANGED.value}: it was {was} and is {now}")


def _turned(size: tuple[Any, Any], turn: int) -> tuple[Any, Any]:
    return (size[1], size[0]) if turn in SIDEWAYS else size


def _times(size: tuple[int, int], factor: int) -> tuple[int, int]:
    return size[0] * factor, size[1] * factor


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode that is read (header.READ_MODES), to RGB."""
    profile = image.info.get("icc_profile")
    if image.mode in SIXTEEN_BIT_MODES:
        image = _eight_bits(image)
    if image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info:
        layered = image.convert("RGBA")
        on_white = Image.new("RGB", image.size, "white")
        on_white.paste(_to_srgb(layered.convert("RGB"), profile), mask=layered.getchannel("A"))
        return on_white
    return _to_srgb(image, profile)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as L, or as LA where one grey value means transparent; Pillow's own conversion clips to white."""
    values = np.asarray(image).astype(np.uint32)
    white, inverted = _tiff_range(image)
    grey = np.minimum((values * 255 + white // 2) // white, 255).astype(np.uint8)
    result = Image.fromarray(255 - grey if inverted else grey)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        result.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return result


def _tiff_range(image: Image.Image) -> tuple[int, bool]:
    """(the largest value, whether that is black): a TIFF can hold 12 bits in 16, and can count from white."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return 0xFFFF, False
    bits = tags.get(_TIFF_BITS_PER_SAMPLE, (16,))
    return (1 << bits[0]) - 1, tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A picture without alpha as RGB, through its embedded colour profile if that is one to convert from."""
    transform = _transform(profile) if profile and len(profile) <= _LARGEST_PROFILE else None
    if transform is None:
        return image.convert("RGB")
    if image.mode != transform.input_mode and transform.input_mode == "RGB":
        image = image.convert("RGB")
    if image.mode != transform.input_mode:
        return image.convert("RGB")
    converted = ImageCms.applyTransform(image, transform)
    return image.convert("RGB") if converted is None else converted


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """From an ICC profile to sRGB; None for sRGB itself, and for a profile that is damaged or of an unusual space."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODE_OF_COLOUR_SPACE.get(source.profile.xcolor_space.strip())
        if mode is None or "srgb" in (source.profile.profile_description or "").lower():
            return None
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        return ImageCms.ImageCmsTransform(
            source, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")), mode, "RGB", intent
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
