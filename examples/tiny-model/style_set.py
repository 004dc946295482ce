"""A style set as the judge needs it: its pictures on a white square, its captions, and prompts for what it lacks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from base_accuracy import chosen_from
from pictures import Pictures
from PIL import Image

from simpletune.data.images import load_rgb

SIDE = 128
_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
_WORD = re.compile(r"[a-z]+")
# Words that say nothing of what is drawn.
_PLAIN = frozenset(
    {"a", "an", "and", "at", "by", "drawing", "from", "in", "of", "on", "or", "picture", "the", "to", "with"}
)


@dataclass(frozen=True)
class StyleSet:
    """pixels: uint8 (N, 3, SIDE, SIDE); captions: N of them."""

    name: str
    pixels: torch.Tensor
    captions: tuple[str, ...]

    @property
    def words(self) -> frozenset[str]:
        """What its captions speak of."""
        return content_words(self.captions)

    @property
    def ground(self) -> torch.Tensor:
        """What its drawings stand on, uint8 (3, SIDE, SIDE): where most pictures have nothing drawn, the lightest."""
        lightest = torch.quantile(self.pixels.float(), 0.9, dim=0)
        return lightest.round().to(torch.uint8)


def read_style(folder: Path) -> StyleSet:
    """Every picture of a folder with its caption, the .txt beside it."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    pixels = torch.stack([squared(load_rgb(str(path), path.read_bytes())) for path in paths])
    captions = tuple(path.with_suffix(".txt").read_text("utf-8").strip() for path in paths)
    return StyleSet(folder.parent.name, pixels, captions)


def squared(image: Image.Image) -> torch.Tensor:
    """The whole picture in the middle of a white square, uint8 (3, SIDE, SIDE)."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    page = Image.new("RGB", (SIDE, SIDE), "white")
    page.paste(image.resize(size, Image.Resampling.LANCZOS), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return torch.from_numpy(np.array(page)).permute(2, 0, 1).contiguous()


def content_words(captions: Sequence[str]) -> frozenset[str]:
    """The words of captions that name something, singular and plural as one."""
    words = {word for caption in captions for word in _WORD.findall(caption.lower())}
    return frozenset(_singular(word) for word in words - _PLAIN)


def foreign(pictures: Pictures, style: StyleSet) -> Pictures:
    """The pictures whose first caption names nothing that the style's captions name."""
    kept = [index for index, texts in enumerate(pictures.texts) if not content_words(texts[:1]) & style.words]
    return chosen_from(pictures, kept)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
