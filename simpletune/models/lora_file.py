"""Adapter files: LoRA and DoRA in diffusers' layout, and what `lycoris_file.py` reads.

diffusers' keys are `transformer.MODULE.lora_A.weight`, `lora_B.weight`, of a DoRA `lora_magnitude_vector`; alpha stands
in the header's metadata. diffusers multiplies B A by alpha / rank with that alpha, and takes alpha = rank where there
is none; most other readers ignore the metadata. So a finished file has its scale folded into B and states alpha = rank.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from simpletune import outside
from simpletune.disk_words import in_words
from simpletune.errors import ConfigError
from simpletune.models import lycoris_file
from simpletune.models.deltas import row_lengths, row_squares
from simpletune.models.lycoris_file import Matrices

FILE_NAME = "pytorch_lora_weights.safetensors"
PREFIX = "transformer."
METADATA_KEY = "lora_adapter_metadata"  # diffusers' name for the JSON of a LoraConfig
_KEY = re.compile(r"(?:transformer\.)?(.+)\.(?:lora_([AB])(?:\.default)?|lora\.(down|up))\.weight")
_LAYERS = re.compile(r"\^?[\w.\\-]+\$?")  # a pattern of a file from outside could take forever to be matched
_LARGEST_ALPHA = 1e9
_INITIAL = re.compile(r"(?:transformer\.)?(.+)\.initial_([ab])")  # in checkpoints of pissa and olora
_MAGNITUDE = re.compile(r"(?:transformer\.)?(.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?")


@dataclass(frozen=True)
class Factors:
    """One layer's LoRA: the product of `b` (O, r), scale included, and `a` (r, I); of a DoRA with m (O,)."""

    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I) of the layer."""
        return self.b.shape[0], self.a.shape[1]

    @property
    def tensors(self) -> dict[str, Tensor]:
        pair = {"a": self.a, "b": self.b}
        return pair if self.magnitude is None else {**pair, "magnitude": self.magnitude}

    def applied_to(self, weight: Tensor) -> Tensor:
        """The layer's weight (O, I) with the adapter in it, fp32."""
        a, b, weight = self.a.float(), self.b.float(), weight.float()
        if self.magnitude is None:
            return weight + b @ a
        return (self.magnitude / row_lengths(weight, row_squares(weight), a, b))[:, None] * (weight + b @ a)


Adapter = Factors | Matrices
"""What a file has for one layer."""


def type_of(adapters: Mapping[str, Adapter]) -> str:
    """What people call it: LoRA, DoRA, LoHa, LoKr, or several of these."""
    kinds = {_kind(adapter) for adapter in adapters.values()}
    return " and ".join(sorted(kinds))


def _kind(adapter: Adapter) -> str:
    if isinstance(adapter, Matrices):
        return "LoHa" if adapter.is_loha else "LoKr"
    return "LoRA" if adapter.magnitude is None else "DoRA"


def metadata(
    rank: int, alpha: float, use_rslora: bool, targets: Iterable[str], use_dora: bool = False
) -> dict[str, str]:
    """The header of a LoRA file, as diffusers' `save_lora_weights` writes it and `load_lora_weights` reads it."""
    config = {
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": use_rslora,
        "target_modules": sorted(targets),
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": use_dora,
        "lora_bias": False,
    }
    named = {f"{PREFIX}{key}": value for key, value in config.items()}
    return {"format": "pt", METADATA_KEY: json.dumps(named, indent=2, sort_keys=True)}


def read_adapter(path: Path, key: str = "init_lora") -> dict[str, Adapter]:
    """The deltas in an adapter file, or in a folder's `pytorch_lora_weights.safetensors`, by module name.

    A finished adapter or a checkpoint's: what pissa and olora started from is subtracted, as in training. Raises
    ConfigError naming `key` (the option that named the file) and the file when it can't be read or holds anything but
    adapters of one of the kinds.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        outside.check_tensors(file)
        with safe_open(file, framework="pt") as opened:
            header = opened.metadata() or {}
            config = _config(header)
            tensors = {name: _numbers(name, opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ConfigError(f"{key}: {file} doesn't exist", "name the file or folder of a finished run") from error
    except (SafetensorError, OSError, ValueError) as error:
        if outside.is_pickle(file):
            raise ConfigError(f"{key}: {file} is a pickle", outside.conversion([file])) from error
        raise ConfigError(
            f"{key}: {file} can't be read: {in_words(error)}", "it must be a .safetensors LoRA"
        ) from error
    if lycoris_file.is_lycoris(tensors):
        found = lycoris_file.read(tensors, header, f"{key}: {file}")
        return {name: one if isinstance(one, Matrices) else Factors(*vars(one).values()) for name, one in found.items()}
    return dict(_factors(tensors, config, f"{key}: {file}"))


def check_fits(factors: Mapping[str, Adapter], transformer: nn.Module, where: str) -> None:
    """Raise ConfigError, beginning with `where`, when the transformer (it may be on meta) lacks a layer of the adapter
    or has it in another width, or when a number of the adapter isn't finite."""
    linear = {name: module for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}
    other = "it was trained on another model"
    for name, factor in factors.items():
        module = linear.get(name)
        if module is None:
            raise ConfigError(f"{where} is for a layer {name}, which the model lacks", other)
        outputs, inputs = factor.shape
        if (inputs, outputs) != (module.in_features, module.out_features):
            raise ConfigError(
                f"{where}: {name} is {inputs} to {outputs} wide, the model's {module.in_features} to "
                f"{module.out_features}",
                other,
            )
        if not all(bool(torch.isfinite(tensor).all()) for tensor in factor.tensors.values()):
            raise ConfigError(
                f"{where} holds NaN or infinity in {name}", "it can't be used: take an earlier checkpoint"
            )


