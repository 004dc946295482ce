"""How a feature model wants its pictures: the numbers of its preprocessor_config.json, done with Pillow.

The libraries' own processors need torchvision in some versions and not in others, and differ in how they resize; a
feature that is compared with others must not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from simpletune import outside
from simpletune.disk_words import in_words
from simpletune.errors import ModelUnavailable

FILE = "preprocessor_config.json"


@dataclass(frozen=True)
class Preprocessing:
    """Resize so that the shorter side is `short` (or to `exact`, (width, height)), cut the middle out, normalize.

    crop: (width, height) or None; mean and std are of red, green and blue in 0 .. 1.
    """

    short: int | None
    exact: tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        resized = f"shorter side {self.short}" if self.short else "as they are"
        if self.exact is not None:
            resized = f"{self.exact[0]}x{self.exact[1]}"
        cut = "" if self.crop is None else f", middle {self.crop[0]}x{self.crop[1]}"
        return f"{resized}{cut}, {Image.Resampling(self.resample).name.lower()}, mean {self.mean}, std {self.std}"

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """float32 (B, 3, H, W); all must come out of one size, as they do with `crop` or `exact`."""
        return torch.stack([self._one(image) for image in images])

    def _one(self, image: Image.Image) -> Tensor:
        image = self._cut(self._resized(image))
        pixels_HWC = np.asarray(image, np.float32) / 255
        normal_HWC = (pixels_HWC - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(normal_HWC.transpose(2, 0, 1)))

    def _resized(self, image: Image.Image) -> Image.Image:
        size = self.exact
        if self.short is not None:
            shorter, longer = sorted(image.size)
            long = int(self.short * longer / shorter)
            size = (self.short, long) if image.width <= image.height else (long, self.short)
        return image if size is None else image.resize(size, Image.Resampling(self.resample))

    def _cut(self, image: Image.Image) -> Image.Image:
        if self.crop is None:
            return image
        left, top = (image.width - self.crop[0]) // 2, (image.height - self.crop[1]) // 2
        return image.crop((left, top, left + self.crop[0], top + self.crop[1]))  # beyond the edges it is black


def read_preprocessing(folder: Path) -> Preprocessing:
    """What `folder`/preprocessor_config.json says. Raises ModelUnavailable where it is missing or says too little."""
    path = folder / FILE
    try:
        found = outside.read_json(path)
        return _understood(found)
    except FileNotFoundError as error:
        raise ModelUnavailable(f"{folder} has no {FILE}", "take all files of the model") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = in_words(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise ModelUnavailable(f"{path} can't be used: {said}", "take all files of the model, unchanged") from error


def _understood(found: Mapping[str, Any]) -> Preprocessing:
    short, exact = None, None
    if found.get("do_resize", True):
        size = found["size"]
        if isinstance(size, int):
            short = size
        elif "shortest_edge" in size:
            short = int(size["shortest_edge"])
        else:
            exact = (int(size["width"]), int(size["height"]))
    crop = _crop(found["crop_size"]) if found.get("do_center_crop", False) else None
    if crop is None and exact is None:
        raise ValueError("it gives pictures of many sizes")
    mean, std = (tuple(float(number) for number in found[name]) for name in ("image_mean", "image_std"))
    return Preprocessing(short, exact, crop, int(found.get("resample", Image.Resampling.BICUBIC)), mean, std)


def _crop(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size["width"]), int(size["height"]))
