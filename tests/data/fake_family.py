"""A model family of pure arithmetic, which counts what it is asked for and can run out of memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from simpletune.models.family import TextEncoding


class FakeFamily:
    """Identities are plain attributes; `fits` is the largest batch that fits into its memory."""

    def __init__(self) -> None:
        self.text, self.vae = "text-1", "vae-1"
        self.fits = 1000
        self.loaded: list[str] = []
        self.captions: list[str] = []
        self.pictures: list[np.ndarray[Any, Any]] = []
        self.poison: str | None = None

    def text_identity(self, files: Any, settings: Any) -> str:
        return self.text

    def vae_identity(self, files: Any, settings: Any) -> str:
        return self.vae

    def load_text_encoders(self, files: Any, settings: Any, device: torch.device, reporter: Any = None) -> FakeEncoders:
        self.loaded.append("text")
        return FakeEncoders(self)

    def pack_text(self, encoding: TextEncoding) -> dict[str, torch.Tensor]:
        return {"one": encoding.prompt_embeds[0, :1], "pooled": encoding.pooled_prompt_embeds[0]}

    def unpack_text(self, packed: Mapping[str, torch.Tensor]) -> TextEncoding:
        return TextEncoding(packed["one"].repeat(3, 1)[None], packed["pooled"][None])

    def load_vae(self, files: Any, settings: Any, device: torch.device) -> FakeVae:
        self.loaded.append("vae")
        return FakeVae(self)

    def check(self, count: int) -> None:
        if count > self.fits:
            raise torch.OutOfMemoryError("tried to allocate too much")


class FakeEncoders:
    def __init__(self, family: FakeFamily) -> None:
        self.family = family

    def encode_batches(self, batches: Sequence[Sequence[str]]) -> Iterator[TextEncoding]:
        return map(self.encode, batches)

    def encode(self, captions: Sequence[str]) -> TextEncoding:
        self.family.check(len(captions))
        self.family.captions += dict.fromkeys(captions)  # batches are filled up with copies
        embeds = torch.stack([text_vector(caption) for caption in captions])
        if self.family.poison in captions:
            embeds[captions.index(self.family.poison)] = float("nan")
        return TextEncoding(embeds[:, None].repeat(1, 3, 1), embeds[:, :2])


class FakeVae:
    def __init__(self, family: FakeFamily) -> None:
        self.family = family

    def encode(self, pixels: np.ndarray[Any, Any], keys: Sequence[str]) -> torch.Tensor:
        assert pixels.dtype == np.uint8
        assert len(keys) == len(pixels)
        self.family.check(len(pixels))
        self.family.pictures += dict(zip(keys, pixels, strict=True)).values()
        return latent(pixels)


def text_vector(caption: str) -> torch.Tensor:
    digest = hashlib.sha256(caption.encode()).digest()
    return torch.tensor([byte / 256 for byte in digest[:4]])


def latent(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    """(B, H, W, 3) -> (B, 3, H / 8, W / 8): means of 8 x 8 pixels."""
    planes = torch.from_numpy(pixels.copy()).float().permute(0, 3, 1, 2)
    return torch.nn.functional.avg_pool2d(planes, 8) / 255
