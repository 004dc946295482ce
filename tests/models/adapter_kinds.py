"""The kinds of adapter that tests go through, and a small SD3 to put them on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from simpletune.models.adapters import trainable_parameters
from simpletune.models.quantize import frozen_linear

SIZES = {
    "sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 2, "attention_head_dim": 16,
    "num_attention_heads": 3, "joint_attention_dim": 32, "caption_projection_dim": 48, "pooled_projection_dim": 24,
    "out_channels": 4, "pos_embed_max_size": 8, "dual_attention_layers": (0,), "qk_norm": "rms_norm",
}  # fmt: skip


def lycoris(algo: str, **keys: Any) -> dict[str, Any]:
    """Settings of a LyCORIS of one algorithm on attention and feed-forward layers."""
    targets = {"target_module": ["Attention", "FeedForward"]}
    value = {"algo": algo, "multiplier": 1.0, "linear_dim": 4, "linear_alpha": 2, "apply_preset": targets, **keys}
    return {"lora_type": "lycoris", "lycoris_config": value}


KINDS: dict[str, dict[str, Any]] = {
    "lora": {"lora_target": "blocks"},
    "dora": {"lora_target": "blocks", "use_dora": True},
    "locon": lycoris("locon"),
    "loha": lycoris("loha"),
    "lokr": lycoris("lokr", factor=4, linear_dim=2),
    "lokr-whole": lycoris("lokr", factor=8, linear_dim=10000, linear_alpha=1, multiplier=0.5),
    "lokr-both": lycoris("lokr", linear_dim=2, decompose_both=True),
}


def settings(kind: str, **changed: Any) -> Any:
    values = {
        "model_family": "sd3", "lora_type": "standard", "lycoris_config": None, "lora_target": "attention",
        "lora_rank": 4, "lora_alpha": 2.0, "lora_dropout": 0.0, "lora_init_type": "default", "use_rslora": False,
        "use_dora": False, "init_lora": None, "seed": 42,
    }  # fmt: skip
    return SimpleNamespace(**{**values, **KINDS[kind], **changed})


def small_model(precision: str = "no_change", dtype: torch.dtype = torch.float32) -> SD3Transformer2DModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = SD3Transformer2DModel(**SIZES)
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.1)
    made.to(dtype).eval().requires_grad_(False)
    if precision != "no_change":
        for name, child in list(made.transformer_blocks.named_modules()):
            if isinstance(child, nn.Linear):
                parent, _, leaf = name.rpartition(".")
                frozen = frozen_linear(child.weight, child.bias, precision, dtype)
                setattr(made.transformer_blocks.get_submodule(parent), leaf, frozen)
    return made


def inputs(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 4, 8, 8, generator=generator).to(dtype),
        "timestep": torch.tensor([200.0, 700.0]),
        "encoder_hidden_states": torch.randn(2, 5, 32, generator=generator).to(dtype),
        "pooled_projections": torch.randn(2, 24, generator=generator).to(dtype),
    }


def run(model: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    result: Tensor = model(**inputs(dtype), return_dict=False)[0]
    return result


def shake(model: nn.Module, by: float = 0.1) -> None:
    """Move every trained number, by its name's own numbers, so that all of the adapter counts."""
    with torch.no_grad():
        for place, (_, parameter) in enumerate(trainable_parameters(model)):
            generator = torch.Generator().manual_seed(place)
            moved = torch.randn(parameter.shape, generator=generator) * by
            if parameter.dim() == 1:  # lengths of rows
                parameter.mul_(1 + moved)
            else:
                parameter.add_(moved)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    target = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    losses = []
    for _ in range(steps):
        loss = (run(model).float() - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses
