"""Which model a LoRA is for, told by names and widths alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from simpletune.results.adapter_origin import model_of


@pytest.mark.parametrize(
    ("name", "width", "header", "model"),
    [
        ("transformer.transformer_blocks.3.attn.to_q.lora_A.weight", 1536, {}, "sd3-medium or sd3.5-medium"),
        ("transformer.transformer_blocks.3.attn.to_q.lora_A.weight", 2432, {}, "sd3.5-large"),
        ("transformer.transformer_blocks.3.attn2.to_q.lora_A.weight", 1536, {}, "sd3.5-medium"),
        ("transformer.transformer_blocks.3.attn.to_q.lora_A.weight", 77, {}, None),
        ("transformer.single_transformer_blocks.3.attn.to_q.lora_A.weight", 3072, {}, "FLUX"),
        ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", 640, {}, "Stable Diffusion 1, 2 or XL"),
        ("lora_unet_joint_blocks_3_x_block_attn_qkv.lora_down.weight", 160, {}, None),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", 1280, {}, "SDXL"),
        ("anything", 8, {"modelspec.architecture": "stable-diffusion-xl"}, "stable-diffusion-xl"),
        ("anything", 8, {"simpletune": json.dumps({"model_flavour": "tiny"})}, "tiny"),
        ("anything", 8, {"simpletune": "[1"}, None),
    ],
)  # fmt: skip
def test_names_and_widths(tmp_path: Path, name: str, width: int, header: dict[str, str], model: str | None) -> None:
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({name: np.zeros((4, width), np.float32)}, path, header)
    assert model_of(path) == model_of(tmp_path) == model


def test_what_can_not_be_read_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no")
    assert model_of(tmp_path / "x.safetensors") is None
    assert model_of(tmp_path / "absent") is None
