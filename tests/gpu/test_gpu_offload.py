"""Weights and inputs of blocks in host memory, on a GPU: the same losses in every way a step runs, in less memory."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from test_gpu_execution import DEVICE, SHAPES, Made, micro

from simpletune.models.family import TextEncoding
from simpletune.models.graphs import Graphs
from simpletune.models.host_memory import HostMemory
from simpletune.models.offload import offload_of
from simpletune.models.quantize import PRECISIONS
from simpletune.models.sd3 import SD3
from simpletune.models.sd3_forward import SD3Forward

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
# torch's compiler makes warnings of its own, and hides them in a way that pytest undoes.
pytestmark.append(pytest.mark.filterwarnings("ignore"))

BLOCKS = {"num_layers": 6}
LARGE = {"num_layers": 10, "num_attention_heads": 16, "caption_projection_dim": 1024}
LARGE_BLOCK = 36 * 1024**2 * 2  # bytes of its weights in bf16, about
STEPS = 8


def train(
    way: str, precision: str, shapes: tuple[tuple[int, int, int], ...] = SHAPES[:1], **changes: Any
) -> list[float]:
    made = Made(way, precision, sizes=BLOCKS, **changes)
    losses = made.train(0, STEPS, shapes)
    assert not made.said
    offload = offload_of(made.model)
    assert offload is None or offload.is_pinned
    return losses


@pytest.mark.parametrize("precision", PRECISIONS)
def test_offloaded_steps_have_the_same_losses(precision: str) -> None:
    expected = train("eager", precision)
    ways = ["eager", "graph-eager"]
    if precision in {"int8-quanto", "int4-quanto"}:
        ways += ["compile", "graph"]
    for way in ways:
        for count, activations in ((4, False), (6, True)):
            losses = train(way, precision, base_model_offload=count, activation_offload=activations)
            assert losses == pytest.approx(expected, rel=5e-3), (way, count)


@pytest.mark.parametrize("way", ["eager", "graph-eager", "graph"])
@pytest.mark.parametrize("count", [0, 3])
def test_activations_that_wait_in_host_memory(way: str, count: int) -> None:
    given = {"gradient_checkpointing": True}
    expected = train("eager", "int8-quanto", SHAPES, **given)
    given |= {"activation_offload": True, "base_model_offload": count}
    assert train(way, "int8-quanto", SHAPES, **given) == pytest.approx(expected, rel=5e-3)


def test_a_lora_on_the_last_blocks_only() -> None:
    target = ["transformer_blocks.4.attn.*", "transformer_blocks.5.attn.*"]
    expected = train("eager", "no_change", lora_target=target)
    for way in ("eager", "graph-eager"):
        losses = train(way, "no_change", lora_target=target, base_model_offload=6, activation_offload=True)
        assert losses == pytest.approx(expected, rel=5e-3)


def test_shapes_that_alternate_and_pictures_in_between_disturb_nothing() -> None:
    """Graphs share the places that weights come to with what runs beside them."""
    changes = {"base_model_offload": 4, "activation_offload": True, "gradient_checkpointing": True}
    expected = Made("eager", sizes=BLOCKS, gradient_checkpointing=True).train(0, 18, SHAPES)
    made = Made("graph-eager", sizes=BLOCKS, **changes)
    losses = made.train(0, 12, SHAPES)
    torch.cuda.synchronize()
    reserved, graphs = torch.cuda.memory_reserved(), made.graphs.count
    for number in range(12, 18):
        predicted(made)
        losses += made.train(number, number + 1, SHAPES)
    assert losses == pytest.approx(expected, rel=5e-3)
    assert made.graphs.count == graphs == len(SHAPES) + 1
    assert torch.cuda.memory_reserved() <= reserved + (64 << 20)
    made.step.release_memory()
    made.train(18, 24, SHAPES)
    assert made.graphs.count == graphs


def near(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Up to what another order of sums makes; another block's weights make more."""
    return bool((first - second).float().norm() < 1e-3 * second.float().norm())


@torch.no_grad()
def predicted(made: Made) -> torch.Tensor:
    """Through the model's own modules, as held-out pictures are judged."""
    batch = micro(99, SHAPES[0])
    text = TextEncoding(batch.prompt_embeds, batch.pooled_prompt_embeds)
    return SD3().predict(made.model, batch.latents, torch.tensor([0.3, 0.7], device=DEVICE), text)


def test_the_modules_own_forward_pass_computes_the_same() -> None:
    results = [predicted(Made("eager", "int8-quanto", sizes=BLOCKS, base_model_offload=count)) for count in (0, 5)]
    assert near(*results)


@torch.no_grad()
def test_a_captured_forward_pass_without_gradients_and_with_skipped_blocks() -> None:
    batch = micro(99, SHAPES[0])
    given = (
        batch.latents,
        torch.tensor([300.0, 700.0], device=DEVICE),
        batch.prompt_embeds,
        batch.pooled_prompt_embeds,
    )
    for skipped in ((), (2, 5)):
        results = []
        for count in (0, 6):
            made = Made("eager", "int8-quanto", sizes=BLOCKS, base_model_offload=count)
            forward = SD3Forward(made.model, None, compiled=False)
            said: list[str] = []
            graphs = Graphs(DEVICE, said.append)
            run = [
                graphs.run("forward", lambda *inputs: (forward(*inputs, skip_layers=skipped),), given)[0].clone()  # noqa: B023
                for _ in range(5)
            ]
            assert (graphs.count, said) == (1, [])
            assert all(near(one, run[0]) for one in run)
            results.append(run[0])
        assert near(*results)


def peak(way: str, shape: tuple[int, int, int], **changes: Any) -> tuple[int, int]:
    """Bytes held before any step, and the most in four of them."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    made = Made(way, sizes=LARGE, **changes)
    gc.collect()
    held = torch.cuda.memory_allocated() - before
    torch.cuda.reset_peak_memory_stats()
    made.train(0, 4, (shape,))
    torch.cuda.synchronize()
    return held, torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("way", ["eager", "graph-eager"])
def test_offloaded_weights_take_no_memory_of_the_device(way: str) -> None:
    given = {"gradient_checkpointing": True}
    plain = peak(way, SHAPES[0], **given)
    offloaded = peak(way, SHAPES[0], base_model_offload=10, **given)
    for before, after in zip(plain, offloaded, strict=True):
        assert before - after > 6.5 * LARGE_BLOCK  # 10, less those that are brought; the last one is smaller


def test_offloaded_inputs_take_no_memory_of_the_device() -> None:
    shape, given = (4, 64, 64), {"gradient_checkpointing": True, "base_model_offload": 3}
    one = 4 * (1024 + 40) * 1024 * 2
    without, away = (peak("graph-eager", shape, activation_offload=on, **given)[1] for on in (False, True))
    assert without - away > 5 * one


def test_pinned_memory_is_exact_and_given_back() -> None:
    for _ in range(3):
        memory = HostMemory(5_000_001, DEVICE)
        assert memory.is_pinned
        assert memory.bytes.is_pinned()
        assert memory.bytes.numel() == 5_000_001
        pages = memory.bytes
        pages.fill_(7)
        assert pages.to(DEVICE, non_blocking=True).sum().item() == 7 * 5_000_001
        del memory
        gc.collect()
        assert not pages.is_pinned()
        assert pages[-1] == 7
