"""Small random feature models of real classes, saved to a folder as the hub has them."""

from __future__ import annotations

import json
from pathlib import Path

from simpletune.config.builtin import tiny_folder

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def clip(folder: Path, seed: int = 0, side: int = 32) -> Path:
    """CLIPModel with the tiny model's tokenizer; wide initial weights, so that pictures differ."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(tiny_folder() / "tokenizer")
    shared = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**shared, "vocab_size": len(tokenizer), "max_position_embeddings": 77, "projection_dim": 24}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = {**shared, "image_size": side, "patch_size": 8, "projection_dim": 24}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24, initializer_factor=4.0)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    described = {"do_resize": True, "size": {"shortest_edge": side}, "do_center_crop": True, "crop_size": side}
    described |= {"image_mean": MEAN, "image_std": STD, "resample": 3, "image_processor_type": "CLIPImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
    return folder


def dino(folder: Path, seed: int = 1, side: int = 28) -> Path:
    """Dinov2Model."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(seed)
    config = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=side,
        patch_size=7,
        initializer_range=0.3,
    )
    Dinov2Model(config).save_pretrained(folder)
    described = {"do_resize": True, "size": {"shortest_edge": side + 4}, "do_center_crop": True}
    described |= {"crop_size": {"height": side, "width": side}, "resample": 3, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
    return folder
