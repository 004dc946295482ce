"""The model in the diffusers layout: made with random weights by the project's builder, filled with trained ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from base import Encoders, Painter, start_quietly
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from simpletune.config import architecture
from simpletune.models import builder, components
from simpletune.models.random_weights import position_table
from simpletune.models.text import load_tokenizer

FLAVOUR = "tiny"


def start(folder: Path, seed: int) -> tuple[Any, Painter]:
    """A new pipeline folder, and its VAE and painter with weights as each library starts them."""
    builder.build(folder, FLAVOUR, dtype="fp16", seed=seed, name="tiny-2")
    torch.manual_seed(seed)
    modules = {part: _fresh(part) for part in architecture.WEIGHT_PARTS}
    start_quietly(modules["transformer"])
    return modules["vae"], _painter(folder, modules, scale=1.0, shift=0.0)


def read(folder: Path) -> tuple[Any, Painter]:
    """The VAE and the painter of a saved folder, in float32, eval mode."""
    modules = {}
    for part in architecture.WEIGHT_PARTS:
        module = _fresh(part)
        state = {name: tensor.float() for name, tensor in load_file(_weights(folder, part)).items()}
        _missing, unexpected = module.load_state_dict(state, strict=False)
        if unexpected:
            raise ValueError(f"{folder}/{part} has tensors that the {part} hasn't: {unexpected[:3]}")
        modules[part] = module.eval().requires_grad_(False)
    config = json.loads((folder / "vae" / "config.json").read_text("utf-8"))
    return modules["vae"], _painter(folder, modules, config["scaling_factor"], config["shift_factor"])


def save(folder: Path, vae: Any, painter: Painter) -> None:
    """Write trained weights over the folder's random ones, as float16, and the VAE's measured scale and shift."""
    for part, module in _parts(vae, painter).items():
        config = architecture.component_config(FLAVOUR, part)
        names = [spec.name for spec in builder.weight_specs(part, config, torch.float16)]
        state = {
            name: _stored(part, name, tensor, config) for name, tensor in module.state_dict().items() if name in names
        }
        save_file(state, _weights(folder, part), {"format": "pt"})
    path = folder / "vae" / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config |= {"scaling_factor": round(painter.scale, 4), "shift_factor": round(painter.shift, 4)}
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _stored(part: str, name: str, tensor: Tensor, config: dict[str, Any]) -> Tensor:
    if name == "pos_embed.pos_embed":  # a constant; what training in bfloat16 left of it is rounded
        side = config["pos_embed_max_size"]
        tensor = position_table(side, tensor.shape[-1], config["sample_size"] // config["patch_size"])
    stored = tensor.detach().cpu().to(torch.float16).contiguous()
    if not stored.isfinite().all():
        raise ValueError(f"{part}'s {name} has values that float16 can't hold")
    return stored


def _parts(vae: Any, painter: Painter) -> dict[str, nn.Module]:
    encoders = dict(zip(architecture.ENCODER_PARTS, painter.encoders.modules, strict=True))
    return {**encoders, "vae": vae, "transformer": painter.transformer}


def _painter(folder: Path, modules: dict[str, Any], scale: float, shift: float) -> Painter:
    tokenizers = tuple(load_tokenizer(folder / part) for part in architecture.TOKENIZER_PARTS)
    encoders = tuple(modules[part] for part in architecture.ENCODER_PARTS)
    clip = encoders[0].config.max_position_embeddings
    width = modules["transformer"].config.joint_attention_dim
    return Painter(Encoders(encoders, tokenizers, (clip, clip, clip), width), modules["transformer"], scale, shift)


def _fresh(part: str) -> Any:
    """The part's module with the random weights its own library starts it with."""
    config = architecture.component_config(FLAVOUR, part)
    empty = components.empty_module(part, config)
    if part in architecture.ENCODER_PARTS:
        return type(empty)(empty.config)
    return type(empty).from_config(config)


def _weights(folder: Path, part: str) -> Path:
    return folder / part / f"{components.weights_stem(part)}.safetensors"
