"""The shape of every tensor of every flavour, reckoned from its configuration: nothing is loaded or fetched.

Names and shapes are those of diffusers' and transformers' modules, as their weight files hold them; a test compares
them with the modules themselves. A linear layer's weight is (outputs, inputs).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from simpletune.config.architecture import FULL_PRECISION, WEIGHT_PARTS, component_config
from simpletune.config.families import FAMILIES, FamilyFacts, Flavour, matching_modules

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]

_HUB_NUMBER_BYTES = 2  # the hub's files of SD3 hold 16-bit numbers
_TIME_FREQUENCIES = 256  # sines and cosines that a time is told by
_TOKENIZER_BYTES = 6 << 20  # vocabularies and configurations beside the weights, about
# transformers' embeddings: matrices too, but looked up, not multiplied
_EMBEDDINGS = ("shared", "token_embedding", "position_embedding", "relative_attention_bias")


@lru_cache(maxsize=64)
def part_tensors(flavour: str, part: str) -> Mapping[str, Shape]:
    """Every tensor that a part's weight file holds, a tied one once: parameters and the table of positions."""
    config = component_config(flavour, part)
    if part == "transformer":
        named = _transformer(config)
    elif part == "vae":
        named = _vae(config)
    elif part == "text_encoder_3":
        named = _t5(config)
    else:
        named = _clip(config)
    return MappingProxyType(dict(named))


@lru_cache(maxsize=64)
def linear_layers(flavour: str, part: str) -> tuple[str, ...]:
    """The names of a part's linear layers, in the model's order."""
    return tuple(
        name.removesuffix(".weight")
        for name, shape in part_tensors(flavour, part).items()
        if len(shape) == 2 and name.endswith(".weight") and name.split(".")[-2] not in _EMBEDDINGS
    )


@lru_cache(maxsize=64)
def quantized_layers(flavour: str, part: str) -> frozenset[str]:
    """The linear layers that a precision other than no_change is meant for."""
    if part == "vae":
        return frozenset()
    layers = linear_layers(flavour, part)
    kept = FULL_PRECISION if part == "transformer" else ()
    return frozenset(layer for layer in layers if not any(fnmatchcase(layer, pattern) for pattern in kept))


@lru_cache(maxsize=64)
def lora_layers(flavour: str, target: str | tuple[str, ...]) -> tuple[str, ...]:
    """The linear layers that a value of `lora_target` means; a pattern that matches nothing adds nothing."""
    facts, layers = family_of(flavour), linear_layers(flavour, "transformer")
    if isinstance(target, str):
        patterns: Iterable[str] = facts.lora_targets.get(target, ())
        layers = tuple(layer for layer in layers if layer.startswith(f"{facts.block_prefix}."))
    else:
        patterns = target
    found = {layer for pattern in patterns for layer in matching_modules(pattern, layers)}
    return tuple(layer for layer in layers if layer in found)


@lru_cache(maxsize=64)
def lora_parameters(flavour: str, target: str | tuple[str, ...], rank: int) -> int:
    """Numbers in the LoRA: rank x (inputs + outputs) of each layer."""
    tensors = part_tensors(flavour, "transformer")
    return sum(rank * sum(tensors[f"{layer}.weight"]) for layer in lora_layers(flavour, target))


@lru_cache(maxsize=64)
def download_bytes(flavour: str, use_t5: bool) -> int:
    """About what the hub is asked for when nothing of the flavour is on this machine; 0 for the built-in one."""
    if family_flavour(flavour).hub_id is None:
        return 0
    parts = [part for part in WEIGHT_PARTS if use_t5 or part != "text_encoder_3"]
    numbers = sum(count(shape) for part in parts for shape in part_tensors(flavour, part).values())
    return numbers * _HUB_NUMBER_BYTES + _TOKENIZER_BYTES


def family_of(flavour: str) -> FamilyFacts:
    """The family that has the flavour. Raises KeyError for one that no family has."""
    for facts in FAMILIES.values():
        if flavour in facts.flavours:
            return facts
    raise KeyError(flavour)


