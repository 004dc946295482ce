"""Stability's original layout, made from diffusers' tensors: the inverse of what the package reads.

Written out tensor by tensor and checked against diffusers' own converters, so that it is independent of the package's
tables. Works on meta tensors too.
"""

from __future__ import annotations

import torch
from torch import Tensor

State = dict[str, Tensor]


def transformer(state: State, blocks: int) -> State:
    """SD3Transformer2DModel -> model.diffusion_model.* without the prefix."""
    old = {"pos_embed": state["pos_embed.pos_embed"]}
    for kind in ("weight", "bias"):
        old[f"x_embedder.proj.{kind}"] = state[f"pos_embed.proj.{kind}"]
        old[f"context_embedder.{kind}"] = state[f"context_embedder.{kind}"]
        old[f"final_layer.linear.{kind}"] = state[f"proj_out.{kind}"]
        old[f"final_layer.adaLN_modulation.1.{kind}"] = _halves_exchanged(state[f"norm_out.linear.{kind}"])
        for new_name, old_name in (("timestep", "t"), ("text", "y")):
            old[f"{old_name}_embedder.mlp.0.{kind}"] = state[f"time_text_embed.{new_name}_embedder.linear_1.{kind}"]
            old[f"{old_name}_embedder.mlp.2.{kind}"] = state[f"time_text_embed.{new_name}_embedder.linear_2.{kind}"]
    for number in range(blocks):
        old |= _block(state, f"transformer_blocks.{number}.", f"joint_blocks.{number}.", number == blocks - 1)
    return old


def _block(state: State, new: str, old: str, last: bool) -> State:
    made: State = {}
    for kind in ("weight", "bias"):
        made[f"{old}x_block.attn.qkv.{kind}"] = torch.cat([state[f"{new}attn.to_{x}.{kind}"] for x in "qkv"])
        made[f"{old}context_block.attn.qkv.{kind}"] = torch.cat(
            [state[f"{new}attn.add_{x}_proj.{kind}"] for x in "qkv"]
        )
        made[f"{old}x_block.attn.proj.{kind}"] = state[f"{new}attn.to_out.0.{kind}"]
        made[f"{old}x_block.adaLN_modulation.1.{kind}"] = state[f"{new}norm1.linear.{kind}"]
        made[f"{old}x_block.mlp.fc1.{kind}"] = state[f"{new}ff.net.0.proj.{kind}"]
        made[f"{old}x_block.mlp.fc2.{kind}"] = state[f"{new}ff.net.2.{kind}"]
        modulation = state[f"{new}norm1_context.linear.{kind}"]
        made[f"{old}context_block.adaLN_modulation.1.{kind}"] = _halves_exchanged(modulation) if last else modulation
        if not last:
            made[f"{old}context_block.attn.proj.{kind}"] = state[f"{new}attn.to_add_out.{kind}"]
            made[f"{old}context_block.mlp.fc1.{kind}"] = state[f"{new}ff_context.net.0.proj.{kind}"]
            made[f"{old}context_block.mlp.fc2.{kind}"] = state[f"{new}ff_context.net.2.{kind}"]
        if f"{new}attn2.to_q.weight" in state:
            made[f"{old}x_block.attn2.qkv.{kind}"] = torch.cat([state[f"{new}attn2.to_{x}.{kind}"] for x in "qkv"])
            made[f"{old}x_block.attn2.proj.{kind}"] = state[f"{new}attn2.to_out.0.{kind}"]
    for norm in "qk":
        pairs = (
            (f"attn.norm_{norm}", f"x_block.attn.ln_{norm}"),
            (f"attn.norm_added_{norm}", f"context_block.attn.ln_{norm}"),
            (f"attn2.norm_{norm}", f"x_block.attn2.ln_{norm}"),
        )
        made |= {f"{old}{b}.weight": state[f"{new}{a}.weight"] for a, b in pairs if f"{new}{a}.weight" in state}
    return made


def vae(state: State, levels: int) -> State:
    """AutoencoderKL -> first_stage_model.* without the prefix."""
    old: State = {}
    for name, tensor in state.items():
        side, rest = name.split(".", 1)
        words = rest.replace("conv_shortcut", "nin_shortcut").split(".")
        if words[0] == "conv_norm_out":
            words[0] = "norm_out"
        elif words[0] == "mid_block" and words[1] == "resnets":
            words[:3] = ["mid", f"block_{int(words[2]) + 1}"]
        elif words[0] == "mid_block":
            part = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}[words[3]]
            words = ["mid", "attn_1", part, words[-1]]
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        elif words[0] in ("down_blocks", "up_blocks"):
            down = words[0] == "down_blocks"
            level = int(words[1]) if down else levels - 1 - int(words[1])
            inner = ["block", words[3]] if words[2] == "resnets" else ["downsample" if down else "upsample"]
            words = ["down" if down else "up", str(level), *inner, *words[4:]]
        old[".".join([side, *words])] = tensor
    return old


def _halves_exchanged(tensor: Tensor) -> Tensor:
    return torch.cat(tuple(reversed(tensor.chunk(2))))
