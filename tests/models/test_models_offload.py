"""Weights and inputs of blocks in host memory: what is computed is the same, bit for bit, and so are the gradients."""

from __future__ import annotations

import gc
import mmap
import weakref
from typing import Any

import pytest
import torch
from test_models_sd3_forward import SD35, compiling, inputs, model
from torch import Tensor, nn

from simpletune.config.offload import offloaded_blocks
from simpletune.models.adapters import trainable_parameters
from simpletune.models.family import UnsupportedModel
from simpletune.models.host_memory import HostMemory
from simpletune.models.offload import ALIGNED, Offload, Packed, offload_of
from simpletune.models.quantize import PRECISIONS
from simpletune.models.recompute import KeptInputs
from simpletune.models.sd3_forward import SD3Forward
from simpletune.models.sd3_offload import offload_blocks

CPU = torch.device("cpu")
BLOCKS = 5


def made_with(count: int, precision: str = "no_change", **changes: Any) -> nn.Module:
    """The same model with the weights of so many of its five blocks in host memory."""

    def prepare(made: nn.Module) -> None:
        moved = offload_blocks(made, count, CPU)
        assert (moved is None) == (count == 0)

    return model(precision, num_layers=BLOCKS, before_lora=prepare, **changes)


def computed(made: nn.Module, forward: SD3Forward, given: tuple[Tensor, ...]) -> list[Tensor]:
    """The velocity, and the gradients of the LoRA."""
    velocity = forward(*given)
    weight = torch.linspace(-1, 1, velocity.numel()).view_as(velocity)
    parameters = [parameter for _, parameter in trainable_parameters(made)]
    gradients = torch.autograd.grad((velocity * weight).sum(), parameters, allow_unused=True, materialize_grads=True)
    return [velocity.detach(), *gradients]


