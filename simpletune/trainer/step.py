"""One optimizer step, run eagerly: noise, forward, backward, sum over processes, clip, update.

Shapes: B samples of a micro batch, C latent channels, H and W latent height and width, L text tokens, D text
features, E pooled features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from simpletune.config.settings import Settings
from simpletune.data.loader import MicroBatch, StepBatch
from simpletune.models.family import Family, TextEncoding
from simpletune.trainer import flow
from simpletune.trainer.processes import Processes
from simpletune.trainer.randomness import Stream, normal, seed_torch, uniform


@dataclass(frozen=True)
class StepResult:
    """What a step did, still on the device: nothing here has been waited for.

    loss: (), the mean over the step's samples on all processes, each times its weight: 1, or the data set's
    regularisation_weight (prior preservation, DreamBooth, arXiv 2208.12242, eq. 2); grad_norm: (), before clipping;
    sigma: (B,), this process's samples in order.
    """

    loss: Tensor
    grad_norm: Tensor
    sigma: Tensor


class EagerStep:
    """The training step as plain PyTorch calls."""

    def __init__(
        self,
        settings: Settings,
        family: Family,
        transformer: nn.Module,
        parameters: Sequence[Parameter],
        optimizer: Optimizer,
        processes: Processes,
        empty_caption: TextEncoding | None,
    ) -> None:
        self._settings = settings
        self._family = family
        self._transformer = transformer
        self._parameters = list(parameters)
        self._optimizer = optimizer
        self._processes = processes
        self._empty_caption = empty_caption
        self._sigma_sampler = flow.sigma_sampler(settings, processes.device)
        self._scaler = torch.amp.GradScaler(processes.device.type, enabled=settings.mixed_precision == "fp16")

    def __call__(self, batch: StepBatch) -> StepResult:
        """Train on this process's share of one step."""
        seed_torch(self._settings.seed, batch.step, self._processes.rank)
        loss_sum = torch.zeros((), device=self._processes.device)
        sigmas = []
        for micro in batch.micro_batches:
            loss_B, sigma_B = self._losses(batch.step, micro)
            share = (loss_B * micro.loss_weights).mean() * micro.weight
            self._scaler.scale(share).backward()
            loss_sum += share.detach()
            if micro.weight > 0:
                sigmas.append(sigma_B)
        grad_norm = self._update(loss_sum)
        sigma = torch.cat(sigmas) if sigmas else torch.empty(0, device=self._processes.device)
        return StepResult(loss_sum, grad_norm, sigma)

    def state(self) -> dict[str, float]:
        """What the step itself must remember over a restart: the loss scale of fp16, else nothing."""
        return dict(self._scaler.state_dict())

    def load_state(self, state: dict[str, float]) -> None:
        if state:
            self._scaler.load_state_dict(state)

    def _losses(self, step: int, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """The loss (B,) and sigma (B,) of one micro batch."""
        settings, ids_B = self._settings, batch.sample_ids
        clean_BCHW = batch.latents.float()
        height, width = (side * self._family.vae_scale_factor for side in clean_BCHW.shape[-2:])
        shift = flow.shift_for(settings, self._family.image_tokens(width, height))
        noise_BCHW = normal(settings.seed, Stream.NOISE, step, ids_B, clean_BCHW.shape[1:])
        sigma_B = self._sigma_sampler(uniform(settings.seed, Stream.SIGMA, step, ids_B), shift)
        noisy_BCHW = flow.interpolate(clean_BCHW, noise_BCHW, sigma_B)
        velocity_BCHW = self._family.predict(self._transformer, noisy_BCHW, sigma_B, self._text(step, batch))
        target_BCHW = flow.velocity(clean_BCHW, noise_BCHW)
        loss_B = flow.flow_loss(velocity_BCHW, target_BCHW, settings.loss_type, settings.huber_c, batch.loss_mask)
        return loss_B, sigma_B

    def _text(self, step: int, batch: MicroBatch) -> TextEncoding:
        """The batch's captions, some of them dropped: replaced by the empty caption, decided on the device."""
        text = TextEncoding(batch.prompt_embeds, batch.pooled_prompt_embeds)
        if self._empty_caption is None:
            return text
        drawn_B = uniform(self._settings.seed, Stream.CAPTION_DROPOUT, step, batch.sample_ids)
        dropped_B = drawn_B < self._settings.caption_dropout_probability
        return TextEncoding(
            torch.where(dropped_B[:, None, None], self._empty_caption.prompt_embeds, text.prompt_embeds),
            torch.where(dropped_B[:, None], self._empty_caption.pooled_prompt_embeds, text.pooled_prompt_embeds),
        )

    def _update(self, loss_sum: Tensor) -> Tensor:
        """Sum gradients over processes, clip, step, clear; returns the norm before clipping."""
        gradients = [self._gradient(parameter) for parameter in self._parameters]
        self._processes.sum([*gradients, loss_sum])
        self._scaler.unscale_(self._optimizer)  # does nothing unless the precision is fp16
        grad_norm = nn.utils.get_total_norm(gradients)
        if self._settings.max_grad_norm > 0:
            nn.utils.clip_grads_with_norm_(self._parameters, self._settings.max_grad_norm, grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return grad_norm.float()

    @staticmethod
    def _gradient(parameter: Parameter) -> Tensor:
        """The parameter's gradient; zeros where this process had no samples for the step."""
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        return parameter.grad
