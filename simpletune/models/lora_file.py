"""LoRA files in diffusers' layout: keys `transformer.MODULE.lora_A.weight`, and alpha in the header's metadata.

diffusers multiplies B A by alpha / rank with the alpha of the metadata, and takes alpha = rank where there is none;
most other readers ignore the metadata. So a finished file has its scale folded into B and states alpha = rank.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from simpletune.errors import ConfigError

FILE_NAME = "pytorch_lora_weights.safetensors"
PREFIX = "transformer."
_METADATA_KEY = "lora_adapter_metadata"  # diffusers' name for the JSON of a LoraConfig
_KEY = re.compile(r"(?:transformer\.)?(.+)\.(?:lora_([AB])(?:\.default)?|lora\.(down|up))\.weight")


@dataclass(frozen=True)
class Factors:
    """One layer's delta as the product of `b` (O, r), scale included, and `a` (r, I)."""

    a: Tensor
    b: Tensor


def metadata(rank: int, alpha: float, use_rslora: bool, targets: Iterable[str]) -> dict[str, str]:
    """The header of a LoRA file, as diffusers' `save_lora_weights` writes it and `load_lora_weights` reads it."""
    config = {
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": use_rslora,
        "target_modules": sorted(targets),
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
        "lora_bias": False,
    }
    named = {f"{PREFIX}{key}": value for key, value in config.items()}
    return {"format": "pt", _METADATA_KEY: json.dumps(named, indent=2, sort_keys=True)}


def read_adapter(path: Path) -> dict[str, Factors]:
    """The deltas in an adapter file, or in a folder's `pytorch_lora_weights.safetensors`, by module name.

    Raises ConfigError naming `init_lora` and the file when it can't be read or holds anything but LoRA pairs.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        with safe_open(file, framework="pt") as opened:
            config = _config(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ConfigError(f"init_lora: {file} doesn't exist", "name the file or folder of a finished run") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"init_lora: {file} can't be read: {error}", "it must be a .safetensors LoRA") from error
    return _factors(tensors, config, file)


def _config(header: Mapping[str, str]) -> dict[str, Any]:
    parsed = json.loads(header.get(_METADATA_KEY, "{}"))
    if not isinstance(parsed, dict):
        raise ValueError(f"its {_METADATA_KEY} is not an object")
    return {key.removeprefix(PREFIX): value for key, value in parsed.items()}


def _factors(tensors: dict[str, Tensor], config: Mapping[str, Any], file: Path) -> dict[str, Factors]:
    pairs: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    unknown = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match:
            side = {"down": "A", "up": "B"}.get(match[3], match[2])
            pairs.setdefault(match[1], {})[side] = tensor
        elif key.endswith(".alpha") and tensor.numel() == 1:
            alphas[key.removesuffix(".alpha").removeprefix(PREFIX)] = tensor.item()
        else:
            unknown.append(key)
    unpaired = [module for module, pair in pairs.items() if set(pair) != {"A", "B"}]
    if unknown or unpaired or not pairs:
        odd = ", ".join((unknown + unpaired)[:3]) or "no LoRA weights"
        raise ConfigError(
            f"init_lora: {file} is not a LoRA of diffusers' layout: it has {odd}",
            "use the pytorch_lora_weights.safetensors of a finished run, or convert the file to diffusers' keys first",
        )
    return {module: _scaled(module, pair["A"], pair["B"], config, alphas) for module, pair in pairs.items()}


def _scaled(module: str, a: Tensor, b: Tensor, config: Mapping[str, Any], alphas: Mapping[str, float]) -> Factors:
    rank = a.shape[0]
    alpha = alphas.get(module, config.get("lora_alpha", rank))
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = value
    return Factors(a, b * scaling(float(alpha), rank, bool(config.get("use_rslora"))))


def scaling(alpha: float, rank: int, use_rslora: bool) -> float:
    """What B A is multiplied by: alpha / r, or alpha / sqrt(r) when rank-stabilized (arXiv 2312.03732)."""
    return alpha / (math.sqrt(rank) if use_rslora else rank)
