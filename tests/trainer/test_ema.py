"""The moving average of the weights."""

import pytest
import torch
from diffusers.training_utils import EMAModel
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.errors import TrainingFailed
from simpletune.trainer.ema import Ema


def weights(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return {n: torch.nn.Parameter(torch.randn(3, 4, generator=generator).to(dtype)) for n in ("a.lora_A", "a.lora_B")}


def move(parameters, step):
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.full_like(parameter, 0.1 * (step + 1)))


def follow(ema, step, halted=False):
    ema.update(torch.tensor(step), torch.tensor(float(halted)))


@settings(max_examples=30, deadline=None)
@given(decay=st.floats(0, 0.9999), interval=st.integers(1, 4), failing=st.integers(0, 12))
def test_it_is_diffusers_average_and_a_step_left_out_moves_nothing(decay, interval, failing):
    """Left out at an update: its number counts, as the step's does, but nothing moves."""
    parameters = weights()
    ema = Ema(parameters, decay, interval)
    reference = EMAModel(parameters.values(), decay=decay)
    for step in range(12):
        move(parameters, step)
        follow(ema, step, halted=step == failing)
        if (step + 1) % interval == 0:
            before = [average.clone() for average in reference.shadow_params]
            reference.step(parameters.values())
            if step == failing:
                reference.shadow_params = before
    for average, expected in zip(ema.state_dict().values(), reference.shadow_params, strict=True):
        assert (average - expected).abs().max() < 1e-5


def test_inside_applied_the_weights_are_the_average_and_then_what_they_were():
    parameters = weights(torch.bfloat16)
    ema = Ema(parameters, 0.5)
    for step in range(2):
        move(parameters, step)
        follow(ema, step)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    with ema.applied():
        for name, p in parameters.items():
            assert torch.equal(p, ema.state_dict()[name].to(torch.bfloat16))
            assert not torch.equal(p, before[name])
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())
    with pytest.raises(RuntimeError, match="sampling"), ema.applied():
        raise RuntimeError("sampling failed")
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())
    assert all(average.dtype == torch.float32 for average in ema.state_dict().values())


def test_a_resumed_average_goes_on_bit_for_bit():
    straight = weights()
    ema = Ema(straight, 0.999)
    for step in range(4):
        move(straight, step)
        follow(ema, step)
    resumed = {name: torch.nn.Parameter(p.detach().clone()) for name, p in straight.items()}
    saved = {name: average.clone() for name, average in ema.state_dict().items()}
    second = Ema(resumed, 0.999)
    second.load_state_dict(saved)
    for parameters, average in ((straight, ema), (resumed, second)):
        for step in range(4, 8):
            move(parameters, step)
            follow(average, step)
    assert all(torch.equal(ema.state_dict()[name], second.state_dict()[name]) for name in saved)


@pytest.mark.parametrize("saved", [{}, {"a.lora_A": torch.zeros(3, 4), "a.lora_B": torch.zeros(3, 5)}])
def test_averages_of_another_adapter_are_refused(saved):
    with pytest.raises(TrainingFailed, match="another rank"):
        Ema(weights(), 0.9).load_state_dict(saved)
