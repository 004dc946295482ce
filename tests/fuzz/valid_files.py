"""Valid pairs of files, warnings and all absent, in which every key of both schemas stands at least once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Write = Callable[[str | bytes, str | bytes], Path]
"""Puts both files where they are read; gives the path of config.json."""

SCHEMA_LINE = {"$schema": "../schemas/config.schema.json"}
PICTURES = {"id": "pics", "instance_data_dir": "pictures"}
TEXTS = {"id": "texts", "dataset_type": "text_embeds", "default": True, "cache_dir": "cache/texts"}


@dataclass(frozen=True)
class Pair:
    """config.json and multidatabackend.json as values."""

    config: dict[str, Any]
    data: list[Any]

    def text(self) -> tuple[str, str]:
        return as_file(self.config), as_file(self.data)


def as_file(value: Any) -> str:
    """A value as a person's editor lays it out."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


FULL = Pair(
    {
        **SCHEMA_LINE,
        "device": "auto",
        "device_memory_gb": 20,
        "model_family": "sd3",
        "model_flavour": "sd3.5-medium",
        "pretrained_model_name_or_path": "owner/name",
        "pretrained_text_encoders_path": "masks",
        "use_t5": True,
        "revision": "main",
        "hf_endpoint": "https://hub.example.org",
        "base_model_precision": "int8-quanto",
        "text_encoder_1_precision": "int8-quanto",
        "text_encoder_2_precision": "no_change",
        "text_encoder_3_precision": "int4-quanto",
        "quantize_via": "cpu",
        "base_model_matmul": "bf16",
        "mixed_precision": "bf16",
        "tokenizer_max_length": 256,
        "model_type": "lora",
        "lora_type": "standard",
        "lora_rank": 32,
        "lora_alpha": 16.5,
        "lora_dropout": 0.1,
        "lora_init_type": "gaussian",
        "use_rslora": True,
        "lora_target": "attention",
        "optimizer": "adamw",
        "optimizer_config": {"betas": [0.9, 0.95], "eps": 1e-07, "weight_decay": 0.02},
        "learning_rate": 0.0002,
        "lr_scheduler": "polynomial",
        "lr_warmup_steps": 50,
        "lr_end": 1e-06,
        "lr_power": 2.0,
        "max_grad_norm": 0.5,
        "max_train_steps": 2000,
        "train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "gradient_checkpointing": True,
        "gradient_checkpointing_interval": 2,
        "execution": "eager",
        "use_ema": True,
        "ema_decay": 0.99,
        "ema_update_interval": 5,
        "timestep_sampling": "logit_normal",
        "timestep_mean": 0.5,
        "timestep_scale": 0.8,
        "flow_schedule_shift": 2.5,
        "loss_type": "huber",
        "huber_c": 0.2,
        "caption_dropout_probability": 0.05,
        "data_backend_config": "multidatabackend.json",
        "resolution": 768,
        "aspect_bucket_alignment": 64,
        "vae_batch_size": 2,
        "text_encoder_batch_size": 4,
        "num_eval_images": 3,
        "max_unreadable_share": 0.1,
        "output_dir": "output/full",
        "seed": 7,
        "checkpoint_step_interval": 250,
        "checkpoints_total_limit": 3,
        "resume_from_checkpoint": "latest",
        "report_to": ["tensorboard"],
        "tracker_project_name": "my project",
        "tracker_run_name": "first try",
        "push_to_hub": True,
        "hub_model_id": "owner/lora",
        "hub_private": True,
        "validation_prompt": "a photo of a cat",
        "validation_prompts_file": "prompts.json",
        "validation_negative_prompt": "blurry",
        "validation_guidance": 4.5,
        "validation_num_inference_steps": 20,
        "validation_resolution": "768x768,512x1024",
        "validation_seed": 1,
        "num_validation_images": 2,
        "validation_step_interval": 125,
        "validation_guidance_skip_layers": [7, 8, 9],
        "validation_guidance_skip_layers_start": 0.02,
        "validation_guidance_skip_layers_stop": 0.3,
        "validation_guidance_skip_scale": 3.0,
    },
    [
        {
            **PICTURES,
            "dataset_type": "image",
            "disabled": False,
            "type": "local",
            "caption_strategy": "csv",
            "metadata_path": "captions.csv",
            "filename_column": "file",
            "caption_column": ["short", "long"],
            "width_column": "w",
            "height_column": "h",
            "instance_prompt": "a sketch",
            "prepend_instance_prompt": True,
            "caption_filter": ["#\\w+"],
            "caption_shuffle_count": 2,
            "caption_shuffle_keep": 2,
            "caption_separator": ";",
            "resolution": 512,
            "resolution_type": "pixel_area",
            "crop": True,
            "crop_style": "random",
            "crop_aspect": "closest",
            "crop_aspect_buckets": [1.0, 0.75],
            "crop_variants": 2,
            "horizontal_flip": True,
            "minimum_image_size": 256,
            "maximum_image_size": 8000,
            "target_downsample_size": 1024,
            "minimum_aspect_ratio": 0.5,
            "maximum_aspect_ratio": 2,
            "max_upscale_threshold": 1.5,
            "max_num_samples": 500,
            "mask_source": "folder",
            "mask_data_dir": "masks",
            "repeats": 3,
            "probability": 0.5,
            "start_step": 0,
            "end_step": 3000,
            "cache_dir_vae": "cache/vae/{id}",
            "text_embeds": "texts",
        },
        {
            "id": "bucket",
            "type": "s3",
            "s3_url": "s3://bucket/pictures",
            "s3_endpoint": "https://s3.example.org",
            "is_regularisation_data": True,
            "regularisation_weight": 0.5,
            "instance_prompt": "a drawing",
            "only_instance_prompt": True,
        },
        {
            "id": "hub",
            "type": "huggingface",
            "dataset_name": "owner/pictures",
            "dataset_config": "small",
            "dataset_split": "train[:100]",
            "dataset_revision": "main",
            "image_column": "picture",
            "streaming": True,
            "cache_dir_pictures": "cache/fetched/{id}",
            "caption_strategy": "huggingface",
            "caption_column": "text",
        },
        {"id": "shards", "type": "webdataset", "instance_data_dir": "shards"},
        {"id": "held", "dataset_type": "eval", "instance_data_dir": "held"},
        TEXTS,
    ],
)

