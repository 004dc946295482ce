"""One .safetensors file in Stability's original layout, seen under diffusers' names without converting it.

Nothing is rewritten or held: every tensor a model asks for becomes a view that reads, cuts or reorders the original
when it is streamed in. Architecture numbers come from the tensors' shapes, what shapes can't tell from the shipped
configs. diffusers' single-file converters are the oracle in the tests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from simpletune.config import architecture
from simpletune.errors import ModelUnavailable
from simpletune.models.weight_source import View, WeightSource

_PREFIXES = {
    "transformer": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "text_encoders.clip_l.transformer.",
    "text_encoder_2": "text_encoders.clip_g.transformer.",
    "text_encoder_3": "text_encoders.t5xxl.transformer.",
}
_HEAD_WIDTH = 64  # in the attention of every SD3, CLIP and T5 there is

# diffusers' names -> original names, outside the blocks and inside them.
_TRANSFORMER_OUTER = (
    ("pos_embed.proj.", "x_embedder.proj."),
    ("pos_embed.pos_embed", "pos_embed"),
    ("time_text_embed.timestep_embedder.linear_1.", "t_embedder.mlp.0."),
    ("time_text_embed.timestep_embedder.linear_2.", "t_embedder.mlp.2."),
    ("time_text_embed.text_embedder.linear_1.", "y_embedder.mlp.0."),
    ("time_text_embed.text_embedder.linear_2.", "y_embedder.mlp.2."),
    ("norm_out.linear.", "final_layer.adaLN_modulation.1."),
    ("proj_out.", "final_layer.linear."),
)
_TRANSFORMER_BLOCK = (
    ("attn.add_q_proj.", "context_block.attn.qkv.", 0),
    ("attn.add_k_proj.", "context_block.attn.qkv.", 1),
    ("attn.add_v_proj.", "context_block.attn.qkv.", 2),
    ("attn.norm_added_q.", "context_block.attn.ln_q.", None),
    ("attn.norm_added_k.", "context_block.attn.ln_k.", None),
    ("attn.to_add_out.", "context_block.attn.proj.", None),
    ("norm1_context.linear.", "context_block.adaLN_modulation.1.", None),
    ("norm1.linear.", "x_block.adaLN_modulation.1.", None),
    ("ff.net.0.proj.", "x_block.mlp.fc1.", None),
    ("ff.net.2.", "x_block.mlp.fc2.", None),
    ("ff_context.net.0.proj.", "context_block.mlp.fc1.", None),
    ("ff_context.net.2.", "context_block.mlp.fc2.", None),
    *(
        (f"{attention}.{module}.", f"x_block.{attention}.{original}.", piece)
        for attention in ("attn", "attn2")
        for module, original, piece in (
            ("to_q", "qkv", 0),
            ("to_k", "qkv", 1),
            ("to_v", "qkv", 2),
            ("norm_q", "ln_q", None),
            ("norm_k", "ln_k", None),
            ("to_out.0", "proj", None),
        )
    ),
)
_VAE = (
    (r"^(encoder|decoder)\.conv_norm_out\.", r"\1.norm_out."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r".down.\1.block.\2."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
)


@dataclass(frozen=True)
class Original:
    """Where a tensor of diffusers is in the original layout: rows `piece` of `pieces` of a tensor, or all of it."""

    name: str
    piece: int = 0
    pieces: int = 1
    swapped: bool = False  # halves exchanged: the original keeps (shift, scale), diffusers (scale, shift)
    flattened: bool = False  # a 1x1 convolution that is a linear layer in diffusers

    def view(self, rows: int) -> View:
        """What reads it from the files, where the original has `rows` rows."""

        def read(source: WeightSource) -> Tensor:
            if self.swapped:
                return torch.cat([source.rows(self.name, rows // 2, rows), source.rows(self.name, 0, rows // 2)])
            height = rows // self.pieces
            tensor = source.rows(self.name, self.piece * height, (self.piece + 1) * height)
            return tensor.flatten(1) if self.flattened else tensor

        return read


def has_part(source: WeightSource, part: str) -> bool:
    """Whether the file holds a part's weights."""
    prefix = _prefix(source, part)
    return any(name.startswith(prefix) for name in source.names())


def part_config(source: WeightSource, part: str) -> dict[str, Any]:
    """The diffusers or transformers config of a part, from the shapes of its tensors.

    Raises ModelUnavailable when the file holds no such part or is no SD3.
    """
    shapes = _shapes(source, part)
    derive = {"transformer": _transformer_config, "vae": _vae_config, "text_encoder_3": _t5_config}
    try:
        return derive.get(part, _clip_config)(part, shapes)
    except (KeyError, IndexError, ValueError) as error:
        raise ModelUnavailable(
            f"{_file(source)} holds no {part} of Stable Diffusion 3 (looked for {error})",
            "name a file in the original SD3 layout, or a folder in the diffusers layout",
        ) from error


