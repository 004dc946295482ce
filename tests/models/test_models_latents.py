"""Decoding a picture where memory is short."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from simpletune.models import latents as module
from simpletune.models.latents import SD3LatentCoder
from simpletune.models.sd3 import SD3

CPU = torch.device("cpu")


@pytest.fixture
def vae(make_settings: Any, monkeypatch: pytest.MonkeyPatch) -> SD3LatentCoder:
    monkeypatch.setattr(module, "_SMALLEST_TILE", 16)
    family, settings = SD3(), make_settings()
    return family.load_vae(family.locate(settings), settings, CPU)


@pytest.fixture
def latents(vae: SD3LatentCoder) -> Tensor:
    """A picture of 192 x 256 pixels: four balls."""
    picture = Image.new("RGB", (256, 192), "white")
    for place, colour in enumerate(("red", "green", "blue", "orange")):
        left, top = 10 + 51 * place, 10 + 32 * place
        ImageDraw.Draw(picture).ellipse((left, top, left + 64, top + 48), fill=colour)
    return vae.encode(np.array(picture)[None], ["key"])


def room_for(vae: SD3LatentCoder, side: int, failures: int = 10**9) -> list[tuple[int, ...]]:
    """From now on only `side` x `side` latents can be decoded at once, for the first `failures` tries; gives each."""
    tried: list[tuple[int, ...]] = []

    def check(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        shape = tuple(given[0].shape[2:])
        tried.append(shape)
        if shape[0] * shape[1] > side * side and len(tried) <= failures:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512.00 MiB.")

    vae.module.decoder.register_forward_pre_hook(check)
    return tried


def test_without_a_shortage_a_picture_is_decoded_in_one_piece(vae: SD3LatentCoder, latents: Tensor) -> None:
    tried = room_for(vae, 1000)
    assert vae.decode(latents).shape == (1, 192, 256, 3)
    assert (vae.tile, tried) == (None, [(24, 32)])


def test_what_nobody_holds_is_given_back_first(vae: SD3LatentCoder, latents: Tensor) -> None:
    whole = vae.decode(latents)
    room_for(vae, 8, failures=1)
    assert np.array_equal(vae.decode(latents), whole)
    assert vae.tile is None


def test_then_it_is_decoded_in_tiles_and_so_are_all_later_pictures(vae: SD3LatentCoder, latents: Tensor) -> None:
    whole = vae.decode(latents)
    tried = room_for(vae, 16)
    tiled = vae.decode(latents)
    assert vae.tile == 16
    assert tried[:2] == [(24, 32)] * 2
    assert tiled.shape == whole.shape
    apart = np.abs(tiled.astype(int) - whole.astype(int))
    assert apart.mean() < 0.03 * whole.std(), "nearly the same picture"
    tried.clear()
    assert np.array_equal(vae.decode(latents), tiled)
    assert max(tried) == (16, 16)
    assert vae.decode(latents[..., :16, :16]).shape == (1, 128, 128, 3)
    assert not vae.module.use_tiling, "encoding must not begin to use tiles"


def test_when_the_smallest_tile_doesnt_fit_it_is_the_devices_error(vae: SD3LatentCoder, latents: Tensor) -> None:
    room_for(vae, 8)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        vae.decode(latents)


def test_another_error_isnt_tried_again(vae: SD3LatentCoder, latents: Tensor) -> None:
    with pytest.raises(RuntimeError, match="channels"):
        vae.decode(latents[:, :3])
