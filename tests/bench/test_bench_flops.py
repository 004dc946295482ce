"""The formulas against what torch counts on the tiny transformer, call by call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from simpletune.bench.eager import checkpoint_blocks
from simpletune.bench.flops import training_work
from simpletune.bench.settings import default_settings
from simpletune.config.architecture import component_config
from simpletune.config.settings import Settings
from simpletune.models.adapters import attach_lora
from simpletune.models.components import empty_module
from simpletune.models.load import stream_into
from simpletune.models.random_source import RandomSource

TEXT, SIDE = 40, 8  # tokens, and latent places along an edge: 16 tokens of image


def counted(settings: Settings, every: int | None) -> dict[str, float]:
    """Operations of linear layers and of attention, and in all, as torch's counter sees one sample's step."""
    config = component_config("tiny", "transformer")
    module = empty_module("transformer", config)
    device = torch.device("cpu")
    stream_into(module, RandomSource("tiny", "transformer", device, torch.float32), device=device, dtype=torch.float32)
    attach_lora(module, settings)
    if every is not None:
        checkpoint_blocks(module, every)
    module.train()
    generator = torch.Generator().manual_seed(0)
    inputs: dict[str, Any] = {
        "hidden_states": torch.randn(1, 16, SIDE, SIDE, generator=generator),
        "encoder_hidden_states": torch.randn(1, TEXT, config["joint_attention_dim"], generator=generator),
        "pooled_projections": torch.randn(1, config["pooled_projection_dim"], generator=generator),
        "timestep": torch.tensor([500.0]),
    }
    # Torch's counter knows attention's four-product kernels on a GPU only; this way it sees plain products.
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter, set_checkpoint_early_stop(False):
        module(**inputs, return_dict=False)[0].square().mean().backward()
    attention = counter.get_flop_counts()["Global"][torch.ops.aten.bmm]
    return {"attention": attention, "linear": counter.get_total_flops() - attention}


@pytest.mark.parametrize("every", [None, 1, 2])
@pytest.mark.parametrize("target", ["attention", "blocks"])
def test_formulas_are_what_torch_counts(target: str, every: int | None) -> None:
    settings = replace(default_settings("cpu", "no"), lora_target=target, lora_rank=4)
    found = counted(settings, every)
    work = training_work("tiny", (SIDE * SIDE // 4, TEXT), lora=(target, 4), checkpoint_every=every)
    assert work.linear_forward + work.linear_backward + work.linear_again == found["linear"]
    # The plain way keeps the scores: its backward pass has four products, the kernels' computes a fifth again.
    assert work.attention_forward + 0.8 * work.attention_backward + work.attention_again == found["attention"]


def test_real_size_is_what_was_reckoned_by_hand() -> None:
    """SD3-medium at 1024 x 1024, as the notes on its step have it: TFLOP of a sample."""
    work = training_work("sd3-medium", (4096, 154), lora=("attention", 16), checkpoint_every=None)
    assert 5.7e12 < work.linear_forward < 5.9e12
    assert 2.6e12 < work.attention_forward < 2.7e12
