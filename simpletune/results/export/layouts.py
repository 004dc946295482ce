"""The layouts of a LoRA file: which tensors, under which names.

    diffusers   transformer.transformer_blocks.0.attn.to_q.lora_A.weight (r, I), lora_B.weight (O, r)
    original    joint_blocks.0.x_block.attn.qkv.lora_down.weight, lora_up.weight, alpha: the names of Stability's MMDiT
    comfyui     the same after "diffusion_model.", as ComfyUI calls the layers of any model
    kohya       lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight, ...: as kohya-ss' sd-scripts write them
    lycoris     lycoris_transformer_blocks_0_attn_to_q.lokr_w1, ...: as the LyCORIS library and SimpleTuner write them

MMDiT has one layer for query, key and value where diffusers has three. Their products become one exactly: the three A
are stacked, and each B stands in the rows of its own part beside zeros,

    [ Bq Aq ]   [ Bq 0  0  ] [ Aq ]
    [ Bk Ak ] = [ 0  Bk 0  ] [ Ak ]
    [ Bv Av ]   [ 0  0  Bv ] [ Av ]

of three times the rank; a part that was not trained has neither. Modulations whose halves MMDiT keeps the other way
round have the halves of B, and of a DoRA's m, exchanged. alpha is each layer's own rank, so that every reader
multiplies by 1: the scale is in B. A LoHa or LoKr of a fused layer can't be had: ComfyUI reads these in the library's
layout, by diffusers' names.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from simpletune.errors import UsageError
from simpletune.models import lycoris_file
from simpletune.models.adapter_layers import MAGNITUDE
from simpletune.models.lora_file import METADATA_KEY, PREFIX, Adapter, Factors, metadata, type_of
from simpletune.models.lycoris_file import DORA_SCALE, Matrices
from simpletune.models.single_file import transformer_original

DIFFUSERS, ORIGINAL, COMFYUI, KOHYA, LYCORIS = "diffusers", "original", "comfyui", "kohya", "lycoris"
_WEIGHT = ".weight"


def tensors(adapters: Mapping[str, Adapter], layout: str, last_block: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """The file's tensors, by name, on the CPU.

    adapters: by diffusers' module name. last_block: number of the model's last transformer block, whose modulation is
    the one that MMDiT keeps otherwise. alpha stays fp32, which holds every rank exactly. Raises UsageError for an
    adapter that the layout can't hold.
    """
    if is_in_lycoris(adapters, layout):
        return _lycoris(adapters, dtype)
    factors = {module: factor for module, factor in adapters.items() if isinstance(factor, Factors)}
    if len(factors) < len(adapters):
        raise UsageError(
            f"the {layout} layout can't hold a {type_of(adapters)}: it is made of other matrices than a LoRA",
            "take --to comfyui or --to lycoris, which hold it as it is, or --to merged",
        )
    if layout == DIFFUSERS:
        named = {f"{PREFIX}{module}.lora_A.weight": factor.a for module, factor in factors.items()}
        named |= {f"{PREFIX}{module}.lora_B.weight": factor.b for module, factor in factors.items()}
        lengths = {module: factor.magnitude for module, factor in factors.items()}
        named |= {f"{PREFIX}{module}.{MAGNITUDE}": length for module, length in lengths.items() if length is not None}
        return {name: _stored(tensor, dtype) for name, tensor in sorted(named.items())}
    found: dict[str, Tensor] = {}
    for module, factor in original_factors(factors, last_block).items():
        name = _named(module, layout)
        found[f"{name}.lora_down.weight"] = _stored(factor.a, dtype)
        found[f"{name}.lora_up.weight"] = _stored(factor.b, dtype)
        found[f"{name}.alpha"] = torch.tensor(float(len(factor.a)))
        if factor.magnitude is not None:
            found[f"{name}.{DORA_SCALE}"] = _stored(factor.magnitude[:, None], dtype)
    return found


def is_in_lycoris(adapters: Mapping[str, Adapter], layout: str) -> bool:
    """Whether the layout, for such an adapter, is that of the LyCORIS library: for ComfyUI of all but plain LoRAs."""
    plain = all(isinstance(one, Factors) and one.magnitude is None for one in adapters.values())
    return layout == LYCORIS or (layout == COMFYUI and not plain)


def _lycoris(adapters: Mapping[str, Adapter], dtype: torch.dtype) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for module, adapter in adapters.items():
        rank: int
        if isinstance(adapter, Matrices):
            named, rank = dict(adapter.tensors), adapter.rank
        else:
            named, rank = {lycoris_file.DOWN: adapter.a, lycoris_file.UP: adapter.b}, len(adapter.a)
            if adapter.magnitude is not None:
                named[DORA_SCALE] = adapter.magnitude[:, None]
        found |= {lycoris_file.key(module, short): _stored(tensor, dtype) for short, tensor in named.items()}
        found[lycoris_file.key(module, lycoris_file.ALPHA)] = torch.tensor(float(rank))
    return found


def header(adapters: Mapping[str, Adapter], layout: str) -> dict[str, str]:
    """What the file's header says for its readers: diffusers' LoraConfig, with every layer's rank; kohya's network."""
    if is_in_lycoris(adapters, layout):
        return {"format": "pt"}
    factors = {module: factor for module, factor in adapters.items() if isinstance(factor, Factors)}
    ranks = {module: len(factor.a) for module, factor in factors.items()}
    common = Counter(ranks.values()).most_common(1)[0][0]
    if layout == KOHYA:
        return {"format": "pt", "ss_network_module": "networks.lora_sd3", "ss_network_dim": str(common)}
    if layout != DIFFUSERS:
        return {"format": "pt"}
    said = metadata(common, common, False, factors, any(one.magnitude is not None for one in factors.values()))
    config = json.loads(said[METADATA_KEY])
    others = {module: rank for module, rank in sorted(ranks.items()) if rank != common}
    config |= {f"{PREFIX}rank_pattern": others, f"{PREFIX}alpha_pattern": others}
    return said | {METADATA_KEY: json.dumps(config, indent=2, sort_keys=True)}


def original_factors(factors: Mapping[str, Factors], last_block: int) -> dict[str, Factors]:
    """The same adapter for the layers of MMDiT, by their names: fused, and with halves exchanged, as said above."""
    found: dict[str, Factors] = {}
    parts: dict[tuple[str, int], dict[int, Factors]] = {}
    for module, factor in factors.items():
        origin = transformer_original(module + _WEIGHT, last_block)
        name = origin.name.removesuffix(_WEIGHT)
        if origin.pieces > 1:
            parts.setdefault((name, origin.pieces), {})[origin.piece] = factor
        else:
            found[name] = _swapped(factor) if origin.swapped else factor
    return found | {name: _fused(pieces, count) for (name, count), pieces in parts.items()}


def _fused(pieces: Mapping[int, Factors], count: int) -> Factors:
    """pieces: which of `count` parts of equal height -> its factors."""
    height = next(iter(pieces.values())).b.shape[0]
    order = sorted(pieces)
    lengths = [pieces[piece].magnitude for piece in order]
    known = [length for length in lengths if length is not None]
    if known and len(known) < count:
        raise UsageError(
            "query, key and value are one layer there, and this DoRA has lengths for some of them only",
            "take --to comfyui or --to diffusers, or train all attention layers",
        )
    a_RI = torch.cat([pieces[piece].a for piece in order])
    b_OR = a_RI.new_zeros(count * height, len(a_RI))
    column = 0
    for piece in order:
        b = pieces[piece].b
        b_OR[piece * height : (piece + 1) * height, column : column + b.shape[1]] = b
        column += b.shape[1]
    return Factors(a_RI, b_OR, torch.cat(known) if known else None)


def _swapped(factor: Factors) -> Factors:
    length = None if factor.magnitude is None else swapped_halves(factor.magnitude)
    return Factors(factor.a, swapped_halves(factor.b), length)


def swapped_halves(tensor: Tensor) -> Tensor:
    """The second half of the rows before the first."""
    first, second = tensor.chunk(2)
    return torch.cat([second, first])


def _named(module: str, layout: str) -> str:
    if layout == KOHYA:
        return f"lora_unet_{module.replace('.', '_')}"
    return f"diffusion_model.{module}" if layout == COMFYUI else module


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to("cpu", dtype).contiguous()
