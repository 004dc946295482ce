"""What a phase holds beside weights and adapter: formulas whose constants were fitted to measurements.

Measured on one H100 with runs of this program (tests/machine/measurements.json; docs/performance.md shows how near the
formulas come, and the command that repeats it). All results are bytes. The constants are for 16-bit numbers and grow
with their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from simpletune.config.architecture import clip_tokens, component_config
from simpletune.machine.allocator import maps_in_pages
from simpletune.machine.shapes import count, lora_layers, part_tensors, quantized_layers

COMPUTE_BYTES = {"bf16": 2, "fp16": 2, "no": 4}
"""Bytes of a number in the compute dtype, by `mixed_precision`."""
VAE_BYTES = {"bf16": 2, "fp16": 4, "no": 4}
"""The same for the VAE, whose activations can leave float16's range."""

WORKSPACE = 100 << 20
"""Of every phase: matrix products' workspaces, latents, small tensors."""

# Of the transformer: bytes a token and a number of its width.
_BLOCK = 24.2  # what a block keeps for its backward pass
_BLOCK_INPUT = 2  # what is kept instead where it is checkpointed
_QK_NORM = 12  # query and key before their norm, in 16 and in 32 bits (SD3.5)
_SECOND_ATTENTION = 25  # of the image's tokens (SD3.5-Medium's first blocks)
_INPUTS_HERE = 3  # of blocks whose inputs wait in host memory: the last one's, one that is leaving, one that comes
_OUTSIDE_BLOCKS = 16  # embedding, output projection, loss
_SAMPLING_BLOCK = 26  # the one block at work when nothing is kept
_UNPACKED = 1.6  # bytes a number of the largest quantized matrix, unpacked for a product

# The same of a compiled block, which recomputes what is cheap: its input, queries, keys and values, attention's result,
# the state before the feed-forward and the feed-forward's inner state before its activation, ten numbers in all.
_COMPILED_BLOCK = 20
_COMPILED_NORM = 6  # queries, keys and values before queries and keys are normed, as one product (SD3.5)
_COMPILED_SECOND = 14  # of the image's tokens: those and their norms, values, the result, the state between
_COMPILED_INPUTS = 2  # times the inputs of feed-forward layers with a LoRA, at work: beside LoRA's numbers once more
_ATTENTION_RESULT = 2  # of one attention

_ENCODE_PIXEL, _DECODE_PIXEL = 12.1, 18.8  # bytes a pixel and a channel of the VAE's widest map

# Of T5: bytes a token and a number of either width, and bytes a pair of tokens and a head.
_FEED_FORWARD, _STATES, _SCORES = 8, 8, 8
_QUANTIZING = {"int8-quanto": 3.8, "fp8-quanto": 3.8, "int4-quanto": 7.6, "int2-quanto": 7.6}  # of its largest matrix
_T5_IN_FP16 = 3.0  # a part of it then computes in 32 bits

# Layers of a block that see the caption's tokens; the others see the picture's.
_TEXT_STREAM = ("attn.add_", "attn.to_add_out", "ff_context", "norm1_context")

# Memory that torch keeps reserved between tensors and can't give back while the phase runs: a part of what is kept
# (less of much), of what is at work and of the adapter, and what there always is. Rather too much than too little: two
# runs that were held to 2% less than they had taken ran out of memory.
_KEPT_SPLIT, _MUCH_KEPT_SPLIT, _MUCH_KEPT = 0.1, 0.045, 4 << 30
_AT_WORK_SPLIT, _ADAPTER_SPLIT, _TRAIN_SLACK = 0.3, 0.25, 90 << 20
_TEXT_SPLIT, _TEXT_SLACK = 0.25, 200 << 20

# The compiled step's, fitted by tests/machine/fit_compiled.py to the rows that docs/performance.md names: a factor of
# what its blocks keep by count, what is outside of blocks, a factor of the block that is recomputed, of the largest
# quantized matrix, of the adapter, and what there always is.
_COMPILED_KEPT = 1.072
_COMPILED_OUTSIDE = 17.455
_COMPILED_AGAIN = 0.968
_COMPILED_UNPACKED = 1.497
_COMPILED_ADAPTER_SPLIT = 0.365
_COMPILED_SLACK = 176.4 * (1 << 20)
# Where memory is mapped in pages holes are given back; elsewhere a part of what is kept is lost.
_UNMAPPED_SPLIT = 0.12


