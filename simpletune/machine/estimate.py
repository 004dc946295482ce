"""How much memory and disk a part of a run takes: arithmetic on shapes, without torch and without loading a model.

Weights, adapter, optimizer state and files are counted exactly from the model's shapes. What a phase holds on top of
them (activations) is a formula whose constants are fitted to measurements; docs/performance.md compares them. So say
"about" when showing it.
"""

from __future__ import annotations

from functools import lru_cache

from simpletune.config.architecture import CLIP_TOKENS, ENCODER_PARTS, component_config
from simpletune.machine.shapes import count, part_tensors, quantized_layers

GIB = 1 << 30

COMPUTE_BYTES = {"bf16": 2, "fp16": 2, "no": 4}
"""Bytes of a number in the compute dtype, by `mixed_precision`."""
VAE_BYTES = {"bf16": 2, "fp16": 4, "no": 4}
"""The same for the VAE, whose activations can leave float16's range."""

# Bits of a quantized value. 8-bit ones have a scale a row, smaller ones a scale and a shift a group.
_BITS = {"int8-quanto": 8, "fp8-quanto": 8, "int4-quanto": 4, "int2-quanto": 2}
_GROUP_SIZES = (128, 96, 64, 32)  # quanto takes the first that divides the row; rows up to 128 are one group

# Bytes of a trained LoRA number, and of what the optimizer remembers of it. Its gradient has the weight's size.
_WEIGHT_BYTES = {"adamw_bf16": 2}
_STATE_BYTES = {
    "adamw": 8,
    "adamw_bf16": 6,  # two moments and the Kahan compensation, all bf16
    "adamw8bit": 2,
    "adafactor": 0,  # a row and a column of each matrix; next to nothing
    "lion": 4,
    "prodigy": 16,
}
_EMA_BYTES = 4

# Activations of one token in one transformer block of width W: _BLOCK * W bytes in 16-bit training. Two bytes of it
# are the block's input, all that is kept where the block is checkpointed.
_BLOCK, _BLOCK_INPUT = 33, 2
_OUTSIDE_BLOCKS = 21  # bytes a token and width: embedding, output projection, loss
WORKSPACE = 110 << 20
"""Bytes of every phase: matrix-product workspaces, attention, fragmentation."""
_SAMPLING_BLOCK = 24  # bytes a token and width of the one block at work when nothing is kept for backward

# The VAE holds a few maps of its first channels at full size; decoding has twice the channels there.
_VAE_ENCODE_MAPS, _VAE_DECODE_MAPS = 6, 10
# T5's and CLIP's activations while encoding: bytes a token, of the widest feed-forward (10,240) and attention.
_TEXT_TOKEN_BYTES = 200_000
_TEXT_WIDTH = 4096

_PIXELS_PER_LATENT, _PATCH = 8, 2
_FILE_OVERHEAD = 4096  # header, checksum, and the file system's last block