def assert_same(first: list[Tensor], second: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_offloaded_blocks_compute_the_same_to_the_bit(precision: str) -> None:
    plain = made_with(0, precision)
    forward = SD3Forward(plain, None, compiled=False)
    expected = [computed(plain, forward, inputs(samples)) for samples in (1, 2)]  # AdaLN of one is computed otherwise
    for count in (3, BLOCKS):
        made = made_with(count, precision)
        forward = SD3Forward(made, None, compiled=False)
        for samples, wanted in enumerate(expected, 1):
            assert_same(computed(made, forward, inputs(samples)), wanted)


@pytest.mark.parametrize(
    "lora",
    [
        {"lora_target": "blocks"},
        {"lora_target": ["transformer_blocks.3.attn.to_k"]},
        {"lora_target": ["transformer_blocks.2.attn.*", "transformer_blocks.4.ff.*"]},
        {"lora_init_type": "pissa"},
    ],
    ids=["blocks", "one layer", "last blocks", "pissa"],
)
@pytest.mark.parametrize("checkpointing", [None, 2])
def test_loras_on_any_blocks(lora: dict[str, Any], checkpointing: int | None) -> None:
    results = []
    for count in (0, 3, BLOCKS):
        made = made_with(count, lora=lora, **SD35)
        results.append(computed(made, SD3Forward(made, checkpointing, compiled=False), inputs()))
        assert any(gradient.any() for gradient in results[-1][1:])
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


@pytest.mark.parametrize("count", [0, 3])
def test_inputs_that_wait_in_host_memory_compute_the_same(count: int) -> None:
    plain = made_with(0)
    forward = SD3Forward(plain, 1, compiled=False)
    shapes = [(2, 16, 12), (1, 24, 16), (2, 16, 12), (2, 24, 16)]
    made, kept = made_with(count), KeptInputs(CPU)
    through_host = SD3Forward(made, 1, compiled=False, inputs=kept)
    room = []
    for shape in shapes:
        assert_same(computed(made, through_host, inputs(*shape)), computed(plain, forward, inputs(*shape)))
        room.append(kept.host_bytes)
    assert room[0] == room[1] == room[2] < room[3]  # the same memory, until a larger batch comes


def test_inputs_of_a_pass_that_is_over_are_not_mixed_up() -> None:
    made = made_with(0)
    forward = SD3Forward(made, 1, compiled=False, inputs=KeptInputs(CPU))
    first = forward(*inputs()).sum()
    forward(*inputs(1))
    parameters = [parameter for _, parameter in trainable_parameters(made)]
    with pytest.raises(RuntimeError, match="its pass is over"):
        torch.autograd.grad(first, parameters, allow_unused=True)


def test_skipped_blocks_and_sampling_without_gradients() -> None:
    results = []
    for count in (0, BLOCKS):
        forward = SD3Forward(made_with(count), None, compiled=False)
        with torch.no_grad():
            results.append([forward(*inputs(), skip_layers=skipped) for skipped in ((), (0, 3), (4,))])
    assert_same(*results)
    assert not results[1][0].requires_grad


def test_the_modules_own_forward_pass_fetches_the_weights_too_and_refuses_gradients() -> None:
    noisy, timestep, text, pooled = inputs()
    given = {"hidden_states": noisy, "timestep": timestep, "encoder_hidden_states": text, "pooled_projections": pooled}
    results = []
    for count in (0, 3, BLOCKS):
        made = made_with(count, "int8-quanto")
        with torch.no_grad():
            results.append(made(**given, return_dict=False)[0])
            results.append(made(**given, skip_layers=[1], return_dict=False)[0])
    assert_same(results[:2], results[2:4])
    assert_same(results[:2], results[4:])
    with pytest.raises(UnsupportedModel, match="give no gradients"):
        made(**given)


@compiling
@pytest.mark.parametrize("count", [3, BLOCKS])
def test_compiled_blocks_take_the_weights_from_where_they_are(count: int) -> None:
    plain = made_with(0, "int8-quanto", **SD35)
    made, kept = made_with(count, "int8-quanto", **SD35), KeptInputs(CPU)
    forward = SD3Forward(made, 1, compiled=True, inputs=kept)
    for shape in ((2, 16, 12), (2, 16, 12), (1, 24, 16)):
        expected = computed(plain, SD3Forward(plain, 1, compiled=False), inputs(*shape))
        for ours, theirs in zip(computed(made, forward, inputs(*shape)), expected, strict=True):
            assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


def test_a_block_is_one_piece_of_host_memory_and_its_laid_out_rows_stay_together() -> None:
    made = made_with(BLOCKS, "int8-quanto")
    block = made.transformer_blocks[1]
    bases = [getattr(layer, "base_layer", layer) for layer in (block.attn.to_q, block.attn.to_k, block.attn.to_v)]
    places = [base.data.data_ptr() for base in bases]
    assert places == [places[0] + number * bases[0].data.numel() for number in range(3)]
    frozen = [*(p for p in block.parameters() if not p.requires_grad), *block.buffers()]
    assert len({tensor.untyped_storage().data_ptr() for tensor in frozen}) == 1


def test_nothing_is_held_when_the_model_is_gone() -> None:
    made = made_with(BLOCKS)
    offload = weakref.ref(offload_of(made))
    gc.disable()
    try:
        del made
        assert offload() is None
    finally:
        gc.enable()


def test_what_the_backward_pass_does_without_lies_at_the_end() -> None:
    module = nn.ModuleDict({"first": nn.Linear(3, 5), "apart": nn.Linear(300, 7), "last": nn.Linear(2, 2)})
    before = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    packed = Packed(module, CPU, at_end=("apart",))
    assert packed.core <= 4 * ALIGNED < packed.bytes
    copy = packed.memory.bytes.clone()
    with packed.bound(packed.views(copy)):
        assert module["apart"].weight.untyped_storage().data_ptr() == copy.untyped_storage().data_ptr()
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module["apart"].weight.untyped_storage().data_ptr() == packed.memory.bytes.untyped_storage().data_ptr()


class Copies(Offload):
    """Notes which blocks are copied."""

    def __init__(self) -> None:
        super().__init__(CPU, at_end=("1",))
        self.made: list[str] = []
        model = nn.Module()
        model.transformer_blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(4))
        for number, block in enumerate(model.transformer_blocks):
            self.add(number, block)
        self.attach(model)

    def _copy(self, need: Any, place: int) -> None:
        self.made.append(f"{need.number}{'' if need.whole else ' core'}")
        super()._copy(need, place)


def test_the_next_block_is_copied_ahead_and_what_is_there_at_the_turn_is_not_copied_again() -> None:
    copies = Copies()
    copies.begin(range(4), reversed(range(4)))
    seen = []
    for number in range(4):
        with copies.held(number):
            seen.append(list(copies.made))
    for number in reversed(range(4)):
        with copies.held(number, whole=False):
            seen.append(list(copies.made))
    forward = ["0", "1", "2", "3"]
    assert seen[0] == forward[:2]
    assert seen[1:3] == [forward[:3], forward]
    assert seen[3:5] == [forward, forward]
    assert seen[5:] == [[*forward, "1 core"], *[[*forward, "1 core", "0 core"]] * 2]


@pytest.mark.parametrize(
    ("count", "blocks", "chosen"),
    [(1, 24, (23,)), (3, 24, (7, 15, 23)), (12, 24, tuple(range(1, 24, 2))), (5, 4, (0, 1, 2, 3)), (2, 5, (2, 4))],
)
def test_which_blocks_are_offloaded(count: int, blocks: int, chosen: tuple[int, ...]) -> None:
    assert offloaded_blocks(count, blocks) == chosen


@pytest.mark.parametrize("size", [1, 4096, 100_000])
def test_host_memory_begins_with_a_page_and_with_its_storage(size: int) -> None:
    """PyTorch takes memory for pinned by the first byte of its storage."""
    memory = HostMemory(size, torch.device("cpu"))
    assert memory.bytes.shape == (size,)
    assert memory.bytes.data_ptr() == memory.bytes.untyped_storage().data_ptr()
    assert memory.bytes.data_ptr() % mmap.PAGESIZE == 0
