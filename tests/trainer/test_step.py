"""One optimizer step against its loss written out by hand, with a model whose parameters are one for each place."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit, InternalTorchDynamoError

from simpletune.data.loader import MicroBatch, StepBatch
from simpletune.data.plan import SampleRef
from simpletune.trainer import flow
from simpletune.trainer.ema import Ema
from simpletune.trainer.optimizers import OPTIMIZERS, build_optimizer, is_installed, parameter_dtype
from simpletune.trainer.randomness import Stream, normal, uniform
from simpletune.trainer.step import StepResult, TrainingStep

SHAPE = 2, 3, 4
IDS = torch.tensor([11, 12, 13])


class Places(nn.Module):
    """Predicts its parameter, whatever it is shown: each place of the picture is influenced by its own number only."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.linspace(-1, 1, 24).view(1, *SHAPE))


class PlacesFamily:
    vae_scale_factor = 8

    def image_tokens(self, width: int, height: int) -> int:
        return width * height // 256

    def predict(self, transformer: Places, noisy: Tensor, sigma: Tensor, text: Any) -> Tensor:
        return transformer.places.expand(len(noisy), -1, -1, -1)


def settings(**changes: Any) -> Any:
    values = {
        "seed": 5, "mixed_precision": "no", "timestep_sampling": "uniform", "flow_schedule_shift": 3.0,
        "flow_schedule_auto_shift": False, "loss_type": "l2", "huber_c": 0.1, "max_grad_norm": 0.0,
        "caption_dropout_probability": 0.0,
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def micro(rows: slice, weight: float, loss_weights: Tensor, mask: Tensor | None = None) -> MicroBatch:
    count = len(IDS[rows])
    return MicroBatch(
        refs=tuple(SampleRef("a", str(number)) for number in IDS[rows].tolist()),
        weight=weight,
        latents=latents()[rows],
        prompt_embeds=torch.zeros(count, 1, 1),
        pooled_prompt_embeds=torch.zeros(count, 1),
        sample_ids=IDS[rows],
        loss_weights=loss_weights[rows],
        loss_mask=None if mask is None else mask[rows],
    )


def latents() -> Tensor:
    return torch.sin(torch.arange(3 * 24.0)).view(3, *SHAPE)


def step_of(
    model: Places,
    optimizer: torch.optim.Optimizer,
    *,
    predict: Any = None,
    ema: Ema | None = None,
    on_compile_error: Any = None,
    **changes: Any,
) -> TrainingStep:
    family: Any = PlacesFamily()
    processes: Any = SimpleNamespace(device=torch.device("cpu"), rank=0, sum=lambda _: None)
    return TrainingStep(
        settings(**changes),
        family,
        predict or partial(family.predict, model),
        list(model.parameters()),
        optimizer,
        processes,
        None,
        ema=ema,
        on_compile_error=on_compile_error,
    )


def take(model: Places, *batches: MicroBatch) -> tuple[StepResult, Tensor]:
    """The step's result, and the gradient it made (SGD of rate 1)."""
    before = model.places.detach().clone()
    result = step_of(model, torch.optim.SGD(model.parameters(), lr=1.0))(StepBatch(7, 0, 3, batches))
    return result, before - model.places.detach()


def batch(number: int) -> StepBatch:
    return StepBatch(number, 0, 3, (micro(slice(0, 3), 1.0, torch.ones(3)),))


def poisoned(number: int) -> StepBatch:
    """A batch whose loss isn't finite."""
    whole = batch(number)
    return replace(whole, micro_batches=(replace(whole.micro_batches[0], latents=latents() * float("inf")),))


def squared_errors() -> Tensor:
    """(B, C, H, W), of the untrained model, from the step's formulas written out again."""
    noise = normal(5, Stream.NOISE, 7, IDS, SHAPE)
    return (Places().places.detach() - (noise - latents())) ** 2


def test_the_loss_is_the_mean_of_each_samples_loss_times_its_weight():
    weights = torch.tensor([1.0, 0.25, 3.0])
    result, gradient = take(Places(), micro(slice(0, 3), 1.0, weights))
    each = squared_errors().mean(dim=(1, 2, 3))
    assert result.loss.item() == pytest.approx((each * weights).mean().item())
    model = Places()
    target = normal(5, Stream.NOISE, 7, IDS, SHAPE) - latents()
    ((model.places - target).square().mean(dim=(1, 2, 3)) * weights).mean().backward()
    assert torch.allclose(gradient, model.places.grad, atol=1e-6)
    assert torch.allclose(result.sigma, flow.shift_sigma(uniform(5, Stream.SIGMA, 7, IDS), 3.0))
    assert torch.allclose(result.sample_loss, each)


def test_weights_and_masks_count_the_same_in_several_batches():
    weights = torch.tensor([1.0, 0.25, 3.0])
    mask = torch.linspace(0.1, 1, 36).view(3, 1, *SHAPE[1:])
    whole, one = take(Places(), micro(slice(0, 3), 1.0, weights, mask))
    parts, two = take(Places(), micro(slice(0, 2), 2 / 3, weights, mask), micro(slice(2, 3), 1 / 3, weights, mask))
    assert whole.loss.item() == pytest.approx(parts.loss.item())
    assert torch.allclose(one, two, atol=1e-6)


def test_a_masked_out_place_gives_no_gradient_to_what_only_it_could_influence():
    mask = torch.zeros(3, 1, *SHAPE[1:])
    mask[:, :, 0] = 1
    mask[1, :, 1] = 0.5
    result, gradient = take(Places(), micro(slice(0, 3), 1.0, torch.ones(3), mask))
    assert (gradient[:, :, 2] == 0).all()
    assert (gradient[:, :, :2] != 0).all()
    each = (squared_errors().mean(1, keepdim=True) * mask).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))
    assert result.loss.item() == pytest.approx(each.mean().item())


