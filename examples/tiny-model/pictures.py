"""The prepared pictures, as `prepare.py` leaves them: 128 x 128 RGB in one zip, captions and splits in one JSON Lines.

Shapes: N pictures, B batch, P the pictures' side in pixels.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

TRAIN, HELD_OUT = "train", "held out"
# Mirrored, these would say something else than their captions do.
NOT_MIRRORED = frozenset({"arrows", "cards", "clocks", "flags", "maps", "public signs", "road signs"})


@dataclass(frozen=True)
class Pictures:
    """pixels: uint8 (N, 3, P, P) on the CPU; the lists have N entries."""

    pixels: Tensor
    texts: list[tuple[str, ...]]
    categories: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def first(self, count: int) -> Pictures:
        return Pictures(self.pixels[:count], self.texts[:count], self.categories[:count])


def load(folder: Path, split: str) -> Pictures:
    """The pictures of one split, in the order of captions.jsonl."""
    lines = [json.loads(line) for line in (folder / "captions.jsonl").read_text("utf-8").splitlines()]
    lines = [line for line in lines if line["split"] == split]
    with zipfile.ZipFile(folder / "pictures.zip") as archive:
        contents = [archive.read(line["name"]) for line in lines]
    with ThreadPoolExecutor() as pool:
        arrays = list(pool.map(_decoded, contents))
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return Pictures(pixels, [tuple(line["texts"]) for line in lines], [line["category"] for line in lines])


def _decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def as_input(pixels: Tensor) -> Tensor:
    """uint8 -> float32 in -1 .. 1, as diffusers' image processor gives it."""
    return pixels.float() / 127.5 - 1


def varied(pixels_B3PP: Tensor, mirrored_B: Tensor, generator: torch.Generator) -> Tensor:
    """float (-1 .. 1) pictures moved by up to 6 pixels and scaled by 0.85 to 1.05 on their white ground, some mirrored.

    A drawing has no place of its own on the sheet; what is moved out of it would be cut off, so shifts stay small.
    """
    count, device = len(pixels_B3PP), pixels_B3PP.device
    uniform = torch.rand(count, 3, generator=generator, device=device)
    scale_B = 1 / (0.85 + 0.2 * uniform[:, 0])
    shift_B2 = (uniform[:, 1:] - 0.5) * 2 * 6 / (pixels_B3PP.shape[-1] / 2)
    theta_B23 = torch.zeros(count, 2, 3, device=device)
    theta_B23[:, 0, 0] = torch.where(mirrored_B, -scale_B, scale_B)
    theta_B23[:, 1, 1] = scale_B
    theta_B23[:, :, 2] = shift_B2
    grid = functional.affine_grid(theta_B23, list(pixels_B3PP.shape), align_corners=False)
    # The ground is white, 1; sampling treats what lies outside as 0, so the picture is shifted by -1 around it.
    moved = functional.grid_sample(pixels_B3PP.float() - 1, grid, mode="bilinear", align_corners=False) + 1
    return moved.clamp(-1, 1)


def may_mirror(categories: Sequence[str], device: torch.device) -> Tensor:
    """(N,) whether each picture may be mirrored."""
    return torch.tensor([category not in NOT_MIRRORED for category in categories], device=device)
