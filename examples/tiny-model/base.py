"""Training the painter: three text encoders and the MMDiT together, by rectified flow on latents.

Shapes: N pictures, K captions each, B batch, L tokens, D text features, E pooled features, C latent channels,
H and W latent sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from pictures import Pictures
from torch import Tensor, nn
from torch.nn import functional
from vae import Latents
from weights import Clock, MasterWeights

from simpletune.trainer import flow

RATE = 8e-4
WARMUP_STEPS = 500
SHIFT = 2.0
CAPTION_DROPOUT = 0.1
T5_DROPOUT = 0.1  # so that a run with use_t5 false has a model that knows its absence
HELD_OUT_SIGMAS = 8

Log = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Encoders:
    """The three encoders with their tokenizers: CLIP-L, CLIP-G, T5."""

    modules: tuple[Any, Any, Any]
    tokenizers: tuple[Any, Any, Any]
    lengths: tuple[int, int, int]
    width: int  # D

    def token_ids(self, texts: Sequence[str]) -> Tensor:
        """(3, len(texts), L): all three padded to the longest of the lengths."""
        longest = max(self.lengths)
        rows = []
        for tokenizer, length in zip(self.tokenizers, self.lengths, strict=True):
            tokens = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True)
            rows.append(functional.pad(torch.tensor(tokens.input_ids), (0, longest - length)))
        return torch.stack(rows)

    def encode(self, ids_3BL: Tensor, without_t5_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Token ids -> (B, L, D) states and (B, E) pooled, with gradients, laid out as SD3's pipeline lays them out.

        Penultimate states of both CLIPs side by side, zeros up to D, then T5's states on the token axis.
        """
        clips = [
            module(ids_BL[:, :length], output_hidden_states=True)
            for module, ids_BL, length in zip(self.modules[:2], ids_3BL[:2], self.lengths[:2], strict=True)
        ]
        states_BLD = torch.cat([output.hidden_states[-2] for output in clips], dim=-1)
        states_BLD = functional.pad(states_BLD, (0, self.width - states_BLD.shape[-1]))
        t5_BLD = self.modules[2](ids_3BL[2][:, : self.lengths[2]])[0]
        if without_t5_B is not None:
            t5_BLD = t5_BLD * (~without_t5_B)[:, None, None].to(t5_BLD.dtype)
        pooled_BE = torch.cat([output.text_embeds for output in clips], dim=-1)
        return torch.cat([states_BLD, t5_BLD], dim=1), pooled_BE


@dataclass(frozen=True)
class Painter:
    """Everything of the model but the VAE; scale and shift are the VAE's, for its latents."""

    encoders: Encoders
    transformer: Any
    scale: float
    shift: float

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (*self.encoders.modules, self.transformer)

    def velocity(self, noisy_BCHW: Tensor, sigma_B: Tensor, states_BLD: Tensor, pooled_BE: Tensor) -> Tensor:
        dtype = states_BLD.dtype
        predicted: Tensor = self.transformer(
            hidden_states=noisy_BCHW.to(dtype),
            timestep=1000 * sigma_B.float(),
            encoder_hidden_states=states_BLD,
            pooled_projections=pooled_BE,
            return_dict=False,
        )[0]
        return predicted


@dataclass(frozen=True)
class Captions:
    """ids (3, N, K, L) of every caption, counts (N,) how many of the K each picture has, and the empty caption's."""

    ids: Tensor
    counts: Tensor
    empty: Tensor  # (3, L)

    @classmethod
    def of(cls, encoders: Encoders, texts: Sequence[Sequence[str]], device: torch.device) -> Captions:
        most = max(map(len, texts))
        flat = [row[min(number, len(row) - 1)] for row in texts for number in range(most)]
        ids = encoders.token_ids(flat)
        ids = ids.view(3, len(texts), most, ids.shape[-1]).to(device)
        empty = encoders.token_ids([""])[:, 0].to(device)
        return cls(ids, torch.tensor([len(row) for row in texts], device=device), empty)

    def drawn(self, index_B: Tensor, generator: torch.Generator) -> Tensor:
        """(3, B, L): one caption of each picture, or none for a tenth of them, as guidance needs."""
        device = index_B.device
        uniform_B2 = torch.rand(len(index_B), 2, generator=generator, device=device)
        which_B = (uniform_B2[:, 0] * self.counts[index_B]).long()
        ids_3BL = self.ids[:, index_B, which_B]
        dropped_B1 = (uniform_B2[:, 1] < CAPTION_DROPOUT)[:, None]
        return torch.where(dropped_B1, self.empty[:, None], ids_3BL)


