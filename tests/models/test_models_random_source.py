"""Weights without files: every tensor of every part, the same one each time."""

from __future__ import annotations

import pytest
import torch

from simpletune.config.architecture import WEIGHT_PARTS, component_config
from simpletune.models.components import empty_module
from simpletune.models.load import stream_into
from simpletune.models.random_source import RandomSource

CPU = torch.device("cpu")


@pytest.mark.parametrize("part", WEIGHT_PARTS)
def test_a_part_is_filled_with_finite_numbers(part: str) -> None:
    module = empty_module(part, component_config("tiny", part))
    source = RandomSource("tiny", part, CPU, torch.bfloat16)
    loaded = stream_into(module, source, device=CPU, dtype=torch.bfloat16)
    assert loaded.unused == ()
    assert loaded.bytes_read == source.total_bytes
    assert all(bool(torch.isfinite(parameter).all()) for parameter in module.parameters())


def test_a_name_always_means_the_same_tensor() -> None:
    name = "transformer_blocks.0.attn.to_q.weight"
    first, again = (RandomSource("tiny", "transformer", CPU, torch.float32) for _ in range(2))
    again.read("transformer_blocks.1.attn.to_q.weight")
    assert torch.equal(first.read(name), again.read(name))
    assert not torch.equal(first.read(name), first.read(name.replace("to_q", "to_k")))