def part_source(source: WeightSource, part: str, names: Iterable[str]) -> WeightSource:
    """The part's tensors under the names of its diffusers or transformers module."""
    prefix = _prefix(source, part)
    views: dict[str, View] = {}
    levels = len(_vae_levels(_shapes(source, part))) if part == "vae" else 0
    last_block = max(_numbers(_shapes(source, part), r"^joint_blocks\.(\d+)\."), default=0)
    for name in names:
        if part == "transformer":
            origin = transformer_original(name, last_block)
        elif part == "vae":
            origin = vae_original(name, levels)
        else:
            origin = Original(name)
        found = replace(origin, name=prefix + origin.name)
        if part == "text_encoder" and name == "text_projection.weight":
            views[name] = _identity(part_config(source, part)["hidden_size"])
        elif found.name in source:
            views[name] = found.view((source.shape(found.name) or (1,))[0])
    return source.viewed(views)


def transformer_original(name: str, last_block: int) -> Original:
    """Where the original MMDiT keeps diffusers' tensor `name`."""
    block = re.match(r"transformer_blocks\.(\d+)\.(.+)", name)
    if block is None:
        old = next((old + name.removeprefix(new) for new, old in _TRANSFORMER_OUTER if name.startswith(new)), name)
        return Original(old, swapped=name.startswith("norm_out."))
    number, inner = int(block[1]), block[2]
    new, old, piece = next(entry for entry in _TRANSFORMER_BLOCK if inner.startswith(entry[0]))
    original = f"joint_blocks.{number}.{old}{inner.removeprefix(new)}"
    if piece is not None:
        return Original(original, piece, 3)
    return Original(original, swapped=number == last_block and new == "norm1_context.linear.")


def vae_original(name: str, levels: int) -> Original:
    """Where the original autoencoder keeps diffusers' tensor `name`; its decoder counts the levels the other way."""
    up = re.match(r"decoder\.up_blocks\.(\d+)\.(resnets\.(\d+)|upsamplers\.0)\.(.+)", name)
    if up is not None:
        inner = f"block.{up[3]}" if up[3] is not None else "upsample"
        old = f"decoder.up.{levels - 1 - int(up[1])}.{inner}.{up[4]}"
        return Original(old.replace(".conv_shortcut.", ".nin_shortcut."))
    old = name
    for pattern, replacement in _VAE:
        old = re.sub(pattern, replacement, old)
    return Original(old, flattened=bool(re.search(r"\.attentions\.0\.to_\w+(\.0)?\.weight$", name)))


def _identity(width: int) -> View:
    """SD3 uses CLIP-L's pooled state unprojected, so diffusers gives it the identity; a file may hold CLIP's own."""
    return lambda _source: torch.eye(width)


def _file(source: WeightSource) -> str:
    return str(source.paths[0])


def _prefix(source: WeightSource, part: str) -> str:
    """Files with the transformer alone sometimes leave its prefix out."""
    if part == "transformer" and "joint_blocks.0.x_block.attn.qkv.weight" in source:
        return ""
    return _PREFIXES[part]


def _shapes(source: WeightSource, part: str) -> dict[str, tuple[int, ...]]:
    prefix = _prefix(source, part)
    return {name.removeprefix(prefix): source.shape(name) or () for name in source.names() if name.startswith(prefix)}


def _numbers(names: Iterable[str], pattern: str) -> set[int]:
    return {int(found[1]) for name in names if (found := re.search(pattern, name))}


def _vae_levels(shapes: Mapping[str, tuple[int, ...]]) -> set[int]:
    return _numbers(shapes, r"^encoder\.down\.(\d+)\.")


def _transformer_config(_part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    return architecture.component_config("sd3-medium", "transformer") | {
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": shapes["final_layer.linear.weight"][0] // patch**2,
        "num_layers": 1 + max(_numbers(shapes, r"^joint_blocks\.(\d+)\.")),
        "attention_head_dim": _HEAD_WIDTH,
        "num_attention_heads": width // _HEAD_WIDTH,
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "caption_projection_dim": shapes["context_embedder.weight"][0],
        "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes["pos_embed"][1]),
        "dual_attention_layers": sorted(_numbers(shapes, r"^joint_blocks\.(\d+)\.x_block\.attn2\.")),
        "qk_norm": "rms_norm" if "joint_blocks.0.x_block.attn.ln_q.weight" in shapes else None,
    }


def _vae_config(part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    levels = sorted(_vae_levels(shapes))
    widths = [shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in levels]
    return architecture.component_config("sd3-medium", part) | {
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
        "block_out_channels": widths,
        "layers_per_block": 1 + max(_numbers(shapes, r"^encoder\.down\.0\.block\.(\d+)\.")),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
    }


def _clip_config(part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
    return architecture.component_config("sd3-medium", part) | {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "projection_dim": width if part == "text_encoder" else shapes["text_projection.weight"][0],
        "num_hidden_layers": 1 + max(_numbers(shapes, r"^text_model\.encoder\.layers\.(\d+)\.")),
        "num_attention_heads": width // _HEAD_WIDTH,
        "max_position_embeddings": shapes["text_model.embeddings.position_embedding.weight"][0],
    }


def _t5_config(part: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    vocabulary, width = shapes["shared.weight"]
    blocks = 1 + max(_numbers(shapes, r"^encoder\.block\.(\d+)\."))
    buckets, heads = shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    return architecture.component_config("sd3-medium", part) | {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_ff": shapes["encoder.block.0.layer.1.DenseReluDense.wo.weight"][1],
        "d_kv": shapes["encoder.block.0.layer.0.SelfAttention.q.weight"][0] // heads,
        "num_layers": blocks,
        "num_decoder_layers": blocks,
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
    }