def family_flavour(flavour: str) -> Flavour:
    return family_of(flavour).flavours[flavour]


def count(shape: Shape) -> int:
    """The numbers in a tensor."""
    return math.prod(shape)


def _linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Named:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _convolution(name: str, inputs: int, outputs: int, side: int) -> Named:
    yield f"{name}.weight", (outputs, inputs, side, side)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int, bias: bool = True) -> Named:
    yield f"{name}.weight", (width,)
    if bias:
        yield f"{name}.bias", (width,)


def _transformer(config: Mapping[str, Any]) -> Named:
    """SD3's transformer (diffusers' SD3Transformer2DModel)."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    patch, channels = config["patch_size"], config["in_channels"]
    yield "pos_embed.pos_embed", (1, config["pos_embed_max_size"] ** 2, width)
    yield from _convolution("pos_embed.proj", channels, width, patch)
    for name, inputs in (("timestep", _TIME_FREQUENCIES), ("text", config["pooled_projection_dim"])):
        yield from _linear(f"time_text_embed.{name}_embedder.linear_1", inputs, width)
        yield from _linear(f"time_text_embed.{name}_embedder.linear_2", width, width)
    yield from _linear("context_embedder", config["joint_attention_dim"], config["caption_projection_dim"])
    for block in range(config["num_layers"]):
        yield from _block(f"transformer_blocks.{block}", config, width, block)
    yield from _linear("norm_out.linear", width, 2 * width)
    yield from _linear("proj_out", width, patch * patch * config["out_channels"])


def _block(name: str, config: Mapping[str, Any], width: int, block: int) -> Named:
    """One block. The text stream of the last ends there; blocks with a second attention modulate it too."""
    last, dual = block == config["num_layers"] - 1, block in config["dual_attention_layers"]
    yield from _linear(f"{name}.norm1.linear", width, (9 if dual else 6) * width)
    yield from _linear(f"{name}.norm1_context.linear", width, (2 if last else 6) * width)
    yield from _attention(f"{name}.attn", config, width, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
    text = ("add_k_proj", "add_v_proj", "add_q_proj")
    yield from _attention(f"{name}.attn", config, width, text, ("norm_added_q", "norm_added_k"))
    yield from _linear(f"{name}.attn.to_out.0", width, width)
    if not last:
        yield from _linear(f"{name}.attn.to_add_out", width, width)
    if dual:
        yield from _attention(f"{name}.attn2", config, width, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
        yield from _linear(f"{name}.attn2.to_out.0", width, width)
    for feed_forward in ("ff",) if last else ("ff", "ff_context"):
        yield from _linear(f"{name}.{feed_forward}.net.0.proj", width, 4 * width)
        yield from _linear(f"{name}.{feed_forward}.net.2", 4 * width, width)


def _attention(
    name: str, config: Mapping[str, Any], width: int, projections: tuple[str, ...], norms: tuple[str, ...]
) -> Named:
    if config["qk_norm"] is not None:
        for norm in norms:
            yield from _norm(f"{name}.{norm}", config["attention_head_dim"], bias=False)
    for projection in projections:
        yield from _linear(f"{name}.{projection}", width, width)


def _clip(config: Mapping[str, Any]) -> Named:
    """A CLIP text model with its projection (transformers' CLIPTextModelWithProjection)."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    yield "text_model.embeddings.token_embedding.weight", (config["vocab_size"], width)
    yield "text_model.embeddings.position_embedding.weight", (config["max_position_embeddings"], width)
    for layer in range(config["num_hidden_layers"]):
        name = f"text_model.encoder.layers.{layer}"
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _linear(f"{name}.self_attn.{projection}", width, width)
        yield from _norm(f"{name}.layer_norm1", width)
        yield from _linear(f"{name}.mlp.fc1", width, inner)
        yield from _linear(f"{name}.mlp.fc2", inner, width)
        yield from _norm(f"{name}.layer_norm2", width)
    yield from _norm("text_model.final_layer_norm", width)
    yield from _linear("text_projection", width, config["projection_dim"], bias=False)


def _t5(config: Mapping[str, Any]) -> Named:
    """T5's encoder (transformers' T5EncoderModel), whose feed-forward is gated."""
    width, inner, heads = config["d_model"], config["d_ff"], config["num_heads"]
    attention = heads * config["d_kv"]
    yield "shared.weight", (config["vocab_size"], width)
    for block in range(config["num_layers"]):
        name = f"encoder.block.{block}.layer"
        for projection in "qkv":
            yield from _linear(f"{name}.0.SelfAttention.{projection}", width, attention, bias=False)
        yield from _linear(f"{name}.0.SelfAttention.o", attention, width, bias=False)
        if block == 0:
            table = (config["relative_attention_num_buckets"], heads)
            yield f"{name}.0.SelfAttention.relative_attention_bias.weight", table
        yield from _norm(f"{name}.0.layer_norm", width, bias=False)
        for gate in ("wi_0", "wi_1"):
            yield from _linear(f"{name}.1.DenseReluDense.{gate}", width, inner, bias=False)
        yield from _linear(f"{name}.1.DenseReluDense.wo", inner, width, bias=False)
        yield from _norm(f"{name}.1.layer_norm", width, bias=False)
    yield from _norm("encoder.final_layer_norm", width, bias=False)


def _vae(config: Mapping[str, Any]) -> Named:
    """diffusers' AutoencoderKL: an encoder that halves the sides between its levels, and the decoder back."""
    widths, layers, latent = config["block_out_channels"], config["layers_per_block"], config["latent_channels"]
    yield from _convolution("encoder.conv_in", config["in_channels"], widths[0], 3)
    for level, width in enumerate(widths):
        name = f"encoder.down_blocks.{level}"
        yield from _resnets(name, widths[max(level - 1, 0)], width, layers)
        if level < len(widths) - 1:
            yield from _convolution(f"{name}.downsamplers.0.conv", width, width, 3)
    yield from _middle("encoder.mid_block", widths[-1])
    yield from _norm("encoder.conv_norm_out", widths[-1])
    yield from _convolution("encoder.conv_out", widths[-1], 2 * latent, 3)
    yield from _convolution("decoder.conv_in", latent, widths[-1], 3)
    upwards = widths[::-1]
    for level, width in enumerate(upwards):
        name = f"decoder.up_blocks.{level}"
        yield from _resnets(name, upwards[max(level - 1, 0)], width, layers + 1)
        if level < len(widths) - 1:
            yield from _convolution(f"{name}.upsamplers.0.conv", width, width, 3)
    yield from _middle("decoder.mid_block", widths[-1])
    yield from _norm("decoder.conv_norm_out", widths[0])
    yield from _convolution("decoder.conv_out", widths[0], config["out_channels"], 3)


def _resnets(name: str, inputs: int, outputs: int, layers: int) -> Named:
    for layer in range(layers):
        yield from _resnet(f"{name}.resnets.{layer}", inputs if layer == 0 else outputs, outputs)


def _resnet(name: str, inputs: int, outputs: int) -> Named:
    yield from _norm(f"{name}.norm1", inputs)
    yield from _convolution(f"{name}.conv1", inputs, outputs, 3)
    yield from _norm(f"{name}.norm2", outputs)
    yield from _convolution(f"{name}.conv2", outputs, outputs, 3)
    if inputs != outputs:
        yield from _convolution(f"{name}.conv_shortcut", inputs, outputs, 1)


def _middle(name: str, width: int) -> Named:
    yield from _norm(f"{name}.attentions.0.group_norm", width)
    for projection in ("to_q", "to_k", "to_v", "to_out.0"):
        yield from _linear(f"{name}.attentions.0.{projection}", width, width)
    for resnet in range(2):
        yield from _resnet(f"{name}.resnets.{resnet}", width, width)
