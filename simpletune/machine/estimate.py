"""How much memory and disk weights, adapter, optimizer and files take: counted exactly from shapes, without torch.

What a phase holds on top of them is in `machine/activations.py`.
"""

from __future__ import annotations

from functools import lru_cache

from simpletune.config.architecture import ENCODER_PARTS, clip_tokens
from simpletune.config.offload import STAGED, offloaded_blocks
from simpletune.machine.activations import COMPUTE_BYTES, VAE_BYTES, component_config_of
from simpletune.machine.shapes import count, part_tensors, quantized_layers

GIB = 1 << 30

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

_PIXELS_PER_LATENT, _PATCH, _LATENT_CHANNELS = 8, 2, 16
_FILE_OVERHEAD = 4096  # header, checksum, and the file system's last block


def image_tokens(width: int, height: int) -> int:
    """Transformer tokens of a picture of that many pixels."""
    edge = _PIXELS_PER_LATENT * _PATCH
    return (width // edge) * (height // edge)


def text_tokens(flavour: str, tokenizer_max_length: int) -> int:
    """Transformer tokens of a caption: CLIP's and T5's side by side; T5's places are there without it too."""
    return clip_tokens(flavour) + tokenizer_max_length


@lru_cache(maxsize=256)
def weight_bytes(flavour: str, part: str, precision: str, mixed_precision: str, inside: str = "") -> int:
    """Bytes of a part's weights once loaded: quantized, or in the compute dtype; of those whose names begin so."""
    numbers, quantized = (
        (VAE_BYTES if part == "vae" else COMPUTE_BYTES)[mixed_precision],
        quantized_layers(flavour, part),
    )
    total = 0
    for name, shape in part_tensors(flavour, part).items():
        if not name.startswith(inside):
            continue
        size = 4 if mixed_precision == "fp16" and _stays_fp32(part, name) else numbers
        if precision in _BITS and name.endswith(".weight") and name.removesuffix(".weight") in quantized:
            total += quantized_bytes(shape[0], shape[1], precision, size)
        else:
            total += count(shape) * size
    return total


@lru_cache(maxsize=256)
def offloaded_bytes(flavour: str, blocks: int, precision: str, mixed_precision: str) -> int:
    """What the device is spared of the transformer when so many blocks wait in host memory: their weights, less the
    room for those that it brings."""
    numbers = offloaded_blocks(blocks, component_config_of(flavour, "transformer")["num_layers"])
    sizes = [
        weight_bytes(flavour, "transformer", precision, mixed_precision, f"transformer_blocks.{number}.")
        for number in numbers
    ]
    return sum(sizes) - min(STAGED, len(sizes)) * max(sizes, default=0)


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
    """LoRA weights, the optimizer's state, and the averaged weights: what stays on the device between steps."""
    return lora_numbers * (_weight_size(optimizer) + _STATE_BYTES[optimizer] + (_EMA_BYTES if use_ema else 0))


def gradient_bytes(lora_numbers: int, optimizer: str) -> int:
    """The gradients of the LoRA, which come and go with each step."""
    return lora_numbers * _weight_size(optimizer)


def averaging_bytes(lora_numbers: int, optimizer: str, use_ema: bool) -> int:
    """The copy of the weights that is kept while validation has put their average in their place."""
    return lora_numbers * _weight_size(optimizer) if use_ema else 0


def latent_cache_bytes(pictures: int, pixels: int, mixed_precision: str) -> int:
    """Disk taken by the latents of that many pictures of `pixels` pixels (width times height)."""
    latent = _LATENT_CHANNELS * (pixels // _PIXELS_PER_LATENT**2) * VAE_BYTES[mixed_precision]
    return pictures * (latent + _FILE_OVERHEAD)


def text_cache_bytes(flavour: str, captions: int, tokenizer_max_length: int, use_t5: bool, mixed_precision: str) -> int:
    """Disk taken by the encodings of that many different captions: CLIP's states unpadded, T5's where it is used."""
    transformer = component_config_of(flavour, "transformer")
    width = sum(component_config_of(flavour, part)["hidden_size"] for part in ENCODER_PARTS[:2])
    numbers = clip_tokens(flavour) * width + transformer["pooled_projection_dim"]
    if use_t5:
        numbers += tokenizer_max_length * transformer["joint_attention_dim"]
    return captions * (int(numbers) * COMPUTE_BYTES[mixed_precision] + _FILE_OVERHEAD)


def checkpoint_bytes(lora_numbers: int, optimizer: str, use_ema: bool) -> int:
    """Disk taken by one checkpoint: the adapter, the optimizer's state, and the averaged weights."""
    return adapter_bytes(lora_numbers, optimizer, use_ema) + 4 * _FILE_OVERHEAD


def kept_adapter_bytes(lora_numbers: int, optimizer: str, use_ema: bool) -> int:
    """Disk taken by what stays of a checkpoint when newer ones have come: the adapter, and the averaged one."""
    return lora_numbers * (_weight_size(optimizer) + (_EMA_BYTES if use_ema else 0)) + 3 * _FILE_OVERHEAD


def _weight_size(optimizer: str) -> int:
    return _WEIGHT_BYTES.get(optimizer, 4)


def _stays_fp32(part: str, name: str) -> bool:
    """transformers keeps T5's `wo` in fp32 when the rest is fp16."""
    return part == "text_encoder_3" and name.endswith(".wo.weight")
