"""How much memory and disk a run will take: arithmetic on shapes, without torch and without loading a model.

Weights, adapter and optimizer state are counted exactly from the model's shapes. What a phase holds on top of them
(activations) is a rough formula, fitted to SD3-Medium at 1024 px on one H100: every phase to runs of this program at
batch 1 with checkpointing, the growth with the batch and without checkpointing to four runs of a plain PEFT loop. So
say "about" when showing it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 1 << 30

_LARGEST_HEADER = 100 << 20  # bytes; the limit of the safetensors format's own readers

# Bits of a quantized value. 8-bit ones have a scale a row, smaller ones a scale and a shift a group.
_BITS = {"int8-quanto": 8, "fp8-quanto": 8, "int4-quanto": 4, "int2-quanto": 2}
_GROUP_SIZES = (128, 96, 64, 32)  # quanto takes the first that divides the row; rows up to 128 are one group

# Bytes a trained LoRA number takes: the weight, its gradient, and what the optimizer remembers of it.
_OPTIMIZER_BYTES = {
    "adamw": 4 + 4 + 8,
    "adamw_bf16": 2 + 2 + 6,  # two moments and the Kahan compensation, all bf16
    "adamw8bit": 4 + 4 + 2,
    "adafactor": 4 + 4,  # a row and a column of each matrix; next to nothing
    "lion": 4 + 4 + 4,
    "prodigy": 4 + 4 + 16,
}
_EMA_BYTES = 4

# Activations of one token in one transformer block of width W: _BLOCK * W bytes in 16-bit training. Two bytes of it
# are the block's input, all that is kept where the block is checkpointed. Fitted to four runs of SD3-Medium at 1024 px.
_BLOCK, _BLOCK_INPUT = 33, 2
_OUTSIDE_BLOCKS = 21  # bytes a token and width: embedding, output projection, loss
_WORKSPACE = 110 << 20  # bytes: matrix-product workspaces, attention, fragmentation
_SAMPLING_BLOCK = 24  # bytes a token and width of the one block at work when nothing is kept for backward

# The VAE holds a few maps of its first 128 channels at full size; decoding has twice the channels there.
_VAE_CHANNELS = 128
_VAE_ENCODE_MAPS, _VAE_DECODE_MAPS = 6, 10
# T5's and CLIP's activations while encoding: bytes a token, of the widest feed-forward (10,240) and attention.
_TEXT_TOKEN_BYTES = 200_000


@dataclass(frozen=True)
class TensorShape:
    """A tensor as its file's header describes it; dtype by safetensors' name ("BF16")."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count


@dataclass(frozen=True)
class Run:
    """What the estimate depends on. Weights in bytes (`weight_bytes`), all other counts per sample or as named."""

    text_encoder_weights: int
    vae_weights: int
    transformer_weights: int
    block_count: int
    width: int  # of the transformer's tokens
    image_tokens: int
    text_tokens: int
    pixels: int  # of one picture, the largest bucket
    validation_pixels: int
    validation_image_tokens: int
    batch_size: int
    vae_batch_size: int
    text_encoder_batch_size: int
    lora_parameters: int
    optimizer: str
    use_ema: bool
    gradient_checkpointing: bool
    gradient_checkpointing_interval: int
    compute_bytes: int  # a number in the compute dtype: 2 or 4
    vae_bytes: int  # a number in the VAE's dtype


@dataclass(frozen=True)
class PhaseMemory:
    """The peak of one phase: what it is made of, in bytes."""

    phase: str
    parts: Mapping[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())

    def __str__(self) -> str:
        """`train: about 4.9 GiB (weights 3.8, activations 0.5, ...)`"""
        parts = ", ".join(f"{what} {_gib(size)}" for what, size in self.parts.items())
        return f"{self.phase}: about {_gib(self.bytes)} GiB ({parts})"


def memory_by_phase(run: Run) -> list[PhaseMemory]:
    """The device memory at the peak of each phase, in the order they run."""
    validation_tokens = 2 * (run.validation_image_tokens + run.text_tokens)  # guidance runs two at once
    decoding = run.validation_pixels * _VAE_CHANNELS * run.vae_bytes * _VAE_DECODE_MAPS
    sampling = validation_tokens * run.width * _SAMPLING_BLOCK * run.compute_bytes // 2
    adapter = adapter_bytes(run.lora_parameters, run.optimizer, run.use_ema)
    text_tokens = run.text_encoder_batch_size * run.text_tokens
    pictures = run.vae_batch_size * run.pixels
    return [
        PhaseMemory(
            "encode text",
            {
                "weights": run.text_encoder_weights,
                "activations": text_tokens * _TEXT_TOKEN_BYTES * run.compute_bytes // 2,
                "other": _WORKSPACE,
            },
        ),
        PhaseMemory(
            "encode images",
            {
                "weights": run.vae_weights,
                "activations": pictures * _VAE_CHANNELS * run.vae_bytes * _VAE_ENCODE_MAPS,
                "other": _WORKSPACE,
            },
        ),
        PhaseMemory(
            "train",
            {
                "weights": run.transformer_weights,
                "activations": activation_bytes(run),
                "adapter": adapter,
                "other": _WORKSPACE,
            },
        ),
        PhaseMemory(
            "validate",
            {
                "weights": run.transformer_weights + run.vae_weights,
                "activations": max(sampling, decoding),
                "adapter": adapter,
                "other": _WORKSPACE,
            },
        ),
    ]