def text(flavour: str, captions: int, t5_tokens: int, use_t5: bool, t5_precision: str, mixed_precision: str) -> int:
    """What the text encoders hold while a batch of captions goes through them, or while T5 is being quantized."""
    config = component_config_of(flavour, "text_encoder_3" if use_t5 else "text_encoder_2")
    if use_t5:
        token = config["d_ff"] * _FEED_FORWARD + config["d_model"] * _STATES
        batch = captions * (t5_tokens * token + t5_tokens**2 * config["num_heads"] * _SCORES)
        held = max(batch, _largest_of_t5(flavour) * _QUANTIZING.get(t5_precision, 0.0))
    else:
        states = 2 * config["num_hidden_layers"] + _STATES
        token = config["hidden_size"] * states + config["intermediate_size"] * _FEED_FORWARD
        held = captions * clip_tokens(flavour) * token
    scale = _T5_IN_FP16 if use_t5 and mixed_precision == "fp16" else COMPUTE_BYTES[mixed_precision] / 2
    return round(float(held) * scale * (1 + _TEXT_SPLIT)) + _TEXT_SLACK


def quantizing_t5(flavour: str, precision: str, mixed_precision: str) -> int:
    """What T5's largest matrix takes while it is being quantized."""
    numbers = _largest_of_t5(flavour) * _QUANTIZING.get(precision, 0.0)
    return round(numbers * COMPUTE_BYTES[mixed_precision] / 2)


def encoding(flavour: str, pixels: int, mixed_precision: str) -> int:
    """What the VAE holds while pictures of that many pixels in all are encoded at once."""
    return round(pixels * vae_width(flavour) * VAE_BYTES[mixed_precision] / 2 * _ENCODE_PIXEL)


def decoding(flavour: str, pixels: int, mixed_precision: str) -> int:
    """What the VAE holds while a picture of that many pixels is decoded."""
    return round(pixels * vae_width(flavour) * VAE_BYTES[mixed_precision] / 2 * _DECODE_PIXEL)


def sampling(flavour: str, tokens: int, mixed_precision: str) -> int:
    """What the transformer holds while it samples a picture of that many tokens, its caption's counted."""
    both = 2 * tokens  # guidance runs the picture with and without the prompt
    return round(both * transformer_width(flavour) * _SAMPLING_BLOCK * COMPUTE_BYTES[mixed_precision] / 2)


def training(
    flavour: str,
    tokens: tuple[int, int],
    checkpointed_every: int | None,
    lora: tuple[str | tuple[str, ...], int, bool],
    gradients: int,
    mixed_precision: str,
    offloaded: Sequence[int] = (),
    inputs_away: bool = False,
) -> tuple[int, int]:
    """What one micro batch keeps for its backward pass, with the gradients beside it, and what is at work: at the peak.

    tokens: of the pictures and of their captions, all samples together. `lora` is its target, its rank and whether it
    is a DoRA; `gradients` their bytes. A checkpointed block keeps its input and is recomputed when the backward pass
    gets to it, which frees the blocks behind it; the gradients pile up meanwhile. So the peak is at one end or the
    other. The blocks that are `offloaded` are recomputed too; inputs_away: recomputed blocks' inputs wait in host
    memory.
    """
    blocks = [_on(tokens, each) for each in _blocks(flavour, *lora)]
    checkpointed = _recomputed(len(blocks), checkpointed_every, offloaded)
    kept = sum(held for place, held in enumerate(blocks) if place not in checkpointed)
    kept += (min(len(checkpointed), _INPUTS_HERE) if inputs_away else len(checkpointed)) * _BLOCK_INPUT * sum(tokens)
    outside = _OUTSIDE_BLOCKS * sum(tokens)
    scale = transformer_width(flavour) * COMPUTE_BYTES[mixed_precision] / 2
    begin = (kept * scale, (outside + (blocks[-1] if len(blocks) - 1 in checkpointed else 0)) * scale)
    end = (gradients, (outside + blocks[0]) * scale)
    held, at_work = max(begin, end, key=sum)
    return round(held), round(at_work)


