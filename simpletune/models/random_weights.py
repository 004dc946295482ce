"""Random weights that behave: finite in every dtype, activations near one, text and time visible in the output.

Every tensor is a function of (seed, its name), so one folder is built the same wherever it is built. Scales follow the
usual fan-in rule; the exceptions are listed once, in `_deviation`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

# A tensor with more elements repeats a block of this many. The prime length shifts the pattern from row to row, so that
# no two rows are equal and a 16 GB model takes a minute rather than ten.
_BLOCK = 1_048_583
_LOG_VARIANCE = -8.0  # of a random VAE's posterior: its latents then carry the picture, not noise
_MODULATION_GAIN = 1.0
_QUERY_KEY_GAIN = 1.5  # scores then differ enough for attention to choose
_OUTPUT_GAIN = 0.5


def random_tensor(seed: int, part: str, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor `name` of `part`, on the CPU."""
    key, count = f"{seed}/{part}/{name}", math.prod(shape)
    return shaped(part, name, shape, dtype, lambda deviation: _normals(key, count, deviation, dtype).reshape(shape))


def shaped(part: str, name: str, shape: tuple[int, ...], dtype: torch.dtype, draw: Callable[[float], Tensor]) -> Tensor:
    """The tensor `name` of `part`, of what `draw` gives for a standard deviation where it is random at all.

    What isn't is made on the CPU.
    """
    if len(shape) == 1:
        return _vector(part, name, shape[0]).to(dtype)
    if part == "text_encoder" and name == "text_projection.weight":
        return torch.eye(shape[0], dtype=dtype)  # SD3 uses CLIP-L's pooled state unprojected
    weights = draw(_deviation(name, shape))
    if part == "vae" and name == "encoder.conv_out.weight":
        weights[shape[0] // 2 :] = 0  # the log-variance half says one constant
    return weights


def positions(config: Mapping[str, Any], shape: tuple[int, ...]) -> Tensor:
    """The transformer's table of positions, of `shape` (1, places, width)."""
    return position_table(math.isqrt(shape[1]), shape[2], config["sample_size"] // config["patch_size"])


def position_table(side: int, width: int, base_side: int) -> Tensor:
    """SD3's fixed sine-cosine positions (1, side * side, width), as diffusers' `PatchEmbed` computes them.

    The first half of the features tells the column, the second the row. `base_side` is how many patches a picture of
    the native size has along one edge: positions are scaled so that the whole table spans that many.
    """
    axis = _sine_cosine(np.arange(side, dtype=np.float64) * base_side / side, width // 2)
    columns = axis[None, :, :].expand(side, side, width // 2)
    rows = axis[:, None, :].expand(side, side, width // 2)
    return torch.cat([columns, rows], dim=-1).reshape(1, side * side, width)


def _sine_cosine(positions: np.ndarray[Any, Any], width: int) -> Tensor:
    frequencies = 1.0 / 10000 ** (np.arange(width // 2, dtype=np.float64) / (width / 2))
    angles = np.outer(positions, frequencies)
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32))


def _vector(part: str, name: str, length: int) -> Tensor:
    """Norms start at one, biases at zero."""
    vector = torch.ones(length) if name.endswith("weight") else torch.zeros(length)
    if part == "vae" and name == "encoder.conv_out.bias":
        vector[length // 2 :] = _LOG_VARIANCE
    return vector


def _deviation(name: str, shape: tuple[int, ...]) -> float:
    """The standard deviation of a weight: 1 / sqrt(fan-in) but for what is listed here."""
    fan_in = math.prod(shape[1:])
    if name.endswith(("shared.weight", "token_embedding.weight")):
        return 1.0
    if name.endswith(("position_embedding.weight", "relative_attention_bias.weight")):
        return 0.3
    if name.endswith("SelfAttention.q.weight"):
        return (fan_in * 64) ** -0.5  # T5 doesn't divide its scores by sqrt(head width)
    if name.endswith(("norm1.linear.weight", "norm1_context.linear.weight", "norm_out.linear.weight")):
        return _MODULATION_GAIN / math.sqrt(fan_in)
    if name.endswith(("to_q.weight", "to_k.weight", "add_q_proj.weight", "add_k_proj.weight")):
        return _QUERY_KEY_GAIN / math.sqrt(fan_in)
    if name in {"proj_out.weight", "decoder.conv_out.weight"}:
        return _OUTPUT_GAIN / math.sqrt(fan_in)
    return 1.0 / math.sqrt(fan_in)


def _normals(key: str, count: int, deviation: float, dtype: torch.dtype) -> Tensor:
    number = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:16], "little")
    random = np.random.Generator(np.random.Philox(key=number))
    block = torch.from_numpy(random.standard_normal(min(count, _BLOCK), dtype=np.float32)).mul_(deviation).to(dtype)
    return block if count <= _BLOCK else block.repeat(math.ceil(count / _BLOCK))[:count]