def trained_with(path: Path) -> dict[str, Any]:
    """What a finished adapter's header says it was trained with (settings and "steps"); {} where it says nothing."""
    file = path / FILE_NAME if path.is_dir() else path
    try:
        outside.check_tensors(file)
        with safe_open(file, framework="pt") as opened:
            said = outside.parse_json((opened.metadata() or {}).get("simpletune", "{}"))
    except (SafetensorError, OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _config(header: Mapping[str, str]) -> dict[str, Any]:
    parsed = outside.parse_json(header.get(METADATA_KEY, "{}"))
    if not isinstance(parsed, dict):
        raise ValueError(f"its {METADATA_KEY} is not an object")
    config = {key.removeprefix(PREFIX): value for key, value in parsed.items()}
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(map(_LAYERS.fullmatch, patterns)):
        raise ValueError(f"the alpha_pattern of its {METADATA_KEY} doesn't name layers")
    if not all(map(_is_alpha, [config.get("lora_alpha", 1), *patterns.values()])):
        raise ValueError(f"an alpha in its {METADATA_KEY} isn't a number")
    return config


def _is_alpha(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGEST_ALPHA


def _numbers(name: str, tensor: Tensor) -> Tensor:
    """The tensor in fp32. Raises ValueError for one that is empty or a matrix of something else than real numbers."""
    if not tensor.numel() or not (tensor.is_floating_point() or (tensor.numel() == 1 and not tensor.is_complex())):
        raise ValueError(f"{name} has {tensor.numel()} numbers of {str(tensor.dtype).removeprefix('torch.')}")
    return tensor.float()


def _factors(tensors: dict[str, Tensor], config: Mapping[str, Any], where: str) -> dict[str, Factors]:
    pairs: dict[str, dict[str, Tensor]] = {}
    initial: dict[str, dict[str, Tensor]] = {}
    lengths: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    unknown = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match:
            side = {"down": "A", "up": "B"}.get(match[3], match[2])
            pairs.setdefault(match[1], {})[side] = tensor
        elif match := _INITIAL.fullmatch(key):
            initial.setdefault(match[1], {})[match[2]] = tensor
        elif match := _MAGNITUDE.fullmatch(key):
            lengths[match[1]] = tensor.reshape(-1)
        elif key.endswith(".alpha") and tensor.numel() == 1:
            alphas[key.removesuffix(".alpha").removeprefix(PREFIX)] = tensor.item()
        else:
            unknown.append(key)
    unpaired = [module for module, pair in pairs.items() if not _is_pair(pair)]
    unpaired += [module for module, pair in initial.items() if module not in pairs or set(pair) != {"a", "b"}]
    unpaired += [module for module, length in lengths.items() if len(length) != len(pairs.get(module, {}).get("B", ()))]
    if unknown or unpaired or not pairs:
        odd = ", ".join((unknown + unpaired)[:3]) or "no LoRA weights"
        raise ConfigError(
            f"{where} is not a LoRA of diffusers' layout: it has {odd}",
            "use the pytorch_lora_weights.safetensors of a finished run, or convert the file to diffusers' keys first",
        )
    scaled = {module: _scaled(module, pair["A"], pair["B"], config, alphas) for module, pair in pairs.items()}
    for module, start in initial.items():
        trained, scale = scaled[module], _scale(module, start["a"].shape[0], config, alphas)
        scaled[module] = Factors(torch.cat([trained.a, start["a"]]), torch.cat([trained.b, start["b"] * -scale], dim=1))
    for module, length in lengths.items():
        scaled[module] = replace(scaled[module], magnitude=length)
    return scaled


def _is_pair(pair: Mapping[str, Tensor]) -> bool:
    """Whether there are two matrices whose product exists: B (O, r) and A (r, I)."""
    return set(pair) == {"A", "B"} and pair["A"].dim() == pair["B"].dim() == 2 and len(pair["A"]) == pair["B"].shape[1]


def _scaled(module: str, a: Tensor, b: Tensor, config: Mapping[str, Any], alphas: Mapping[str, float]) -> Factors:
    return Factors(a, b * _scale(module, a.shape[0], config, alphas))


def _scale(module: str, rank: int, config: Mapping[str, Any], alphas: Mapping[str, float]) -> float:
    alpha = alphas.get(module, config.get("lora_alpha", rank))
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = value
    return scaling(float(alpha), rank, bool(config.get("use_rslora")))


def scaling(alpha: float, rank: int, use_rslora: bool) -> float:
    """What B A is multiplied by: alpha / r, or alpha / sqrt(r) when rank-stabilized (arXiv 2312.03732)."""
    return alpha / (math.sqrt(rank) if use_rslora else rank)
