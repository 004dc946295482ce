"""Masks: how much each place of a picture counts in its loss. White counts, black is ignored, grey counts partly.

A mask is a picture's own transparency (mask_source alpha: what is transparent is ignored) or a picture of the same name
in mask_data_dir (folder), of the same proportions. It is turned, resized, cut out and mirrored exactly as its picture
is, then averaged over the pixels of each latent position. The folder is only read. Imports no torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageChops

from simpletune.data.geometry import Placement
from simpletune.data.header import SIXTEEN_BIT_MODES, open_picture, orientation, refusal, upright
from simpletune.data.sources import Exclusion, ImageFile, Reason, Rejected, SourceError, shown
from simpletune.data.sources.local import Folder

if TYPE_CHECKING:
    from simpletune.config.settings import ImageSet
    from simpletune.data.scan import Sample

MASK_PREPARATION = 1
"""Counts up when the weights made from a mask change, so that cached ones of the old kind aren't used."""

ALPHA, FOLDER = "alpha", "folder"
"""The values of mask_source under which there are masks."""

_DARK = 1 / 255
_PROPORTIONS = 0.02
_ALPHA_MODES = frozenset({"LA", "PA", "RGBA"})

Weights = np.ndarray[Any, Any]
"""float32 (1, H, W), latent height and width, each from 0 to 1."""


@dataclass(frozen=True)
class MaskFolder:
    """The masks of a mask_data_dir, by the names they may be asked for."""

    folder: Folder
    masks: Mapping[str, ImageFile | Rejected]

    def find(self, picture: str) -> ImageFile | Rejected:
        """The mask of a picture: of the same name, or else of the same but for its extension; or why there is none."""
        stem = _stem(picture)
        found = self.masks.get(picture) or self.masks.get(stem)
        return found or Rejected(Reason.NO_MASK, f"no picture {shown(stem)}.* in {self.folder.root}")


def open_mask_folder(path: Path) -> MaskFolder:
    """List a mask_data_dir. Raises SourceError when it can't be."""
    folder = Folder(str(path))
    try:
        listing = folder.list()
    except SourceError as error:
        raise SourceError(f"mask_data_dir: {error.message}", error.hint, "mask_data_dir") from error
    masks: dict[str, ImageFile | Rejected] = {}
    for name, why in listing.rejected:
        masks[name] = masks[_stem(name)] = Rejected(Reason.MASK, f"mask {shown(name)}: {why.detail}")
    for file in reversed(listing.files):  # of several that differ in their extension the first by name
        masks[file.name] = masks[_stem(file.name)] = file
    return MaskFolder(folder, masks)


def without_masks(image_set: ImageSet, samples: Iterable[Sample]) -> tuple[Exclusion, ...]:
    """The pictures of a data set for which mask_data_dir has no mask, by its listing alone.

    Raises SourceError when it can't be listed.
    """
    if image_set.mask_source != FOLDER or image_set.mask_data_dir is None:
        return ()
    folder = open_mask_folder(image_set.mask_data_dir)
    found = ((sample, folder.find(sample.name)) for sample in samples)
    return tuple(excluded(sample, mask) for sample, mask in found if isinstance(mask, Rejected))


def excluded(sample: Sample, why: Rejected) -> Exclusion:
    return Exclusion(sample.set_id, sample.name, why.reason.value, why.detail)


def mask_key(data_sha256: str, kind: str, placement: Placement, scale: int) -> str:
    """Names a cached mask: its file's bytes, whether they are its picture's own, what is cut out, pixels a position."""
    mirrored = ["mirrored"] if placement.mirrored else []
    parts = ["mask", MASK_PREPARATION, data_sha256, kind, placement.resized, placement.crop, scale, *mirrored]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def latent_weights(
    where: str, data: bytes, kind: str, size: tuple[int, int], placement: Placement, scale: int
) -> Weights | Rejected:
    """A mask at latent resolution: `scale` pixels to a position. `data` are its file's bytes, `where` names it.

    `size` is the upright (width, height) in pixels of the picture it belongs to.
    """
    read = _read(where, data, kind)
    if isinstance(read, Rejected):
        return read
    if abs(read.width * size[1] / (read.height * size[0]) - 1) > _PROPORTIONS:
        detail = f"{shown(where)} is {read.width}x{read.height}, of another shape than the picture ({_times(size)})"
        return Rejected(Reason.MASK, detail)
    weights = _averaged(_cut(read, placement), scale)
    if weights.max() < _DARK:
        what = "all of it is transparent" if kind == ALPHA else "all of it is black"
        return Rejected(Reason.DARK_MASK, f"{shown(where)}: {what} where the picture is cut out")
    return weights


def has_transparency(data: bytes) -> bool:
    """Whether a picture has a transparency of its own, from its header."""
    try:
        image = open_picture(io.BytesIO(data))
    except Exception:  # told where it is read
        return False
    return image.mode in _ALPHA_MODES or "transparency" in image.info


def _read(where: str, data: bytes, kind: str) -> Image.Image | Rejected:
    """The whole mask, upright, mode L."""
    try:
        image = open_picture(io.BytesIO(data))
        refused = refusal(image)
        if refused is not None:
            return Rejected(Reason.MASK, f"{shown(where)}: {refused.detail}")
        turn = orientation(image)
        image.load()
        grey = _opacity(image) if kind == ALPHA else _brightness(image)
    except Exception as error:  # a damaged file can make a decoder raise nearly anything
        return Rejected(Reason.MASK, f"{shown(where)}: it can't be read as a picture ({error})")
    return upright(grey, turn)


def _opacity(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BIT_MODES:
        transparent = image.info.get("transparency")
        seen = np.asarray(image) != (-1 if transparent is None else transparent)
        return Image.fromarray(np.where(seen, 255, 0).astype(np.uint8))
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return image.convert("RGBA").getchannel("A")
    return Image.new("L", image.size, 255)


def _brightness(image: Image.Image) -> Image.Image:
    """How light it is; what is transparent counts as black, as in a mask that was painted on an empty layer."""
    if image.mode in SIXTEEN_BIT_MODES:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    grey = image.convert("RGB").convert("L")
    return ImageChops.multiply(grey, _opacity(image))


def _cut(mask: Image.Image, placement: Placement) -> Image.Image:
    """The part of the mask that is seen, at the bucket's size."""
    left, top, right, bottom = placement.crop
    across, down = mask.width / placement.resized[0], mask.height / placement.resized[1]
    box = left * across, top * down, min(right * across, mask.width), min(bottom * down, mask.height)
    cut = mask.resize(placement.bucket, Image.Resampling.BILINEAR, box)  # Lanczos would ring at hard edges
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if placement.mirrored else cut


def _averaged(mask: Image.Image, scale: int) -> Weights:
    pixels = np.asarray(mask, dtype=np.float32) / 255
    blocks = pixels.reshape(mask.height // scale, scale, mask.width // scale, scale)
    weights: Weights = blocks.mean(axis=(1, 3), dtype=np.float32)[None]
    return weights


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122 - names are strings, with forward slashes


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