def compiled_training(
    flavour: str,
    tokens: tuple[int, int],
    checkpointed_every: int | None,
    lora: tuple[str | tuple[str, ...], int, bool],
    mixed_precision: str,
    keeps_attention: bool,
    offloaded: Sequence[int] = (),
    inputs_away: bool = False,
) -> tuple[int, int]:
    """`training`, of the compiled step: without its gradients, which have a buffer of their own all the time.

    keeps_attention: checkpointed blocks keep attention's results beside their input, but not those that are offloaded
    in either way.
    """
    blocks = [_on(tokens, each) for each in _compiled_blocks(flavour, *lora)]
    inputs = max(_on(tokens, each) for each in _fed_inputs(flavour, lora[0]))
    checkpointed = _recomputed(len(blocks), checkpointed_every, offloaded)
    kept = sum(held for place, held in enumerate(blocks) if place not in checkpointed)
    kept += (min(len(checkpointed), _INPUTS_HERE) if inputs_away else len(checkpointed)) * _BLOCK_INPUT * sum(tokens)
    if keeps_attention and not inputs_away:
        results = _attention_results(flavour)
        kept += sum(_on(tokens, results[place]) for place in checkpointed if place not in offloaded)
    again = _COMPILED_AGAIN * blocks[-1] if len(blocks) - 1 in checkpointed else 0
    at_work = _COMPILED_OUTSIDE * sum(tokens) + again + _COMPILED_INPUTS * inputs
    scale = transformer_width(flavour) * COMPUTE_BYTES[mixed_precision] / 2
    return round(_COMPILED_KEPT * kept * scale), round(at_work * scale)


def _recomputed(blocks: int, every: int | None, offloaded: Sequence[int]) -> frozenset[int]:
    return frozenset(range(0, blocks, every) if every else ()) | frozenset(offloaded)


def unpacked_blocks(flavour: str, precision: str, mixed_precision: str, blocks: int) -> int:
    """The quantized weights of so many blocks in the compute dtype, but AdaLN's: what the forward pass that can offload
    keeps for each block's backward pass where it isn't compiled."""
    if precision == "no_change":
        return 0
    tensors, block = part_tensors(flavour, "transformer"), "transformer_blocks.0."
    layers = [
        name for name in quantized_layers(flavour, "transformer") if name.startswith(block) and "norm" not in name
    ]
    return blocks * sum(count(tensors[f"{name}.weight"]) for name in layers) * COMPUTE_BYTES[mixed_precision]


def attention_bytes(flavour: str, image_tokens: int) -> int:
    """What the results of all attentions take in 16 bits, of that many tokens: `sd3_forward.attention_bytes`."""
    results = _attention_results(flavour)
    return round(sum(image for image, _ in results) * image_tokens * transformer_width(flavour))


def unpacked(flavour: str, precision: str, mixed_precision: str, *, compiled: bool = False) -> int:
    """The largest quantized matrix of the transformer in the compute dtype, as every product makes it."""
    if precision == "no_change":
        return 0
    each = _COMPILED_UNPACKED if compiled else _UNPACKED
    return round(_largest_matrix(flavour) * each * COMPUTE_BYTES[mixed_precision] / 2)


def training_slack(kept: int, at_work: int, adapter: int) -> int:
    """What torch has reserved while training and can't use: the holes between tensors of different sizes."""
    between_kept = _KEPT_SPLIT * min(kept, _MUCH_KEPT) + _MUCH_KEPT_SPLIT * max(kept - _MUCH_KEPT, 0)
    return _TRAIN_SLACK + round(between_kept + _AT_WORK_SPLIT * at_work + _ADAPTER_SPLIT * adapter)


def compiled_slack(kept: int, adapter: int) -> int:
    """`training_slack`, of the compiled step."""
    split = 0.0 if maps_in_pages() else _UNMAPPED_SPLIT * kept
    return round(_COMPILED_SLACK + split + _COMPILED_ADAPTER_SPLIT * adapter)


def _on(tokens: tuple[int, int], each: tuple[float, float]) -> float:
    """So many image tokens and text tokens, at so much each."""
    return tokens[0] * each[0] + tokens[1] * each[1]


@lru_cache(maxsize=64)
def _blocks(
    flavour: str, target: str | tuple[str, ...], rank: int, dora: bool = False
) -> tuple[tuple[float, float], ...]:
    """What each block keeps: bytes an image token and a text token, for each number of the width."""
    config, width = component_config_of(flavour, "transformer"), transformer_width(flavour)
    always = _BLOCK + (_QK_NORM if config["qk_norm"] is not None else 0)
    found = []
    for block, (image, text) in enumerate(_trained(flavour, target)):
        second = _SECOND_ATTENTION if block in config["dual_attention_layers"] else 0
        of_image, of_text = (
            _lora_inputs(layers, rank, width) + (_dora_results(layers) if dora else 0) for layers in (image, text)
        )
        found.append((always + second + of_image, always + of_text))
    return tuple(found)


