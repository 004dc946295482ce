"""One optimizer step: noise, forward, backward, sum over processes, clip, update, average.

It is written for a CUDA graph and runs as well without one: everything that changes from step to step is a tensor, and
nothing waits for the device. `micro` adds a micro batch's gradients to one flat buffer, `update` uses the buffer and
clears it; between the two, processes sum it.

Shapes: B samples of a micro batch, C latent channels, H and W latent height and width, L text tokens, D text
features, E pooled features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch.nn import Parameter
from torch.optim import Optimizer

from simpletune.config.settings import Settings
from simpletune.data.loader import MicroBatch, StepBatch
from simpletune.models.family import Family, TextEncoding
from simpletune.models.graphs import Function, Graphs
from simpletune.trainer import flow
from simpletune.trainer.ema import Ema
from simpletune.trainer.processes import Processes
from simpletune.trainer.randomness import Stream, normal, seed_torch, uniform

Predict = Callable[[Tensor, Tensor, TextEncoding], Tensor]
"""(noisy latents (B, C, H, W) float32, sigma (B,), text) -> velocity (B, C, H, W)."""

_CLIP_EPSILON = 1e-6  # as in torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class StepResult:
    """What a step did, still on the device: nothing here has been waited for.

    loss: (), the mean over the step's samples on all processes, each times its weight: 1, or the data set's
    regularisation_weight (prior preservation, DreamBooth, arXiv 2208.12242, eq. 2); grad_norm: (), before clipping;
    sigma and sample_loss: (B,), this process's samples in order, each loss before any weight.
    """

    loss: Tensor
    grad_norm: Tensor
    sigma: Tensor
    sample_loss: Tensor


class _Inputs(NamedTuple):
    """A micro batch's tensors: loader.MicroBatch, its weight made a tensor."""

    latents: Tensor
    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor
    sample_ids: Tensor
    loss_weights: Tensor
    weight: Tensor
    loss_mask: Tensor | None