def activation_bytes(run: Run) -> int:
    """What one training micro batch keeps for its backward pass, about.

    With checkpointing every interval-th block keeps its input, and at most `interval` blocks are recomputed at a time.
    """
    interval = min(run.gradient_checkpointing_interval, run.block_count)
    if run.gradient_checkpointing:
        per_token = _BLOCK_INPUT * -(-run.block_count // interval) + _BLOCK * interval + _OUTSIDE_BLOCKS
        per_token = min(per_token, _BLOCK * run.block_count)
    else:
        per_token = _BLOCK * run.block_count
    tokens = run.batch_size * (run.image_tokens + run.text_tokens)
    return tokens * run.width * per_token * run.compute_bytes // 2


def adapter_bytes(lora_parameters: int, optimizer: str, use_ema: bool) -> int:
    """LoRA weights, their gradients, the optimizer's state, and the averaged weights."""
    return lora_parameters * (_OPTIMIZER_BYTES[optimizer] + (_EMA_BYTES if use_ema else 0))


def weight_bytes(
    tensors: Mapping[str, TensorShape],
    precision: str,
    compute_bytes: int,
    is_quantized: Callable[[str], bool] = lambda _: True,
) -> int:
    """Bytes of a model's weights once loaded, in the compute dtype or quantized.

    tensors: by name. `is_quantized` is asked for each linear layer's name (without ".weight"): two-dimensional weights
    that are no embedding, which the caller leaves out as it leaves out layers that stay in the compute dtype.
    """
    return sum(
        _quantized_bytes(tensor.shape[0], tensor.shape[1], precision, compute_bytes)
        if precision in _BITS and _is_linear(name, tensor) and is_quantized(name.removesuffix(".weight"))
        else tensor.count * compute_bytes
        for name, tensor in tensors.items()
    )


def lora_parameter_count(tensors: Mapping[str, TensorShape], targets: Iterable[str], rank: int) -> int:
    """Numbers in the LoRA of the named linear layers: rank x (inputs + outputs) each."""
    return sum(rank * sum(tensors[f"{target}.weight"].shape) for target in targets)


def parameters_by_module(path: Path) -> dict[str, TensorShape]:
    """Every tensor of a model by name, from the headers alone: of a .safetensors file, or all of a folder's.

    Raises ValueError naming the file when a header is not what the format demands.
    """
    tensors: dict[str, TensorShape] = {}
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        tensors.update(_header(file))
    return tensors


def latent_cache_bytes(pictures: int, pixels: int, channels: int, pixels_per_latent: int, number_bytes: int) -> int:
    """Disk taken by the latents of that many pictures of `pixels` pixels (width times height)."""
    latent = channels * (pixels // pixels_per_latent**2) * number_bytes
    return pictures * (latent + _FILE_OVERHEAD)


def text_cache_bytes(captions: int, tokens: int, width: int, pooled_width: int, number_bytes: int) -> int:
    """Disk taken by the encodings of that many different captions."""
    return captions * ((tokens * width + pooled_width) * number_bytes + _FILE_OVERHEAD)


_FILE_OVERHEAD = 4096  # header, checksum, and the file system's last block


def _quantized_bytes(rows: int, columns: int, precision: str, scale_bytes: int) -> int:
    """Packed values, and a scale a row (8 bits) or a scale and a shift a group (4 and 2 bits)."""
    bits = _BITS[precision]
    values = rows * columns * bits // 8
    if bits == 8:
        return values + rows * scale_bytes
    group = columns if columns <= _GROUP_SIZES[0] else next((g for g in _GROUP_SIZES if columns % g == 0), columns)
    return values + rows * (columns // group) * 2 * scale_bytes


def _is_linear(name: str, tensor: TensorShape) -> bool:
    return len(tensor.shape) == 2 and name.endswith(".weight")


def _header(file: Path) -> dict[str, TensorShape]:
    """A safetensors file begins with the length of a JSON header, 8 bytes little-endian, and that header."""
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else _LARGEST_HEADER + 1
        if length > _LARGEST_HEADER:
            raise ValueError(f"{file} is not a safetensors file")
        text = stream.read(length)
    try:
        entries: dict[str, Any] = json.loads(text)
        return {
            name: TensorShape(entry["dtype"], tuple(int(side) for side in entry["shape"]))
            for name, entry in entries.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} has a damaged safetensors header") from error


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB // 20 else f"{size / GIB:.2g}"
