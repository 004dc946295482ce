"""What a configured run's estimate depends on, from its settings and its pictures. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from simpletune.config.settings import Settings
from simpletune.data.preflight import Preflight
from simpletune.machine.adapters import LYCORIS, lycoris_text
from simpletune.machine.estimate import GIB
from simpletune.machine.forecast import Plan

_MANY = 10_000


def plan_of(settings: Settings, preflight: Preflight) -> Plan:
    """The plan of a run whose pictures have been looked at; there must be some to train on."""
    samples = (*preflight.training, *preflight.held_out)
    prompts = {*settings.validation_prompts.values(), settings.validation_negative_prompt}
    texts = (
        {caption for sample in samples for caption in sample.captions}
        | (prompts if settings.validation_prompts else set())
        | {""}
    )
    saved = -(-preflight.total_steps // settings.checkpoint_step_interval)
    return replace(
        sketch(settings),
        bucket=max(preflight.buckets, key=lambda bucket: bucket[0] * bucket[1]),
        pictures=sum(len(sample.placements) for sample in samples),
        captions=len(texts),
        steps=preflight.total_steps,
        checkpoints=min(saved, settings.checkpoints_total_limit),
        saves=saved,
    )


def sketch(settings: Settings) -> Plan:
    """The plan of a run whose pictures nobody has looked at: square ones, and more of them than any batch takes."""
    edge = max((entry.resolution for entry in settings.image_sets), default=settings.resolution)
    return Plan(
        flavour=settings.model_flavour,
        base_model_precision=settings.base_model_precision,
        text_encoder_precisions=(
            settings.text_encoder_1_precision,
            settings.text_encoder_2_precision,
            settings.text_encoder_3_precision,
        ),
        use_t5=settings.use_t5,
        mixed_precision=settings.mixed_precision,
        tokenizer_max_length=settings.tokenizer_max_length,
        lora_rank=settings.lora_rank,
        lora_target=settings.lora_target,
        use_dora=settings.use_dora,
        lycoris=lycoris_text(settings.lycoris_config) if settings.lora_type == LYCORIS else None,
        optimizer=settings.optimizer,
        use_ema=settings.use_ema,
        train_batch_size=settings.train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_interval=settings.gradient_checkpointing_interval,
        vae_batch_size=settings.vae_batch_size,
        text_encoder_batch_size=settings.text_encoder_batch_size,
        bucket=(edge, edge),
        validation_sizes=settings.validation_resolution,
        validation_prompts=len(settings.validation_prompts),
        num_validation_images=settings.num_validation_images,
        validation_num_inference_steps=settings.validation_num_inference_steps,
        validation_step_interval=settings.validation_step_interval,
        pictures=_MANY,
        captions=_MANY,
        steps=settings.max_train_steps or _MANY,
        checkpoints=settings.checkpoints_total_limit,
        lora_dropout=settings.lora_dropout,
        base_model_matmul=settings.base_model_matmul,
        execution=settings.execution,
        deterministic=settings.deterministic,
        base_model_offload=settings.base_model_offload,
        activation_offload=settings.activation_offload,
        device=settings.device,
        device_bytes=None if settings.device_memory_gb is None else int(settings.device_memory_gb * GIB),
    )