class TrainingStep:
    """The step, as a function of its batch.

    A step whose loss or gradient isn't finite leaves weights, optimizer and average as they were, and so does every
    step after it: where a GPU decides that by itself, steps are under way that the host hasn't seen the end of. (On
    CUDA only the capturable optimizers can be told so; the others move, and nothing of it is saved. In fp16 the loss
    scaler leaves out single steps instead.)

    `graphs`: captures micro batches and, with `update_captured`, the update; None computes everything anew each time.
    `on_compile_error`: what to predict with from then on when `predict` can't be compiled; it may raise instead.
    """

    def __init__(
        self,
        settings: Settings,
        family: Family,
        predict: Predict,
        parameters: Sequence[Parameter],
        optimizer: Optimizer,
        processes: Processes,
        empty_caption: TextEncoding | None,
        *,
        ema: Ema | None = None,
        graphs: Graphs | None = None,
        update_captured: bool = False,
        on_compile_error: Callable[[Exception], Predict] | None = None,
    ) -> None:
        device = processes.device
        self._settings = settings
        self._family = family
        self._predict = predict
        self._parameters = list(parameters)
        self._optimizer = optimizer
        self._processes = processes
        self._empty_caption = empty_caption
        self._ema = ema
        self._on_compile_error = on_compile_error
        self._graphs = graphs
        self._update_graphs = graphs if update_captured else None
        self._sigma_sampler = flow.sigma_sampler(settings, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=settings.mixed_precision == "fp16")
        self._gradients = _flat_gradients(self._parameters)
        self._views = [parameter.grad for parameter in self._parameters]
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._loss = torch.zeros((), device=device)
        self._failed = torch.zeros((), device=device)  # 1 from the first step that isn't finite on
        if device.type == "cuda" and _takes_found_inf(optimizer) and not self._scaler.is_enabled():
            optimizer.found_inf = self._failed  # fused optimizers look there

    def __call__(self, batch: StepBatch) -> StepResult:
        """Train on this process's share of one step."""
        seed_torch(self._settings.seed, batch.step, self._processes.rank)
        self._step.fill_(batch.step)
        drawn = []
        for micro in batch.micro_batches:
            sigma_B, loss_B = self._run_micro(micro)
            if micro.weight > 0:
                drawn.append(torch.stack([sigma_B, loss_B]))  # the next replay of the same graph writes there again
        self._processes.sum([self._gradients, self._loss])
        loss, grad_norm = self._run("update", self._update, (), self._update_graphs, again=False)
        sigma, sample_loss = torch.cat(drawn, 1) if drawn else torch.empty(2, 0, device=self._processes.device)
        return StepResult(loss.clone(), grad_norm.clone(), sigma, sample_loss)

    def release_memory(self) -> None:
        """Give back what is held between steps only to be fast, for another phase that needs the memory."""
        if self._graphs is not None:
            self._graphs.release()

    def state(self) -> dict[str, float]:
        """What the step itself must remember over a restart: the loss scale of fp16, else nothing."""
        return dict(self._scaler.state_dict())

    def load_state(self, state: dict[str, float]) -> None:
        if state:
            self._scaler.load_state_dict(state)

    def _run_micro(self, batch: MicroBatch) -> tuple[Tensor, ...]:
        """Add one micro batch's gradients and loss to the step's; its sigma (B,) and losses (B,)."""
        weight = torch.full((), batch.weight, device=self._processes.device)
        inputs = _Inputs(
            batch.latents,
            batch.prompt_embeds,
            batch.pooled_prompt_embeds,
            batch.sample_ids,
            batch.loss_weights,
            weight,
            batch.loss_mask,
        )
        try:
            return self._run("micro", self._micro, inputs, self._graphs)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            if self._on_compile_error is None:
                raise
            self._predict = self._on_compile_error(error)
            self._on_compile_error = None
        # Compiling comes before anything is added to the gradients, so nothing of the first try is left.
        return self._run("micro", self._micro, inputs, self._graphs)

    @staticmethod
    def _run(
        name: str, function: Function, inputs: Sequence[Tensor | None], graphs: Graphs | None, *, again: bool = True
    ) -> tuple[Tensor, ...]:
        return function(*inputs) if graphs is None else graphs.run(name, function, inputs, again=again)

    def _micro(self, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        inputs = _Inputs(*tensors)
        loss_B, sigma_B = self._losses(inputs)
        share = (loss_B * inputs.loss_weights).mean() * inputs.weight
        gradients = torch.autograd.grad(
            self._scaler.scale(share), self._parameters, allow_unused=True, materialize_grads=True
        )
        torch._foreach_add_(self._views, list(gradients))
        self._loss += share.detach()
        return sigma_B, loss_B.detach()

    def _losses(self, inputs: _Inputs) -> tuple[Tensor, Tensor]:
        """The loss (B,) and sigma (B,) of one micro batch."""
        settings, ids_B = self._settings, inputs.sample_ids
        clean_BCHW = inputs.latents.float()
        height, width = (side * self._family.vae_scale_factor for side in clean_BCHW.shape[-2:])
        shift = flow.shift_for(settings, self._family.image_tokens(width, height))
        noise_BCHW = normal(settings.seed, Stream.NOISE, self._step, ids_B, clean_BCHW.shape[1:])
        sigma_B = self._sigma_sampler(uniform(settings.seed, Stream.SIGMA, self._step, ids_B), shift)
        noisy_BCHW = flow.interpolate(clean_BCHW, noise_BCHW, sigma_B)
        velocity_BCHW = self._predict(noisy_BCHW, sigma_B, self._text(inputs))
        target_BCHW = flow.velocity(clean_BCHW, noise_BCHW)
        loss_B = flow.flow_loss(velocity_BCHW, target_BCHW, settings.loss_type, settings.huber_c, inputs.loss_mask)
        return loss_B, sigma_B

    def _text(self, inputs: _Inputs) -> TextEncoding:
        """The batch's captions, some of them dropped: replaced by the empty caption, decided on the device."""
        text = TextEncoding(inputs.prompt_embeds, inputs.pooled_prompt_embeds)
        if self._empty_caption is None:
            return text
        drawn_B = uniform(self._settings.seed, Stream.CAPTION_DROPOUT, self._step, inputs.sample_ids)
        dropped_B = drawn_B < self._settings.caption_dropout_probability
        return TextEncoding(
            torch.where(dropped_B[:, None, None], self._empty_caption.prompt_embeds, text.prompt_embeds),
            torch.where(dropped_B[:, None], self._empty_caption.pooled_prompt_embeds, text.pooled_prompt_embeds),
        )

    @torch.no_grad()
    def _update(self) -> tuple[Tensor, Tensor]:
        """Clip, step, average, clear; the step's loss and the norm before clipping, both ()."""
        self._scaler.unscale_(self._optimizer)  # does nothing unless the precision is fp16
        norm = torch.linalg.vector_norm(self._gradients, dtype=torch.float32)
        loss = self._loss.clone()
        if self._settings.max_grad_norm > 0:
            self._gradients.mul_((self._settings.max_grad_norm / (norm + _CLIP_EPSILON)).clamp(max=1.0))
        if self._scaler.is_enabled():
            self._scaler.step(self._optimizer)
            self._scaler.update()
        else:
            self._failed.copy_(torch.maximum(self._failed, (~torch.isfinite(norm + loss)).float()))
            if not self._stands_still():
                self._optimizer.step()
        if self._ema is not None:
            self._ema.update(self._step, self._failed)
        self._gradients.zero_()
        self._loss.zero_()
        return loss, norm

    def _stands_still(self) -> bool:
        """Whether this step must not move the weights, where the host has to know."""
        return self._processes.device.type != "cuda" and bool(self._failed)


def _flat_gradients(parameters: Sequence[Parameter]) -> Tensor:
    """One buffer for all gradients, of the parameters' dtype; each parameter's `grad` is a view of it."""
    flat = torch.zeros(
        sum(parameter.numel() for parameter in parameters), dtype=parameters[0].dtype, device=parameters[0].device
    )
    for parameter, piece in zip(parameters, flat.split([parameter.numel() for parameter in parameters]), strict=True):
        parameter.grad = piece.view_as(parameter)
    return flat


def _takes_found_inf(optimizer: Optimizer) -> bool:
    """Whether the optimizer's kernel skips a step by itself when told of an overflow: torch's fused ones do."""
    return all(group.get("fused", False) for group in optimizer.param_groups)
