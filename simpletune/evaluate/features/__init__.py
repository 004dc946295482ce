"""What pictures are described by: CLIP, DINOv2, style descriptors, and statistics of colours and edges."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """A picture to describe. `digest` names its pixels: what is known of that digest is known of the picture.

    `name` is for people, `open` gives 8-bit RGB.
    """

    name: str
    digest: str
    open: Callable[[], Image.Image]


class Describer(Protocol):
    """A feature model. `identity` changes when a feature may; `preprocessing` says what is done to a picture first."""

    name: str
    model: str
    identity: str
    preprocessing: str

    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """float32 (B, D), on the CPU."""
        ...

    def release(self) -> None:
        """Let go of the weights; they come back when they are needed."""
        ...


class TextDescriber(Describer, Protocol):
    """A feature model of texts too, in the same space."""

    def texts(self, texts: Sequence[str]) -> Tensor:
        """float32 (B, D), on the CPU."""
        ...


def file_picture(path: Path) -> Picture:
    """A picture file that is there, by its bytes."""

    def load() -> Image.Image:
        with Image.open(path) as image:
            return image.convert("RGB")

    return Picture(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), load)
