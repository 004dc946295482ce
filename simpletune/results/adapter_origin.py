"""Which model a LoRA file was made for, as far as its header, names and widths tell. No tensor is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from simpletune import outside
from simpletune.models.lora_file import FILE_NAME

# Names that occur in LoRAs of one architecture, in the layouts that are in use.
_NAMED = (
    (r"single_transformer_blocks|single_blocks|double_blocks", "FLUX"),
    (r"add_k_proj.*img|blocks\.\d+\.cross_attn|blocks_\d+_cross_attn", "Wan"),
    (r"lora_te2_|text_encoder_2|(input|output)_blocks_\d+_1_transformer_blocks_[2-9]", "SDXL"),
    (r"lora_unet_(down|mid|up|input|output)_|^unet\.|down_blocks|up_blocks|mid_block", "Stable Diffusion 1, 2 or XL"),
)
_BLOCK = re.compile(r"transformer_blocks[._](\d+)[._]")
_OF_INPUT = re.compile(r"attn[._]to_q\.(lora(_A|[._]down)|hada_w1_b)")
_SD3_WIDTHS = {1536: "sd3-medium or sd3.5-medium", 2432: "sd3.5-large"}


def model_of(path: Path) -> str | None:
    """The model's name in people's words; None where nothing tells, or the file can't be read."""
    file = path / FILE_NAME if path.is_dir() else path
    try:
        outside.check_tensors(file)
        with safe_open(file, framework="np") as opened:
            header = opened.metadata() or {}
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError):
        return None
    return _said(header) or _named(shapes) or _sd3(shapes)


def _said(header: Mapping[str, str]) -> str | None:
    """What simpletune, kohya's scripts and other trainers write into the header."""
    try:
        own = outside.parse_json(header.get("simpletune", "{}"))
    except ValueError:
        own = {}
    flavour = own.get("model_flavour") if isinstance(own, dict) else None
    said = flavour or header.get("modelspec.architecture") or header.get("ss_base_model_version")
    return said if isinstance(said, str) else None


def _named(names: Mapping[str, object]) -> str | None:
    return next((model for pattern, model in _NAMED if any(re.search(pattern, name) for name in names)), None)


def _sd3(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """By the width that an attention's queries are made of, in diffusers' layout."""
    if not any(_BLOCK.search(name) for name in shapes):
        return None
    if any(re.search(r"[._]attn2[._]", name) for name in shapes):
        return "sd3.5-medium"
    widths = {shape[-1] for name, shape in shapes.items() if _OF_INPUT.search(name)}
    return _SD3_WIDTHS.get(widths.pop()) if len(widths) == 1 else None