@lru_cache(maxsize=64)
def _compiled_blocks(
    flavour: str, target: str | tuple[str, ...], rank: int, dora: bool = False
) -> tuple[tuple[float, float], ...]:
    """`_blocks`, of the compiled step: of LoRA's layers only the `rank` numbers between their two products."""
    config, width = component_config_of(flavour, "transformer"), transformer_width(flavour)
    always = _COMPILED_BLOCK + (_COMPILED_NORM if config["qk_norm"] is not None else 0)
    found = []
    for block, (image, text) in enumerate(_trained(flavour, target)):
        second = _COMPILED_SECOND if block in config["dual_attention_layers"] else 0
        between = [2 * rank * len(layers) / width + (_dora_results(layers) if dora else 0) for layers in (image, text)]
        found.append((always + second + between[0], always + between[1]))
    return tuple(found)


def is_of_text(layer: str) -> bool:
    """Whether a layer is one of the text's stream, rather than of the image's."""
    return layer.split(".", 2)[-1].startswith(_TEXT_STREAM)


@lru_cache(maxsize=16)
def _attention_results(flavour: str) -> tuple[tuple[int, int], ...]:
    """What each block's attentions result in: bytes an image token and a text token, for each number of the width."""
    config = component_config_of(flavour, "transformer")
    dual = config["dual_attention_layers"]
    return tuple(
        ((1 + (block in dual)) * _ATTENTION_RESULT, _ATTENTION_RESULT) for block in range(config["num_layers"])
    )


@lru_cache(maxsize=64)
def _trained(flavour: str, target: str | tuple[str, ...]) -> tuple[tuple[list[str], list[str]], ...]:
    """The layers with a LoRA in each block: of the image's stream, and of the text's."""
    layers, found = lora_layers(flavour, target), []
    for block in range(component_config_of(flavour, "transformer")["num_layers"]):
        trained = [layer.split(".", 2)[2] for layer in layers if layer.startswith(f"transformer_blocks.{block}.")]
        text = [layer for layer in trained if layer.startswith(_TEXT_STREAM)]
        found.append(([layer for layer in trained if layer not in text], text))
    return tuple(found)


def _lora_inputs(layers: list[str], rank: int, width: int) -> float:
    """What LoRA adds: feed-forward layers' inputs, and each layer's `rank` numbers in between. The AdaLN layers see one
    vector a sample: nothing."""
    return _inputs(layers) + 2 * rank * sum("norm" not in layer for layer in layers) / width


def _inputs(layers: list[str]) -> int:
    """The inputs of feed-forward layers, of the width and of four times that, which a frozen layer doesn't keep."""
    return sum({"net.0.proj": 2, "net.2": 8}.get(layer.split(".", 1)[1], 0) for layer in layers)


@lru_cache(maxsize=64)
def _fed_inputs(flavour: str, target: str | tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """`_inputs` of each block's layers with a LoRA, an image token and a text token."""
    return tuple((_inputs(image), _inputs(text)) for image, text in _trained(flavour, target))


def _dora_results(layers: list[str]) -> float:
    """A DoRA keeps what each layer results in before its rows get their lengths; feed-forward's are wide."""
    return float(sum(8 if layer.endswith("net.0.proj") else 2 for layer in layers if "norm" not in layer))


@lru_cache(maxsize=64)
def component_config_of(flavour: str, part: str) -> dict[str, Any]:
    """`component_config`, read once: not to be changed."""
    return component_config(flavour, part)


@lru_cache(maxsize=16)
def transformer_width(flavour: str) -> int:
    config = component_config_of(flavour, "transformer")
    return int(config["num_attention_heads"] * config["attention_head_dim"])


@lru_cache(maxsize=16)
def _largest_matrix(flavour: str) -> int:
    tensors = part_tensors(flavour, "transformer")
    return max(count(tensors[f"{layer}.weight"]) for layer in quantized_layers(flavour, "transformer"))


def _largest_of_t5(flavour: str) -> int:
    config = component_config_of(flavour, "text_encoder_3")
    return int(config["d_ff"] * config["d_model"])


def vae_width(flavour: str) -> int:
    """The channels of the VAE's maps at full size."""
    return int(component_config_of(flavour, "vae")["block_out_channels"][0])
