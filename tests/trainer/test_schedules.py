"""Learning-rate schedules: their ends, and diffusers' and transformers' own where the definitions agree."""

import diffusers.optimization
import pytest
import torch
import transformers.optimization
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.trainer.schedules import SCHEDULERS, learning_rate

PEAK = 1e-4
DECAYING = ("linear", "cosine", "cosine_with_restarts", "polynomial")


def reference_rates(library, scheduler, total, warmup, **more):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    if scheduler == "polynomial":
        polynomial = library.get_polynomial_decay_schedule_with_warmup
        oracle = polynomial(optimizer, warmup, total, lr_end=more["end"], power=more["power"])
    elif scheduler == "cosine_with_restarts":
        restarts = library.get_cosine_with_hard_restarts_schedule_with_warmup
        oracle = restarts(optimizer, warmup, total, num_cycles=more["cycles"])
    else:
        oracle = library.get_scheduler(scheduler, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    rates = []
    for _ in range(total):
        rates.append(oracle.get_last_lr()[0])
        optimizer.step()
        oracle.step()
    return rates


@pytest.mark.parametrize("library", [diffusers.optimization, transformers.optimization], ids=lambda m: m.__name__)
@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize(
    ("scheduler", "more"),
    [
        ("constant_with_warmup", {}),
        ("linear", {}),
        ("cosine", {}),
        ("cosine_with_restarts", {"cycles": 3}),
        ("polynomial", {"power": 2.0, "end": 1e-6}),
        ("polynomial", {"power": 1.0, "end": 1e-7}),
    ],
)
def test_after_warm_up_it_is_the_libraries_schedule(library, scheduler, more, warmup):
    expected = reference_rates(library, scheduler, 50, warmup, **more)
    found = [learning_rate(s, 50, scheduler=scheduler, peak=PEAK, warmup_steps=warmup, **more) for s in range(50)]
    assert found[warmup:] == pytest.approx(expected[warmup:], rel=1e-9, abs=1e-18)


def test_warm_up_is_diffusers_a_step_ahead():
    """diffusers spends its first step at zero; with one step more of warm-up its others are ours."""
    expected = reference_rates(diffusers.optimization, "constant_with_warmup", 50, 8)
    found = [learning_rate(s, 50, scheduler="constant_with_warmup", peak=PEAK, warmup_steps=7) for s in range(49)]
    assert found == pytest.approx(expected[1:], rel=1e-12)


def test_constant_is_constant():
    assert {learning_rate(s, 10, scheduler="constant", peak=PEAK, warmup_steps=5) for s in range(10)} == {PEAK}


@settings(max_examples=50, deadline=None)
@given(
    scheduler=st.sampled_from(SCHEDULERS),
    total=st.integers(1, 300),
    warmup=st.integers(0, 400),
    end=st.floats(0, PEAK),
    power=st.floats(0.2, 4),
    cycles=st.integers(1, 5),
)
def test_rates_stay_in_range_and_the_first_step_learns(scheduler, total, warmup, end, power, cycles):
    options = {"scheduler": scheduler, "peak": PEAK, "end": end, "power": power, "cycles": cycles}
    rates = [learning_rate(s, total, warmup_steps=warmup, **options) for s in range(total)]
    assert all(0 < rate <= PEAK * (1 + 1e-12) for rate in rates)
    assert all(rate >= min(end, rates[0]) * (1 - 1e-12) for rate in rates)
    rising = rates[: min(warmup, total)] if scheduler != "constant" else []
    assert rising == sorted(rising)


@pytest.mark.parametrize("scheduler", DECAYING)
def test_the_end_is_reached_right_after_the_last_step(scheduler):
    def rate(step):
        return learning_rate(step, 100, scheduler=scheduler, peak=PEAK, warmup_steps=10, end=1e-6)

    assert rate(10) == PEAK
    assert rate(99) > 1e-6
    assert rate(100) == rate(500) == 1e-6


def test_restarts_begin_anew():
    rates = [learning_rate(s, 90, scheduler="cosine_with_restarts", peak=PEAK, cycles=3) for s in range(90)]
    assert rates[0] == rates[30] == rates[60] == PEAK
    assert rates[29] < 0.01 * PEAK


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="step_decay"):
        learning_rate(0, 10, scheduler="step_decay", peak=PEAK)