def test_a_batch_of_weight_0_counts_nothing():
    alone, one = take(Places(), micro(slice(0, 2), 1.0, torch.ones(3)))
    beside, two = take(Places(), micro(slice(0, 2), 1.0, torch.ones(3)), micro(slice(2, 3), 0.0, torch.ones(3)))
    assert alone.loss.item() == beside.loss.item()
    assert torch.equal(one, two)
    assert len(beside.sigma) == len(beside.sample_loss) == 2


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_a_step_that_is_not_finite_moves_nothing_and_neither_do_those_after_it(max_grad_norm: float) -> None:
    model = Places()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    ema = Ema(dict(model.named_parameters()), 0.9)
    step = step_of(model, optimizer, ema=ema, max_grad_norm=max_grad_norm)

    def state() -> list[Tensor]:
        kept = optimizer.state[model.places]
        tensors = [model.places, *ema.state_dict().values(), *(kept[name] for name in ("step", "exp_avg"))]
        return [tensor.detach().clone() for tensor in tensors]

    step(batch(0))
    before = state()
    result = step(poisoned(1))
    assert not torch.isfinite(result.loss + result.grad_norm)
    after = step(batch(2))
    assert torch.isfinite(after.loss + after.grad_norm)
    assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))


def test_a_step_that_overflows_in_fp16_is_left_out_and_the_next_one_counts_alone() -> None:
    with_it, without = Places(), Places()
    losses = []
    for model, batches in ((with_it, (batch(0), poisoned(1), batch(2))), (without, (batch(0), batch(2)))):
        step = step_of(model, torch.optim.SGD(model.parameters(), lr=1.0), mixed_precision="fp16", max_grad_norm=0.5)
        losses.append([step(each).loss.item() for each in batches][-1])
        scale = step.state()["scale"]
        assert scale == (2.0**15 if model is with_it else 2.0**16)
    assert losses[0] == losses[1]
    assert torch.equal(with_it.places, without.places)


@pytest.mark.parametrize("error", [InternalTorchDynamoError, FailOnRecompileLimitHit])
def test_where_the_compiler_fails_the_step_is_computed_in_the_other_way(error: type[Exception]) -> None:
    whole, expected = take(Places(), batch(7).micro_batches[0])
    model, told = Places(), []

    def fails(*_: Any) -> Tensor:
        raise error("too many shapes")

    def otherwise(raised: Exception) -> Any:
        told.append(raised)
        return partial(PlacesFamily().predict, model)

    step = step_of(model, torch.optim.SGD(model.parameters(), lr=1.0), predict=fails, on_compile_error=otherwise)
    assert step(batch(7)).loss == whole.loss
    assert torch.equal(Places().places - model.places, expected)
    step(batch(8))
    assert [type(each) for each in told] == [error]


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if is_installed(name)])
def test_every_optimizer_moves_as_in_a_plain_loop(name: str) -> None:
    """Gradients that stay in one buffer are to an optimizer what gradients made anew for each step are."""
    keys: Any = SimpleNamespace(optimizer=name, optimizer_config={}, learning_rate=0.01)
    ours, plain = (Places().to(parameter_dtype(name)) for _ in range(2))
    step = step_of(ours, build_optimizer(keys, list(ours.parameters())))
    optimizer = build_optimizer(keys, list(plain.parameters()))
    for number in range(4):
        step(batch(number))
        target = normal(5, Stream.NOISE, number, IDS, SHAPE) - latents()
        flow.flow_loss(plain.places.expand(3, -1, -1, -1), target, "l2", 0.1, None).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.equal(ours.places, Places().places.to(ours.places.dtype))
    assert torch.equal(ours.places, plain.places)
