"""The yardstick: one LoRA training step as trainers commonly run it, on the same shapes, in the same process.

PEFT's own layers, autocast, diffusers' own modules called eagerly, optimum-quanto's own quantized layers, torch's
AdamW, one reading of the clock a step. Nothing of this program's step is in it, so that their ratio says what it is
worth on this machine.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simpletune.config.architecture import FULL_PRECISION, component_config
from simpletune.config.settings import Settings
from simpletune.models.adapter_start import lora_targets
from simpletune.models.components import empty_module
from simpletune.models.load import compute_dtype, stream_into
from simpletune.models.random_source import RandomSource

_QUANTO = {"int8-quanto": "qint8", "int4-quanto": "qint4", "int2-quanto": "qint2", "fp8-quanto": "qfloat8"}


class EagerLoop:
    """A model of random weights and the step over it: `step()` trains once on the same made-up samples.

    Its optimizer is AdamW whatever the settings say, its loss unweighted; a step takes `gradient_accumulation_steps`
    batches. Building it raises what quanto and torch raise.
    """

    def __init__(self, settings: Settings, size: tuple[int, int], text_tokens: int, device: torch.device) -> None:
        """size: (width, height) in pixels."""
        self._settings, self._device = settings, device
        self._dtype = compute_dtype(settings)
        self._model = _model(settings, device)
        self._trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=settings.learning_rate, fused=device.type == "cuda")
        self._scaler = torch.amp.GradScaler(device.type, enabled=settings.mixed_precision == "fp16")
        config = component_config(settings.model_flavour, "transformer")
        batch, (width, height) = settings.train_batch_size, size
        self._clean_BCHW = self._random(batch, config["in_channels"], height // 8, width // 8)
        self._text_BLD = self._random(batch, text_tokens, config["joint_attention_dim"]) * 0.2
        self._pooled_BE = self._random(batch, config["pooled_projection_dim"])

    def step(self) -> Tensor:
        """Train once; the loss, (), on the device."""
        count = self._settings.gradient_accumulation_steps
        for _ in range(count):
            loss = self._loss()
            self._scaler.scale(loss / count).backward()
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self._trained, self._settings.max_grad_norm or 1.0)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _loss(self) -> Tensor:
        noise_BCHW = torch.randn_like(self._clean_BCHW)
        sigma_B = torch.sigmoid(torch.randn(len(noise_BCHW), device=self._device))
        s = sigma_B.view(-1, 1, 1, 1).to(self._dtype)
        with self._autocast():
            velocity_BCHW = self._model(
                hidden_states=(1 - s) * self._clean_BCHW + s * noise_BCHW,
                timestep=sigma_B * 1000,
                encoder_hidden_states=self._text_BLD,
                pooled_projections=self._pooled_BE,
                return_dict=False,
            )[0]
        return (velocity_BCHW.float() - (noise_BCHW - self._clean_BCHW).float()).square().mean()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype == torch.float32:
            return contextlib.nullcontext()
        autocast: contextlib.AbstractContextManager[Any] = torch.autocast(self._device.type, self._dtype)
        return autocast

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self._device, dtype=self._dtype)


def checkpoint_blocks(model: Any, interval: int) -> None:
    """Recompute every `interval`-th block of one of diffusers' models in the backward pass, as it offers itself."""
    place: dict[int, int] = {}

    def run_block(block: nn.Module, *inputs: Any) -> Any:
        if place.setdefault(id(block), len(place)) % interval == 0:
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    model.enable_gradient_checkpointing(run_block)


def _model(settings: Settings, device: torch.device) -> nn.Module:
    flavour, dtype = settings.model_flavour, compute_dtype(settings)
    model = empty_module("transformer", component_config(flavour, "transformer"))
    stream_into(model, RandomSource(flavour, "transformer", device, dtype), device=device, dtype=dtype)
    targets = list(lora_targets(model, settings))
    if settings.base_model_precision in _QUANTO:
        _quantize(model, _QUANTO[settings.base_model_precision])
    _add_lora(model, settings, targets)
    if settings.gradient_checkpointing:
        checkpoint_blocks(model, settings.gradient_checkpointing_interval)
    return model.train()


def _quantize(model: nn.Module, kind: str) -> None:
    """quanto's own layers, with the layers left out that this program leaves out."""
    from optimum import quanto

    quanto.quantize(model, weights=getattr(quanto, kind), exclude=list(FULL_PRECISION))
    quanto.freeze(model)


def _add_lora(model: Any, settings: Settings, targets: list[str]) -> None:
    from peft import LoraConfig

    model.add_adapter(
        LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            init_lora_weights="gaussian",
            target_modules=targets,
        )
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
