"""The memory a configured run will take, by phase, from the shapes of its model alone: nothing is loaded or fetched."""

from __future__ import annotations

from typing import Any

from simpletune.config import architecture
from simpletune.config.families import FAMILIES
from simpletune.config.settings import Settings
from simpletune.data.preflight import Preflight
from simpletune.machine.estimate import (
    PhaseMemory,
    Run,
    TensorShape,
    lora_parameter_count,
    memory_by_phase,
    weight_bytes,
)
from simpletune.models import components
from simpletune.models.adapters import lora_targets
from simpletune.models.latents import vae_dtype
from simpletune.models.load import compute_dtype
from simpletune.models.registry import get_family
from simpletune.models.sd3 import QUANTIZED

_CLIP_TOKENS = 77


def forecast(settings: Settings, plan: Preflight) -> list[PhaseMemory]:
    """Each phase's peak on the device, in the order they run, for the flavour's published shapes."""
    family, compute = get_family(settings.model_family), compute_dtype(settings).itemsize
    transformer = components.empty_module("transformer", _config(settings, "transformer"))
    shapes = _shapes(transformer)
    largest = max(plan.buckets, key=lambda bucket: bucket[0] * bucket[1])
    sampled = max(settings.validation_resolution, key=lambda size: size[0] * size[1])
    quantized = {name for name, module in transformer.named_modules() if QUANTIZED(name, module)}
    return memory_by_phase(
        Run(
            text_encoder_weights=_text_encoder_weights(settings, compute),
            vae_weights=weight_bytes(_part_shapes(settings, "vae"), "no_change", vae_dtype(settings).itemsize),
            transformer_weights=weight_bytes(
                shapes, settings.base_model_precision, compute, lambda name: name in quantized
            ),
            block_count=FAMILIES[settings.model_family].flavours[settings.model_flavour].block_count,
            width=transformer.config.num_attention_heads * transformer.config.attention_head_dim,
            image_tokens=family.image_tokens(*largest),
            text_tokens=_CLIP_TOKENS + settings.tokenizer_max_length,
            pixels=largest[0] * largest[1],
            validation_pixels=sampled[0] * sampled[1],
            validation_image_tokens=family.image_tokens(*sampled),
            batch_size=settings.train_batch_size,
            vae_batch_size=settings.vae_batch_size,
            text_encoder_batch_size=settings.text_encoder_batch_size,
            lora_parameters=lora_parameter_count(shapes, lora_targets(transformer, settings), settings.lora_rank),
            optimizer=settings.optimizer,
            use_ema=settings.use_ema,
            gradient_checkpointing=settings.gradient_checkpointing,
            gradient_checkpointing_interval=settings.gradient_checkpointing_interval,
            compute_bytes=compute,
            vae_bytes=vae_dtype(settings).itemsize,
        )
    )


def _text_encoder_weights(settings: Settings, compute: int) -> int:
    precisions = [settings.text_encoder_1_precision, settings.text_encoder_2_precision]
    if settings.use_t5:
        precisions.append(settings.text_encoder_3_precision)
    parts = architecture.ENCODER_PARTS[: len(precisions)]
    return sum(
        weight_bytes(_part_shapes(settings, part), precision, compute, lambda name: "embed" not in name)
        for part, precision in zip(parts, precisions, strict=True)
    )


def _part_shapes(settings: Settings, part: str) -> dict[str, TensorShape]:
    return _shapes(components.empty_module(part, _config(settings, part)))


def _config(settings: Settings, part: str) -> dict[str, Any]:
    return architecture.component_config(settings.model_flavour, part)


def _shapes(module: Any) -> dict[str, TensorShape]:
    return {name: TensorShape("meta", tuple(parameter.shape)) for name, parameter in module.named_parameters()}