def start_quietly(transformer: Any) -> None:
    """Zero the modulations and the last layer, so that blocks begin as identities (DiT, arXiv 2212.09748)."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        if name.endswith(("norm1.linear", "norm1_context.linear", "norm_out.linear", "proj_out")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


def train_base(
    painter: Painter,
    latents: Latents,
    training: Pictures,
    held_out: tuple[Latents, Pictures],
    seconds: float,
    batch: int,
    device: torch.device,
    seed: int,
    log: Log,
    resumed: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Train in place for `seconds`, leave the averaged weights in it, frozen; returns the state to go on with."""
    generator = torch.Generator(device).manual_seed(seed)
    for module in painter.modules:
        module.to(device).train().requires_grad_(True)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    weights = MasterWeights(painter.modules, dtype, betas=(0.9, 0.98), weight_decay=0.01, average_decay=0.9995)
    if resumed is not None:
        weights.load_state(resumed)
    captions = Captions.of(painter.encoders, training.texts, device)
    variants, count = latents.mean.shape[1], len(training)
    batch = min(batch, count)
    clock, step = Clock(seconds), 0
    while not clock.up:
        index_B = torch.randint(count, (batch,), generator=generator, device=device)
        variant_B = torch.randint(variants, (batch,), generator=generator, device=device)
        clean_BCHW = (latents.sampled(index_B, variant_B, generator) - painter.shift) * painter.scale
        loss = _flow_loss(painter, clean_BCHW, captions.drawn(index_B, generator), generator)
        loss.backward()
        norm = weights.step(clock.rate(RATE, step, WARMUP_STEPS), clip=1.0)
        if step % 200 == 0:
            log({"step": step, "share": clock.share, "loss": loss.item(), "norm": norm.item()})
        step += 1
    state = weights.state()
    weights.use_average()
    for module in painter.modules:
        module.eval().requires_grad_(False)
    log({"step": step, "share": 1.0, "held_out_loss": held_out_loss(painter, *held_out, device)})
    return state


def _flow_loss(painter: Painter, clean_BCHW: Tensor, ids_3BL: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocity at sigmas of a shifted logit-normal, as `simpletune train` has it."""
    batch, device = len(clean_BCHW), clean_BCHW.device
    uniform_B2 = torch.rand(batch, 2, generator=generator, device=device)
    # Evenly spread uniform numbers instead of independent ones: the same distribution with less scatter.
    spread_B = (torch.arange(batch, device=device) + uniform_B2[:, 0]) / batch
    sigma_B = flow.shift_sigma(flow.logit_normal_quantile(spread_B.clamp(1e-5, 1 - 1e-5), 0.0, 1.0), SHIFT)
    noise_BCHW = torch.randn(clean_BCHW.shape, generator=generator, device=device)
    states_BLD, pooled_BE = painter.encoders.encode(ids_3BL, uniform_B2[:, 1] < T5_DROPOUT)
    noisy_BCHW = flow.interpolate(clean_BCHW, noise_BCHW, sigma_B)
    velocity_BCHW = painter.velocity(noisy_BCHW, sigma_B, states_BLD, pooled_BE)
    return flow.flow_loss(velocity_BCHW, flow.velocity(clean_BCHW, noise_BCHW), "l2", 0.0).mean()


@torch.no_grad()
def held_out_loss(painter: Painter, latents: Latents, pictures: Pictures, device: torch.device) -> float:
    """The mean loss on pictures that were not trained on, at evenly spaced sigmas and noise that is always the same."""
    generator = torch.Generator(device).manual_seed(0)
    captions = Captions.of(painter.encoders, [row[:1] for row in pictures.texts], device)
    states_BLD, pooled_BE = painter.encoders.encode(captions.ids[:, :, 0])
    clean_BCHW = (latents.mean[:, 0].float() - painter.shift) * painter.scale
    total = 0.0
    for level in range(HELD_OUT_SIGMAS):
        sigma_B = torch.full((len(clean_BCHW),), (level + 0.5) / HELD_OUT_SIGMAS, device=device)
        noise_BCHW = torch.randn(clean_BCHW.shape, generator=generator, device=device)
        noisy_BCHW = flow.interpolate(clean_BCHW, noise_BCHW, sigma_B)
        velocity_BCHW = painter.velocity(noisy_BCHW, sigma_B, states_BLD, pooled_BE)
        total += flow.flow_loss(velocity_BCHW, flow.velocity(clean_BCHW, noise_BCHW), "l2", 0.0).mean().item()
    return total / HELD_OUT_SIGMAS


@torch.no_grad()
def paint(
    painter: Painter, vae: Any, scheduler: Any, texts: Sequence[str], *, steps: int, guidance: float, seed: int
) -> Tensor:
    """Pictures of the texts, uint8 (B, 3, P, P) on the CPU: Euler steps and guidance as the pipeline has them."""
    device = next(painter.transformer.parameters()).device
    ids = painter.encoders.token_ids([*texts, ""]).to(device)
    states_BLD, pooled_BE = painter.encoders.encode(ids)
    count = len(texts)
    both_states = torch.cat([states_BLD[-1:].expand(count, -1, -1), states_BLD[:-1]])
    both_pooled = torch.cat([pooled_BE[-1:].expand(count, -1), pooled_BE[:-1]])
    config = painter.transformer.config
    shape = (count, config.in_channels, config.sample_size, config.sample_size)
    x_BCHW = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.tolist()
    for sigma, following in pairwise(sigmas):
        sigma_B = torch.full((2 * count,), sigma, device=device)
        velocity = painter.velocity(torch.cat([x_BCHW, x_BCHW]), sigma_B, both_states, both_pooled)
        without, with_text = velocity.chunk(2)
        x_BCHW = x_BCHW + (following - sigma) * (without + guidance * (with_text - without))
    decoded = [vae.decode(chunk / painter.scale + painter.shift).sample for chunk in x_BCHW.split(64)]
    return ((torch.cat(decoded) * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
