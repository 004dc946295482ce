"""Training the autoencoder: pixels, edges, a light pull to a normal distribution, and latents that bear scaling.

Shapes: B batch, P picture side in pixels, C latent channels, H and W latent sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pictures import Pictures, as_input, may_mirror, varied
from torch import Tensor
from torch.nn import functional
from weights import Clock, MasterWeights

RATE = 1e-3
WARMUP_STEPS = 200
# Against a mean absolute error of some hundredths: enough to keep latents together, too little to cost sharpness.
KL_WEIGHT = 3e-4
EDGE_WEIGHT = 0.5
SCALED_WEIGHT = 0.25
# SD3's latents have a mean that shift_factor takes away. Ours shall have one too, else forgetting it would go unseen.
LATENT_MEAN = 0.6

Log = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class VaeLoss:
    """Each () on the device."""

    total: Tensor
    pixels: Tensor
    edges: Tensor
    kl: Tensor


def vae_loss(vae: Any, pixels_B3PP: Tensor, noise_BCHW: Tensor) -> VaeLoss:
    """Reconstruction from a sampled latent (Kingma & Welling 2013), with differences of neighbours beside the pixels.

    A quarter of the batch is also decoded from its latents at half the size, and compared with the picture at half the
    size: latents that bear scaling are smoother and easier to model (Kouzelis et al. 2025, arXiv 2502.09509).
    """
    dtype = next(vae.parameters()).dtype
    posterior = vae.encode(pixels_B3PP.to(dtype)).latent_dist
    mean_BCHW, log_variance_BCHW = posterior.mean.float(), posterior.logvar.float()
    latent_BCHW = mean_BCHW + torch.exp(0.5 * log_variance_BCHW) * noise_BCHW
    decoded_B3PP = vae.decode(latent_BCHW.to(dtype)).sample.float()
    pixels = (decoded_B3PP - pixels_B3PP).abs().mean()
    edges = _edge_error(decoded_B3PP, pixels_B3PP)
    few = len(pixels_B3PP) // 4
    half = vae.decode(functional.avg_pool2d(latent_BCHW[:few], 2).to(dtype)).sample.float()
    scaled = (half - functional.avg_pool2d(pixels_B3PP[:few], 2)).abs().mean()
    kl = 0.5 * ((mean_BCHW - LATENT_MEAN) ** 2 + log_variance_BCHW.exp() - 1 - log_variance_BCHW).mean()
    total = pixels + EDGE_WEIGHT * edges + SCALED_WEIGHT * scaled + KL_WEIGHT * kl
    return VaeLoss(total, pixels, edges, kl)


def _edge_error(decoded_B3PP: Tensor, pixels_B3PP: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbours, at full and half size: lines stay lines."""
    difference = decoded_B3PP - pixels_B3PP
    error = difference.new_zeros(())
    for _ in range(2):
        error = error + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        difference = functional.avg_pool2d(difference, 2)
    return error / 2


def train_vae(
    vae: Any,
    training: Pictures,
    held_out: Pictures,
    seconds: float,
    batch: int,
    device: torch.device,
    seed: int,
    log: Log,
) -> None:
    """Train in place for `seconds`, then leave the averaged weights in it, in float32 and frozen."""
    generator = torch.Generator(device).manual_seed(seed)
    half = vae.config.latent_channels
    torch.nn.init.constant_(vae.encoder.conv_out.bias[:half].data, LATENT_MEAN)
    torch.nn.init.constant_(vae.encoder.conv_out.bias[half:].data, -4.0)
    vae.to(device, memory_format=torch.channels_last).train().requires_grad_(True)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    weights = MasterWeights([vae], dtype, betas=(0.9, 0.99), weight_decay=1e-4, average_decay=0.999)
    pixels, mirror = training.pixels.to(device), may_mirror(training.categories, device)
    batch = min(batch, len(training))
    clock, step = Clock(seconds), 0
    while not clock.up:
        index_B = torch.randint(len(training), (batch,), generator=generator, device=device)
        mirrored_B = mirror[index_B] & (torch.rand(batch, generator=generator, device=device) < 0.5)
        x = varied(as_input(pixels[index_B]), mirrored_B, generator).contiguous(memory_format=torch.channels_last)
        shape = (batch, half, x.shape[-2] // 8, x.shape[-1] // 8)
        loss = vae_loss(vae, x, torch.randn(shape, generator=generator, device=device))
        loss.total.backward()
        weights.step(clock.rate(RATE, step, WARMUP_STEPS), clip=1.0)
        if step % 100 == 0:
            log({"step": step, "share": clock.share, "pixels": loss.pixels.item(), "edges": loss.edges.item(),
                 "kl": loss.kl.item()})  # fmt: skip
        step += 1
    weights.use_average()
    vae.eval().requires_grad_(False)
    measured = psnr(vae, held_out, device)
    log({"step": step, "share": 1.0, "psnr_mean": measured.mean().item(), "psnr_median": measured.median().item()})


@torch.no_grad()
def psnr(vae: Any, pictures: Pictures, device: torch.device) -> Tensor:
    """PSNR of each picture in dB, (N,): -10 log10 of the mean squared error over RGB in 0 .. 1, from 8-bit pixels."""
    measured = []
    for start in range(0, len(pictures), 64):
        pixels = pictures.pixels[start : start + 64].to(device)
        decoded = vae.decode(vae.encode(as_input(pixels)).latent_dist.mode()).sample
        eight_bit = ((decoded.float() * 0.5 + 0.5).clamp(0, 1) * 255).round()
        error = ((eight_bit - pixels.float()) / 255).square().flatten(1).mean(1)
        measured.append(-10 * torch.log10(error.clamp_min(1e-10)))
    return torch.cat(measured)


@dataclass(frozen=True)
class Latents:
    """Posteriors of every picture in several positions: mean and deviation (N, V, C, H, W), float16, on the device."""

    mean: Tensor
    deviation: Tensor

    def sampled(self, index_B: Tensor, variant_B: Tensor, generator: torch.Generator) -> Tensor:
        mean_BCHW = self.mean[index_B, variant_B].float()
        noise_BCHW = torch.randn(mean_BCHW.shape, generator=generator, device=mean_BCHW.device)
        return mean_BCHW + self.deviation[index_B, variant_B].float() * noise_BCHW


@torch.no_grad()
def encode(vae: Any, pictures: Pictures, variants: int, device: torch.device, seed: int) -> Latents:
    """The first variant is the picture as it is; of the others every second one is mirrored where that may be."""
    generator = torch.Generator(device).manual_seed(seed)
    mirror = may_mirror(pictures.categories, device)
    means, deviations = [], []
    for start in range(0, len(pictures), 256):
        pixels = as_input(pictures.pixels[start : start + 256].to(device))
        allowed_B = mirror[start : start + 256]
        posteriors = []
        for variant in range(variants):
            mirrored_B = allowed_B & (variant % 2 == 1)
            x = pixels if variant == 0 else varied(pixels, mirrored_B, generator)
            posteriors.append(vae.encode(x).latent_dist)
        means.append(torch.stack([p.mean.half() for p in posteriors], 1))
        deviations.append(torch.stack([p.std.half() for p in posteriors], 1))
    return Latents(torch.cat(means), torch.cat(deviations))


def scale_and_shift(latents: Latents) -> tuple[float, float]:
    """scaling_factor and shift_factor that give latents mean 0 and deviation 1 over all channels."""
    mean = latents.mean.float().mean().item()
    variance = (latents.mean.float() - mean).square().mean() + latents.deviation.float().square().mean()
    return 1 / math.sqrt(variance.item()), mean
