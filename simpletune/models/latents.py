"""SD3's autoencoder: pictures to latents and back.

Decoding takes more memory than anything else that is done to a picture. Where it doesn't fit, the picture is decoded in
tiles: that is nearly but not quite the same, as the decoder's normalizations then see a tile each. A latent that is
trained on is never encoded so.

Shapes: B batch, C latent channels, H and W latent height and width, P and P' the picture's sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simpletune.config.settings import Settings
from simpletune.models.memory import ran_out, release

_SMALLEST_TILE = 32  # latents a side; smaller ones would save little beside the VAE itself


def vae_dtype(settings: Settings) -> torch.dtype:
    """bfloat16 in a bf16 run, float32 otherwise: the encoder's activations can leave float16's range."""
    return torch.bfloat16 if settings.mixed_precision == "bf16" else torch.float32


@dataclass
class SD3LatentCoder:
    """An AutoencoderKL on one device.

    `tile` is the side, in latents, of the tiles that pictures are decoded in since memory ran out; None: in one piece.
    """

    module: Any
    device: torch.device
    dtype: torch.dtype
    tile: int | None = None

    @torch.no_grad()
    def encode(self, pixels: np.ndarray[Any, Any], keys: Sequence[str]) -> Tensor:
        """uint8 (B, P, P', 3) RGB -> (sample - shift_factor) * scaling_factor, (B, C, H, W) in the VAE's dtype.

        The posterior is sampled with noise that depends on each picture's key alone, so neither the batch a picture is
        encoded in nor the device changes what noise it gets.
        """
        noise_BCHW = self._sent(torch.stack([_noise(key, self._latent_shape(pixels)) for key in keys]))
        x_BCPP = self._sent(torch.from_numpy(np.ascontiguousarray(pixels))).permute(0, 3, 1, 2)
        posterior = self.module.encode((x_BCPP.float() / 127.5 - 1.0).to(self.dtype)).latent_dist
        mean_BCHW = posterior.mean.float()
        sample_BCHW = mean_BCHW + posterior.std.float() * noise_BCHW
        config = self.module.config
        return ((sample_BCHW - config.shift_factor) * config.scaling_factor).to(self.dtype)

    def _latent_shape(self, pixels: np.ndarray[Any, Any]) -> tuple[int, int, int]:
        return self.module.config.latent_channels, pixels.shape[1] // self._scale, pixels.shape[2] // self._scale

    def _sent(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, without waiting for the copy; only from pinned memory a GPU's host needn't."""
        if self.device.type == "cuda" and not tensor.is_pinned():
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=self.device.type == "cuda")

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray[Any, Any]:
        """Latents (B, C, H, W) -> uint8 (B, P, P', 3), rounded as diffusers' image processor rounds.

        Where memory runs out, what nobody holds is given back and it is tried again; then in tiles, smaller each time,
        and so are all pictures from then on. Raises what the device said when the smallest tile doesn't fit.
        """
        config = self.module.config
        z_BCHW = latents.to(self.device, self.dtype) / config.scaling_factor + config.shift_factor
        for tile in (self.tile, self.tile, *_smaller(self.tile or max(z_BCHW.shape[2:]))):
            try:
                pixels = _pixels(self._decoded(z_BCHW, tile))
            except RuntimeError as error:
                if not ran_out(error):
                    raise
                full = error.with_traceback(None)  # which holds on to what was made on the way to it
            else:
                self.tile = tile
                return pixels
            release(self.device)
        raise full

    def _decoded(self, z_BCHW: Tensor, tile: int | None) -> Tensor:
        """Numbers around -1 .. 1, (B, 3, P, P'); `tile`: latents a side of the pieces, which overlap by a quarter."""
        if tile is None:
            whole_BCPP: Tensor = self.module.decode(z_BCHW, return_dict=False)[0]
            return whole_BCPP
        self.module.tile_latent_min_size, self.module.tile_sample_min_size = tile, tile * self._scale
        self.module.enable_tiling()
        try:
            x_BCPP: Tensor = self.module.decode(z_BCHW, return_dict=False)[0]
        finally:
            self.module.disable_tiling()
        return x_BCPP

    @property
    def _scale(self) -> int:
        """Pixels a latent, of either side."""
        scale: int = 2 ** (len(self.module.config.block_out_channels) - 1)
        return scale


def _smaller(side: int) -> Iterator[int]:
    """Sides of tiles to try, in latents: half of `side`, a quarter, and so on."""
    while (side := side // 2) >= _SMALLEST_TILE:
        yield side


def _pixels(x_BCPP: Tensor) -> np.ndarray[Any, Any]:
    unit_BPPC = (x_BCPP * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
    pixels: np.ndarray[Any, Any] = (unit_BPPC * 255).round().astype(np.uint8)
    return pixels


def _noise(key: str, shape: Sequence[int]) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "little", signed=True)
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