SMALL = Pair(
    {
        "model_flavour": "tiny",
        "device": "cpu",
        "base_model_precision": "no_change",
        "mixed_precision": "no",
        "lora_rank": 4,
        "lora_target": ["attn.to_q", "attn.to_k"],
        "init_lora": "model.safetensors",
        "optimizer": "lion",
        "optimizer_config": {"betas": [0.9, 0.98], "weight_decay": 0.1},
        "learning_rate": 0.001,
        "lr_scheduler": "cosine_with_restarts",
        "lr_num_cycles": 3,
        "num_train_epochs": 4,
        "timestep_sampling": "mode",
        "timestep_mode_scale": 1.0,
        "flow_schedule_auto_shift": True,
        "validation_resolution": 128,
        "output_dir": "output/small",
    },
    [{**PICTURES, "caption_strategy": "filename", "resolution": 0.015, "resolution_type": "area"}],
)

CARD = Pair(
    {
        "model_flavour": "sd3-medium",
        "optimizer": "prodigy",
        "optimizer_config": {"d_coef": 0.5, "use_bias_correction": True, "safeguard_warmup": True, "slice_p": 11},
        "learning_rate": 1.0,
        "lr_scheduler": "constant_with_warmup",
        "lr_warmup_steps": 10,
        "timestep_sampling": "beta",
        "timestep_beta_alpha": 1.5,
        "timestep_beta_beta": 3.0,
        "base_model_offload": 12,
        "activation_offload": True,
        "report_to": ["trackio"],
    },
    [PICTURES, TEXTS],
)

STYLE = Pair(
    {
        "optimizer": "adafactor",
        "optimizer_config": {"beta2_decay": -0.7, "eps": [None, 0.002], "d": 2.0, "weight_decay": 0.001},
        "timestep_sampling": "style_friendly",
        "timestep_logsnr_mean": -5.0,
        "timestep_logsnr_scale": 1.5,
        "execution": "compile",
        "lr_scheduler": "constant",
    },
    [{**PICTURES, "caption_strategy": "instanceprompt", "instance_prompt": "a sketch"}],
)

PAIRS = {"full": FULL, "small": SMALL, "card": CARD, "style": STYLE}
