"""The parts of a pipeline as modules: which class each is, and what a run reads of them."""

from __future__ import annotations

from typing import Any

from simpletune.config.architecture import ENCODER_PARTS

# Each part's library and class as model_index.json names them.
PIPELINE_CLASSES = {
    "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_3": ("transformers", "T5EncoderModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
    "tokenizer_3": ("transformers", "T5TokenizerFast"),
    "transformer": ("diffusers", "SD3Transformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}


def needed_parts(use_t5: bool) -> list[str]:
    """Every part of the diffusers layout that a run reads."""
    without = () if use_t5 else ("text_encoder_3", "tokenizer_3")
    return [part for part in PIPELINE_CLASSES if part not in without]


def weights_stem(part: str) -> str:
    """The weight file's name without number and suffix, which differs between the two libraries."""
    return "model" if part in ENCODER_PARTS else "diffusion_pytorch_model"


def empty_module(part: str, config: dict[str, Any]) -> Any:
    """The part's module on the meta device: shapes without memory."""
    import torch

    with torch.device("meta"):
        if part in ENCODER_PARTS:
            return _empty_encoder(part, config)
        from diffusers import AutoencoderKL, SD3Transformer2DModel

        kind = SD3Transformer2DModel if part == "transformer" else AutoencoderKL
        return kind.from_config(config)


def _empty_encoder(part: str, config: dict[str, Any]) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    plain = {key: value for key, value in config.items() if key not in {"_class_name", "model_type"}}
    if part == "text_encoder_3":
        return T5EncoderModel(T5Config(**plain))
    return CLIPTextModelWithProjection(CLIPTextConfig(**plain))