def image_tokens(width: int, height: int) -> int:
    """Transformer tokens of a picture of that many pixels."""
    edge = _PIXELS_PER_LATENT * _PATCH
    return (width // edge) * (height // edge)


def text_tokens(tokenizer_max_length: int) -> int:
    """Transformer tokens of a caption: CLIP's and T5's side by side; T5's places are there without it too."""
    return CLIP_TOKENS + tokenizer_max_length


@lru_cache(maxsize=256)
def weight_bytes(flavour: str, part: str, precision: str, mixed_precision: str) -> int:
    """Bytes of a part's weights once loaded: quantized, or in the compute dtype."""
    numbers, quantized = (
        (VAE_BYTES if part == "vae" else COMPUTE_BYTES)[mixed_precision],
        quantized_layers(flavour, part),
    )
    total = 0
    for name, shape in part_tensors(flavour, part).items():
        size = 4 if mixed_precision == "fp16" and _stays_fp32(part, name) else numbers
        if precision in _BITS and name.endswith(".weight") and name.removesuffix(".weight") in quantized:
            total += quantized_bytes(shape[0], shape[1], precision, size)
        else:
            total += count(shape) * size
    return total


def quantized_bytes(rows: int, columns: int, precision: str, scale_bytes: int) -> int:
    """A matrix of packed values, and a scale a row (8 bits) or a scale and a shift a group (4 and 2 bits)."""
    bits = _BITS[precision]
    values = rows * columns * bits // 8
    if bits == 8:
        return values + rows * scale_bytes
    group = columns if columns <= _GROUP_SIZES[0] else next((g for g in _GROUP_SIZES if columns % g == 0), columns)
    return values + rows * (columns // group) * 2 * scale_bytes


def text_encoder_bytes(flavour: str, precisions: tuple[str, str, str], use_t5: bool, mixed_precision: str) -> int:
    """Weights of all text encoders a run loads, at their precisions."""
    parts = ENCODER_PARTS if use_t5 else ENCODER_PARTS[:2]
    return sum(weight_bytes(flavour, part, precisions[n], mixed_precision) for n, part in enumerate(parts))


def adapter_bytes(lora_numbers: int, optimizer: str, use_ema: bool) -> int:
    """LoRA weights, their gradients, the optimizer's state, and the averaged weights."""
    weight = _WEIGHT_BYTES.get(optimizer, 4)
    return lora_numbers * (2 * weight + _STATE_BYTES[optimizer] + (_EMA_BYTES if use_ema else 0))


def text_activations(captions: int, tokenizer_max_length: int, mixed_precision: str) -> int:
    """What the text encoders hold while a batch of captions goes through them."""
    tokens = captions * text_tokens(tokenizer_max_length)
    return tokens * _TEXT_TOKEN_BYTES * COMPUTE_BYTES[mixed_precision] // 2


def encoding_activations(flavour: str, pixels: int, mixed_precision: str) -> int:
    """What the VAE holds while pictures of that many pixels in all are encoded at once."""
    return pixels * _vae_width(flavour) * VAE_BYTES[mixed_precision] * _VAE_ENCODE_MAPS


def decoding_activations(flavour: str, pixels: int, mixed_precision: str) -> int:
    """What the VAE holds while a picture of that many pixels is decoded."""
    return pixels * _vae_width(flavour) * VAE_BYTES[mixed_precision] * _VAE_DECODE_MAPS


def sampling_activations(flavour: str, tokens: int, mixed_precision: str) -> int:
    """What the transformer holds while it samples a picture of that many tokens, its caption's counted."""
    both = 2 * tokens  # guidance runs the picture with and without the prompt
    return both * transformer_width(flavour) * _SAMPLING_BLOCK * COMPUTE_BYTES[mixed_precision] // 2


def training_activations(flavour: str, tokens: int, checkpointed_every: int | None, mixed_precision: str) -> int:
    """What one micro batch of that many tokens keeps for its backward pass.

    With checkpointing every n-th block keeps its input and is recomputed alone; the other blocks keep everything.
    """
    blocks = component_config_value(flavour, "num_layers")
    if checkpointed_every is None:
        per_token = _BLOCK * blocks
    else:
        checkpointed = -(-blocks // checkpointed_every)
        kept = _BLOCK_INPUT * checkpointed + _BLOCK * (blocks - checkpointed)
        per_token = min(kept + _BLOCK + _OUTSIDE_BLOCKS, _BLOCK * blocks)
    return tokens * transformer_width(flavour) * per_token * COMPUTE_BYTES[mixed_precision] // 2


def latent_cache_bytes(pictures: int, pixels: int, mixed_precision: str) -> int:
    """Disk taken by the latents of that many pictures of `pixels` pixels (width times height)."""
    latent = _LATENT_CHANNELS * (pixels // _PIXELS_PER_LATENT**2) * VAE_BYTES[mixed_precision]
    return pictures * (latent + _FILE_OVERHEAD)


def text_cache_bytes(flavour: str, captions: int, tokenizer_max_length: int, mixed_precision: str) -> int:
    """Disk taken by the encodings of that many different captions."""
    width = component_config_value(flavour, "joint_attention_dim")
    pooled = component_config_value(flavour, "pooled_projection_dim")
    numbers = text_tokens(tokenizer_max_length) * width + pooled
    return captions * (numbers * COMPUTE_BYTES[mixed_precision] + _FILE_OVERHEAD)


def checkpoint_bytes(lora_numbers: int, optimizer: str, use_ema: bool) -> int:
    """Disk taken by one checkpoint: the adapter, the optimizer's state, and the averaged weights."""
    numbers = _WEIGHT_BYTES.get(optimizer, 4) + _STATE_BYTES[optimizer] + (_EMA_BYTES if use_ema else 0)
    return lora_numbers * numbers + 4 * _FILE_OVERHEAD


_LATENT_CHANNELS = 16


@lru_cache(maxsize=64)
def component_config_value(flavour: str, key: str) -> int:
    """A number of the transformer's configuration."""
    return int(component_config(flavour, "transformer")[key])


def transformer_width(flavour: str) -> int:
    heads = component_config_value(flavour, "num_attention_heads")
    return heads * component_config_value(flavour, "attention_head_dim")


@lru_cache(maxsize=16)
def _vae_width(flavour: str) -> int:
    """The channels of the VAE's maps at full size."""
    return int(component_config(flavour, "vae")["block_out_channels"][0])


def _stays_fp32(part: str, name: str) -> bool:
    """transformers keeps T5's `wo` in fp32 when the rest is fp16."""
    return part == "text_encoder_3" and name.endswith(".wo.weight")
