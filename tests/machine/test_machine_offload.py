"""What keeping blocks and activations in host memory saves, as estimated and as proposed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from machine_plans import MEASURED

from simpletune.machine.estimate import GIB, offloaded_bytes, weight_bytes
from simpletune.machine.forecast import TRAIN, VALIDATE, forecast
from simpletune.machine.shapes import count, part_tensors
from simpletune.machine.ways_down import applied, ways_down

INT8 = replace(MEASURED, base_model_precision="int8-quanto", device="cuda")


def train(**changes: object) -> int:
    return forecast(replace(INT8, **changes)).phase(TRAIN).bytes


def test_offloaded_blocks_save_their_weights_but_for_two_that_are_being_brought() -> None:
    tensors = part_tensors("sd3-medium", "transformer")
    inside = sum(count(shape) for name, shape in tensors.items() if name.startswith("transformer_blocks."))
    block = sum(count(shape) for name, shape in tensors.items() if name.startswith("transformer_blocks.3."))
    assert offloaded_bytes("sd3-medium", 24, "no_change", "bf16") == 2 * (inside - 2 * block)
    assert offloaded_bytes("sd3-medium", 1000, "no_change", "bf16") == 2 * (inside - 2 * block)
    assert offloaded_bytes("sd3-medium", 0, "int8-quanto", "bf16") == 0
    assert offloaded_bytes("sd3-medium", 2, "int8-quanto", "bf16") <= 0  # there is nothing to save with two
    left = weight_bytes("sd3-medium", "transformer", "int8-quanto", "bf16")
    assert 0 < left - offloaded_bytes("sd3-medium", 24, "int8-quanto", "bf16") < 0.31 * GIB


@pytest.mark.parametrize("execution", ["eager", "graph"])
def test_more_blocks_need_less_memory(execution: str) -> None:
    needs = [train(base_model_offload=number, execution=execution) for number in range(3, 25)]
    assert all(more > less for more, less in pairwise(needs))
    assert needs[-1] < 2 * GIB
    needed = [forecast(replace(INT8, base_model_offload=number)).phase(VALIDATE).bytes for number in (0, 24)]
    assert needed[0] - needed[1] > 1.5 * GIB


def test_offloaded_activations_are_those_of_recomputed_blocks() -> None:
    large = {"bucket": (1536, 1536), "train_batch_size": 4, "execution": "graph"}
    inputs = 24 * 4 * (96 * 96 + 231) * 1536 * 2
    saved = train(**large) - train(**large, activation_offload=True)
    assert 0.8 * inputs < saved < 1.2 * inputs
    off = {**large, "gradient_checkpointing": False}
    assert train(**off) == train(**off, activation_offload=True)
    assert train(**off) - train(**off, base_model_offload=24) > 20 * GIB  # which are recomputed as well


def test_a_card_that_is_too_small_is_offered_the_fewest_blocks_that_fit() -> None:
    wanted = replace(MEASURED, device="cuda", train_batch_size=1)
    limit = int(2.4 * GIB)
    changes = {change.key: change for change in ways_down(wanted, limit, (TRAIN,)) or ()}
    assert changes["base_model_precision"].value == "int8-quanto"
    blocks = changes["base_model_offload"].value
    assert "longer" in changes["base_model_offload"].cost
    reached = wanted
    for change in changes.values():
        reached = applied(reached, change)
    assert forecast(reached).phase(TRAIN).bytes <= limit
    assert forecast(replace(reached, base_model_offload=blocks - 1)).phase(TRAIN).bytes > limit


@pytest.mark.parametrize(
    "unable",
    [{"device": "cpu"}, {"lora_dropout": 0.1}, {"lora_target": ("*.norm1.linear",)}],
    ids=["a CPU", "dropout", "AdaLN"],
)
def test_it_is_not_offered_where_it_cannot_be_had(unable: dict[str, object]) -> None:
    changes = ways_down(replace(INT8, **unable), int(2.2 * GIB), (TRAIN,)) or ()
    assert "base_model_offload" not in {change.key for change in changes}
