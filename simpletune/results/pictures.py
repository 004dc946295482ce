"""Saving one generated picture with the settings that made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from simpletune import files
from simpletune.data.header import MAX_PIXELS


def save_picture(path: Path, pixels: np.ndarray[Any, Any], about: Mapping[str, str]) -> None:
    """Write uint8 (H, W, 3) RGB as PNG, whole or not at all; `about` goes into the file as PNG text entries."""
    info = PngInfo()
    for name, value in about.items():
        info.add_itxt(name, value)
    files.write_with(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info))


def open_sample(path: Path, formats: tuple[str, ...] = ("PNG",)) -> Image.Image:
    """A picture, not yet decoded. Raises OSError, and ValueError for one of too many pixels to be decoded safely."""
    picture = Image.open(path, formats=formats)
    if picture.width * picture.height > MAX_PIXELS:
        picture.close()
        raise ValueError(f"{path.name} is {picture.width}x{picture.height}")
    return picture


def read_description(path: Path) -> dict[str, str] | None:
    """The text entries of a PNG as `save_picture` wrote them; None when there is no whole picture."""
    try:
        with open_sample(path) as picture:
            picture.load()
            return {str(name): str(value) for name, value in picture.info.items() if isinstance(value, str)}
    except (OSError, SyntaxError, ValueError):
        return None
