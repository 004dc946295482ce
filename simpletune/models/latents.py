"""SD3's autoencoder: pictures to latents and back.

Shapes: B batch, C latent channels, H and W latent height and width, P and P' the picture's sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simpletune.config.settings import Settings


def vae_dtype(settings: Settings) -> torch.dtype:
    """bfloat16 in a bf16 run, float32 otherwise: the encoder's activations can leave float16's range."""
    return torch.bfloat16 if settings.mixed_precision == "bf16" else torch.float32


@dataclass(frozen=True)
class SD3LatentCoder:
    """An AutoencoderKL on one device."""

    module: Any
    device: torch.device
    dtype: torch.dtype

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
        scale = 2 ** (len(self.module.config.block_out_channels) - 1)
        return self.module.config.latent_channels, pixels.shape[1] // scale, pixels.shape[2] // scale

    def _sent(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, without waiting for the copy; only from pinned memory a GPU's host needn't."""
        if self.device.type == "cuda" and not tensor.is_pinned():
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=self.device.type == "cuda")

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray[Any, Any]:
        """Latents (B, C, H, W) -> uint8 (B, P, P', 3), rounded as diffusers' image processor rounds."""
        config = self.module.config
        z_BCHW = latents.to(self.device, self.dtype) / config.scaling_factor + config.shift_factor
        x_BCPP = self.module.decode(z_BCHW, return_dict=False)[0]
        unit_BPPC = (x_BCPP * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
        pixels: np.ndarray[Any, Any] = (unit_BPPC * 255).round().astype(np.uint8)
        return pixels


def _noise(key: str, shape: Sequence[int]) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "little", signed=True)
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
