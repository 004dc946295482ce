"""Every way a step can run, on a GPU: the same losses and weights as plain PyTorch calls, at each precision."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import nn

from simpletune.data.loader import MicroBatch, StepBatch
from simpletune.models.adapters import attach_lora, trainable_parameters
from simpletune.models.graphs import Graphs
from simpletune.models.quantize import PRECISIONS, frozen_linear, is_quantized
from simpletune.models.sd3 import QUANTIZED, SD3
from simpletune.models.sd3_offload import offload_blocks
from simpletune.trainer.assemble import enable_checkpointing, offloads
from simpletune.trainer.ema import Ema
from simpletune.trainer.optimizers import build_optimizer
from simpletune.trainer.step import TrainingStep

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]
# torch's compiler makes warnings of its own, and hides them in a way that pytest undoes.
pytestmark.append(pytest.mark.filterwarnings("ignore"))

DEVICE = torch.device("cuda")
SIZES = {
    "sample_size": 32,
    "patch_size": 2,
    "in_channels": 16,
    "num_layers": 3,
    "attention_head_dim": 64,
    "num_attention_heads": 4,
    "joint_attention_dim": 256,
    "caption_projection_dim": 256,
    "pooled_projection_dim": 128,
    "out_channels": 16,
    "pos_embed_max_size": 32,
}
SETTINGS = {
    "seed": 5, "mixed_precision": "bf16", "timestep_sampling": "logit_normal", "timestep_mean": 0.0,
    "timestep_scale": 1.0, "flow_schedule_shift": 3.0, "flow_schedule_auto_shift": False, "loss_type": "l2",
    "huber_c": 0.1, "max_grad_norm": 1.0, "caption_dropout_probability": 0.0, "gradient_checkpointing": False,
    "gradient_checkpointing_interval": 1, "model_family": "sd3", "lora_target": "attention", "lora_rank": 8,
    "lora_alpha": 8.0, "lora_dropout": 0.0, "use_rslora": False, "use_dora": False, "lora_type": "standard",
    "lycoris_config": None, "lora_init_type": "default", "init_lora": None,
    "optimizer": "adamw", "optimizer_config": {}, "learning_rate": 1e-3, "resolution": 256, "train_batch_size": 2,
    "device_memory_gb": None, "base_model_offload": 0, "activation_offload": False, "base_model_matmul": "auto",
}  # fmt: skip
STEPS = 12
SHAPES = ((2, 32, 32), (2, 32, 24), (1, 32, 32))  # B, H, W


class Made:
    """A small transformer with a LoRA and its training step; `sizes` are those of the transformer that are others."""

    def __init__(
        self,
        way: str,
        precision: str = "no_change",
        *,
        quick: bool = False,
        sizes: dict[str, int] | None = None,
        **changes: Any,
    ) -> None:
        self.settings: Any = SimpleNamespace(**{**SETTINGS, **changes})
        self.model = model(precision, self.settings, **(sizes or {}))
        self.parameters = dict(trainable_parameters(self.model))
        tensors = list(self.parameters.values())
        self.optimizer = build_optimizer(self.settings, tensors)
        self.ema = Ema(self.parameters, 0.99)
        if self.settings.gradient_checkpointing:
            enable_checkpointing(self.model, 1)
        self.said: list[str] = []
        self.graphs = Graphs(DEVICE, self.said.append) if way.startswith("graph") else None
        family = SD3()
        eager: Any = partial(family.predict, self.model)
        if offloads(self.settings):
            eager = family.compiled_predict(self.model, self.settings, compiled=False)
        processes: Any = SimpleNamespace(device=DEVICE, rank=0, sum=lambda _: None)
        self.step = TrainingStep(
            self.settings,
            family,
            family.compiled_predict(self.model, self.settings) if way in {"graph", "compile"} else eager,
            tensors,
            self.optimizer,
            processes,
            None,
            ema=self.ema,
            graphs=self.graphs,
            update_captured=way.startswith("graph") and not quick,
        )

    def train(self, first: int, last: int, shapes: tuple[tuple[int, int, int], ...] = SHAPES[:1]) -> list[float]:
        results = [
            self.step(StepBatch(number, 0, 2, (micro(number, shapes[number % len(shapes)]),)))
            for number in range(first, last)
        ]
        return [result.loss.item() for result in results]

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.parameters.values()])


def model(precision: str, settings: Any, **sizes: int) -> nn.Module:
    torch.manual_seed(0)
    made = SD3Transformer2DModel(**{**SIZES, **sizes})
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.05)
    made.to(DEVICE, torch.bfloat16)
    if is_quantized(precision):
        for name, linear in list(made.named_modules()):
            if isinstance(linear, nn.Linear) and QUANTIZED(name, linear):
                parent, _, leaf = name.rpartition(".")
                quantized = frozen_linear(linear.weight, linear.bias, precision, torch.bfloat16)
                setattr(made.get_submodule(parent), leaf, quantized)
    offload_blocks(made, settings.base_model_offload, DEVICE)
    attach_lora(made, settings)
    return made.train()


def micro(number: int, shape: tuple[int, int, int]) -> MicroBatch:
    count, height, width = shape
    generator = torch.Generator("cuda").manual_seed(number)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, device=DEVICE, dtype=torch.bfloat16, generator=generator)

    return MicroBatch(
        refs=(),
        weight=1.0,
        latents=random(count, 16, height, width),
        prompt_embeds=random(count, 40, 256),
        pooled_prompt_embeds=random(count, 128),
        sample_ids=torch.arange(count, device=DEVICE) + number * count,
        loss_weights=torch.ones(count, device=DEVICE),
        loss_mask=None,
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_ways_follow_the_same_losses(precision: str, checkpointing: bool) -> None:
    """Twelve steps at a high rate: a wrong gradient shows after two of them."""
    expected = Made("eager", precision, gradient_checkpointing=checkpointing).train(0, STEPS)
    assert expected[0] != expected[-1]
    for way in ("compile", "graph", "graph-eager"):
        made = Made(way, precision, gradient_checkpointing=checkpointing)
        losses = made.train(0, STEPS)
        assert losses == pytest.approx(expected, rel=5e-3), way
        assert not made.said
        assert made.graphs is None or made.graphs.count == 2  # the micro batch's and the update's


def test_a_lora_on_the_last_blocks_only() -> None:
    """What comes before them is computed without gradients."""
    target = ["transformer_blocks.1.attn.*", "transformer_blocks.2.attn.*"]
    expected = Made("eager", lora_target=target, gradient_checkpointing=True).train(0, STEPS)
    assert Made("graph", lora_target=target, gradient_checkpointing=True).train(0, STEPS) == pytest.approx(
        expected, rel=5e-3
    )


def test_the_average_follows_in_a_graph_too() -> None:
    averages = []
    for way in ("eager", "graph-eager"):
        made = Made(way)
        made.train(0, STEPS)
        averages.append(torch.cat([tensor.flatten() for tensor in made.ema.state_dict().values()]))
    assert (averages[0] - averages[1]).norm() < 1e-3 * averages[0].norm()


def test_shapes_that_alternate_have_a_graph_each_and_share_their_memory() -> None:
    expected = Made("eager").train(0, 18, SHAPES)
    made = Made("graph-eager")
    assert made.train(0, 12, SHAPES) == pytest.approx(expected[:12], rel=5e-3)
    torch.cuda.synchronize()
    reserved, graphs = torch.cuda.memory_reserved(), made.graphs.count
    assert made.train(12, 18, SHAPES) == pytest.approx(expected[12:], rel=5e-3)
    assert (torch.cuda.memory_reserved(), made.graphs.count) == (reserved, graphs)
    assert graphs == len(SHAPES) + 1


def test_accumulated_micro_batches_equal_one_batch() -> None:
    halves, whole = Made("graph"), Made("graph")
    for number in range(6):
        both = micro(number, (2, 32, 32))
        rows = [slice(0, 1), slice(1, 2)]
        parts = tuple(
            MicroBatch(
                refs=(),
                weight=0.5,
                latents=both.latents[row],
                prompt_embeds=both.prompt_embeds[row],
                pooled_prompt_embeds=both.pooled_prompt_embeds[row],
                sample_ids=both.sample_ids[row],
                loss_weights=both.loss_weights[row],
                loss_mask=None,
            )
            for row in rows
        )
        losses = [made.step(StepBatch(number, 0, 2, batches)) for made, batches in ((halves, parts), (whole, (both,)))]
        assert losses[0].loss.item() == pytest.approx(losses[1].loss.item(), rel=5e-3)
        assert sorted(losses[0].sigma.tolist()) == sorted(losses[1].sigma.tolist())


def test_memory_given_back_between_steps_is_taken_again_and_nothing_changes() -> None:
    expected = Made("graph-eager").train(0, STEPS)
    made = Made("graph-eager")
    losses = made.train(0, 6)
    torch.cuda.synchronize()
    reserved = torch.cuda.memory_reserved()
    made.step.release_memory()
    assert torch.cuda.memory_reserved() < reserved
    assert made.graphs.count == 0
    # Not bit for bit: attention's backward pass adds up in an order of its own each time.
    assert losses + made.train(6, STEPS) == pytest.approx(expected, rel=1e-3)
    assert made.graphs.count == 2


@pytest.mark.parametrize("way", ["eager", "graph"])
def test_a_step_that_is_not_finite_moves_nothing_and_neither_do_those_after_it(way: str) -> None:
    made = Made(way)
    made.train(0, 5)
    weights, average = made.weights().clone(), [tensor.clone() for tensor in made.ema.state_dict().values()]
    poisoned = micro(5, SHAPES[0])
    poisoned.latents[0, 0, 0, 0] = float("inf")
    result = made.step(StepBatch(5, 0, 2, (poisoned,)))
    after = made.train(6, 9)
    assert not torch.isfinite(result.grad_norm + result.loss)
    assert torch.equal(made.weights(), weights)
    assert all(torch.equal(a, b) for a, b in zip(made.ema.state_dict().values(), average, strict=True))
    assert all(loss == loss for loss in after)


def test_an_optimizer_that_cannot_be_captured_runs_beside_the_graph() -> None:
    expected = Made("eager", optimizer="lion", learning_rate=1e-4).train(0, STEPS)
    made = Made("graph-eager", optimizer="lion", learning_rate=1e-4, quick=True)
    assert made.train(0, STEPS) == pytest.approx(expected, rel=5e-3)
    assert made.graphs.count == 1


def test_what_cannot_be_captured_is_said_once_and_run_all_the_same() -> None:
    said: list[str] = []
    graphs = Graphs(DEVICE, said.append)
    x = torch.ones(3, device=DEVICE)

    def waits_for_the_device(tensor: torch.Tensor) -> tuple[torch.Tensor]:
        large = torch.ones(2**28, dtype=torch.uint8, device=DEVICE)
        return (tensor * tensor.sum().item() * large[0],)

    torch.cuda.empty_cache()
    reserved = torch.cuda.memory_reserved()
    results = [graphs.run("sum", waits_for_the_device, (x,))[0].tolist() for _ in range(5)]
    assert results == [[3.0] * 3] * 5
    assert len(said) == 1
    assert "the sum can't be captured" in said[0]
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < reserved + 2**27  # the failed graph's memory is given back
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.rand(2, device=DEVICE).isfinite().all()  # the generator draws again
    assert [graphs.run("double", lambda y: (2 * y,), (x,))[0].tolist() for _ in range(4)] == [[2.0] * 3] * 4
    assert graphs.count == 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_draws_the_same_numbers_in_a_graph(checkpointing: bool) -> None:
    """Recomputed blocks too: they must drop what they dropped in the forward pass."""
    weights = []
    for way in ("eager", "graph-eager"):
        made = Made(way, gradient_checkpointing=checkpointing, lora_dropout=0.5)
        start = made.weights().clone()
        made.train(0, 6)
        assert not made.said
        weights.append(made.weights() - start)
    other = Made("eager", seed=6, lora_dropout=0.5)
    start = other.weights().clone()
    other.train(0, 6)
    difference = (weights[0] - weights[1]).norm()
    assert difference < 0.1 * (weights[0] - (other.weights() - start)).norm()
