"""SD3's transformer blocks in host memory (offload.py): while the transformer streams in, or when it is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from simpletune.config.offload import offloaded_blocks
from simpletune.models.offload import Offload
from simpletune.models.sd3_forward import weights_of

_BLOCKS = "transformer_blocks"
_ADALN = ("norm1.linear", "norm1_context.linear")  # a third of a block; the backward pass has their result already


def offload_while_loading(
    count: int, blocks: int, device: torch.device
) -> tuple[Offload | None, Mapping[str, Callable[[nn.Module], None]]]:
    """`count` of a transformer's `blocks`, and what to do with each, by its name, as soon as it has been filled.

    `attach` is left to do once the transformer is there. None and nothing for a count of 0.
    """
    if count == 0:
        return None, {}
    offload = Offload(device, at_end=_ADALN)
    numbers = offloaded_blocks(count, blocks)
    return offload, {f"{_BLOCKS}.{number}": partial(_add, offload, number) for number in numbers}


def offload_blocks(transformer: Any, count: int, device: torch.device) -> Offload | None:
    """Move the weights of so many blocks of a whole transformer, which has no LoRA yet, to host memory."""
    offload, todo = offload_while_loading(count, len(transformer.transformer_blocks), device)
    for name, move in todo.items():
        move(transformer.get_submodule(name))
    if offload is not None:
        offload.attach(transformer)
    return offload


def _add(offload: Offload, number: int, block: nn.Module) -> None:
    weights_of(block)  # lays q, k and v together, as they will be needed
    offload.add(number, block)
