"""The flow's equations against closed forms written here without the code under test."""

import itertools
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.trainer import flow

QUANTILES = (0.001, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999)
few = settings(max_examples=40, deadline=None)


@dataclass
class FlowSettings:
    """The keys of Settings that the flow reads."""

    timestep_sampling: str = "logit_normal"
    timestep_mean: float = 0.0
    timestep_scale: float = 1.0
    timestep_mode_scale: float = 1.29
    timestep_beta_alpha: float = 2.0
    timestep_beta_beta: float = 2.0
    timestep_logsnr_mean: float = -6.0
    timestep_logsnr_scale: float = 2.0
    flow_schedule_shift: float = 3.0
    flow_schedule_auto_shift: bool = False


def sigmas(uniform, shift=1.0, **keys):
    sampler = flow.sigma_sampler(FlowSettings(**keys))
    return sampler(torch.tensor(uniform, dtype=torch.float32), shift).double().tolist()


def logistic(x):
    return 1 / (1 + math.exp(-x))


@few
@given(mean=st.floats(-2, 2), scale=st.floats(0.1, 2))
def test_logit_normal_has_its_quantiles(mean, scale):
    expected = [logistic(NormalDist(mean, scale).inv_cdf(q)) for q in QUANTILES]
    assert sigmas(QUANTILES, timestep_mean=mean, timestep_scale=scale) == pytest.approx(expected, abs=2e-5)


def test_a_positive_mean_is_more_noise():
    low, middle, high = (sigmas([0.5], timestep_mean=mean)[0] for mean in (-1.0, 0.0, 1.0))
    assert low < middle < high
    assert high == pytest.approx(logistic(1.0), abs=1e-6)


def test_mean_1_with_shift_3_is_the_median_sd_scripts_reports():
    assert sigmas([0.5], shift=3.0, timestep_mean=1.0)[0] == pytest.approx(0.890, abs=1e-3)


@few
@given(scale=st.floats(-1, 2 / (math.pi - 2)))
def test_mode_is_equation_20_and_rises(scale):
    def paper(u):
        return 1 - u - scale * (math.cos(math.pi / 2 * u) ** 2 - 1 + u)

    expected = [min(max(paper(1 - q), 1e-5), 1 - 1e-5) for q in QUANTILES]
    assert sigmas(QUANTILES, timestep_sampling="mode", timestep_mode_scale=scale) == pytest.approx(expected, abs=2e-6)
    grid = sigmas(np.linspace(0.001, 0.999, 200).tolist(), timestep_sampling="mode", timestep_mode_scale=scale)
    assert all(a <= b + 1e-6 for a, b in itertools.pairwise(grid))


def test_uniform_is_the_number_itself():
    assert sigmas(QUANTILES, timestep_sampling="uniform") == pytest.approx(list(QUANTILES), abs=1e-7)


@pytest.mark.parametrize(
    ("alpha", "beta", "inverse"),
    [
        (1.0, 1.0, lambda u: u),
        (2.0, 1.0, lambda u: u**0.5),
        (1.0, 3.0, lambda u: 1 - (1 - u) ** (1 / 3)),
        (0.2, 1.0, lambda u: u**5),
        (50.0, 1.0, lambda u: u**0.02),
        (0.5, 0.5, lambda u: math.sin(math.pi * u / 2) ** 2),  # the arcsine distribution
        (2.0, 2.0, lambda u: 0.5 - math.sin(math.asin(1 - 2 * u) / 3)),  # the root of 3x^2 - 2x^3 = u
    ],
)
def test_beta_has_its_closed_quantiles_to_a_millionth(alpha, beta, inverse):
    uniform = torch.linspace(1e-4, 1 - 1e-4, 4001)
    found = flow.BetaQuantile(alpha, beta)(uniform).double()
    expected = torch.tensor([inverse(u) for u in uniform.double().tolist()], dtype=torch.float64)
    assert (found - expected).abs().max() < 1e-6


def test_beta_has_its_mean_and_variance():
    uniform = (torch.arange(200_000) + 0.5) / 200_000
    for alpha, beta in ((0.6, 2.5), (7.0, 3.0), (120.0, 80.0)):
        found = flow.BetaQuantile(alpha, beta)(uniform).double()
        assert found.mean().item() == pytest.approx(alpha / (alpha + beta), abs=2e-5)
        variance = alpha * beta / ((alpha + beta) ** 2 * (alpha + beta + 1))
        assert found.var().item() == pytest.approx(variance, rel=1e-3)


def test_style_friendly_has_the_papers_median_and_takes_no_shift():
    plain = sigmas(QUANTILES, timestep_sampling="style_friendly")
    assert plain[QUANTILES.index(0.5)] == pytest.approx(0.953, abs=5e-4)
    assert plain == sigmas(QUANTILES, shift=3.0, timestep_sampling="style_friendly")
    log_snr = [2 * math.log((1 - s) / s) for s in plain]
    assert log_snr == pytest.approx([NormalDist(-6, 2).inv_cdf(1 - q) for q in QUANTILES], abs=2e-3)


@few
@given(
    kind=st.sampled_from(["logit_normal", "uniform", "mode", "beta", "style_friendly"]),
    shift=st.floats(0.01, 100),
    mean=st.floats(-50, 50),
)
def test_sigma_stays_inside_0_and_1(kind, shift, mean):
    edges = [2.0**-24, 1e-6, 0.5, 1 - 2.0**-24]
    found = sigmas(edges, shift=shift, timestep_sampling=kind, timestep_mean=mean, timestep_logsnr_mean=mean)
    assert all(0 < s < 1 for s in found)


def test_an_unknown_distribution_or_loss_is_named():
    with pytest.raises(ValueError, match="gaussian"):
        flow.sigma_sampler(FlowSettings(timestep_sampling="gaussian"))
    with pytest.raises(ValueError, match="l3"):
        flow.flow_loss(torch.zeros(1, 1), torch.zeros(1, 1), "l3", 0.1)


@few
@given(sigma=st.floats(0.001, 0.999), first=st.floats(0.1, 10), second=st.floats(0.1, 10))
def test_shifts_compose_and_keep_the_ends(sigma, first, second):
    sigma_B = torch.tensor([sigma], dtype=torch.float64)
    twice = flow.shift_sigma(flow.shift_sigma(sigma_B, first), second)
    assert twice.item() == pytest.approx(flow.shift_sigma(sigma_B, first * second).item(), rel=1e-9)
    odds = sigma / (1 - sigma)
    shifted = flow.shift_sigma(sigma_B, first).item()
    assert shifted / (1 - shifted) == pytest.approx(first * odds, rel=1e-6)


def test_auto_shift_follows_the_token_count():
    assert flow.auto_shift(4096) == 3.0
    assert flow.auto_shift(1024) == 1.5  # 512 x 512
    assert flow.shift_for(FlowSettings(flow_schedule_auto_shift=True), 1024) == 1.5
    assert flow.shift_for(FlowSettings(flow_schedule_shift=2.5), 1024) == 2.5


def test_interpolation_and_velocity_are_the_papers_in_float32():
    generator = np.random.default_rng(0)
    clean, noise = generator.normal(size=(2, 3, 4, 2, 2)).astype(np.float32)
    sigma = np.array([0.1, 0.5, 0.9], np.float32)
    noisy = flow.interpolate(*(torch.from_numpy(a) for a in (clean, noise, sigma)))
    expected = (1 - sigma[:, None, None, None]) * clean + sigma[:, None, None, None] * noise
    assert np.allclose(noisy.numpy(), expected, atol=1e-7)
    target = flow.velocity(torch.from_numpy(clean).bfloat16(), torch.from_numpy(noise))
    assert target.dtype == torch.float32
    # Following the velocity from any sigma leads to the noise at 1 and to the picture at 0.
    v = flow.velocity(torch.from_numpy(clean), torch.from_numpy(noise)).numpy()
    assert np.allclose(noisy.numpy() - sigma[:, None, None, None] * v, clean, atol=1e-6)


@few
@given(error=st.floats(-20, 20), c=st.floats(0.01, 5), kind=st.sampled_from(["l2", "huber", "smooth_l1"]))
def test_losses_are_their_formulas_per_sample(error, c, kind):
    prediction = torch.zeros(2, 1, 2, 2, dtype=torch.bfloat16)
    target = torch.full((2, 1, 2, 2), error)
    target[1] = 0
    excess = math.sqrt(error**2 + c**2) - c
    expected = {"l2": error**2, "huber": 2 * c * excess, "smooth_l1": 2 * excess}[kind]
    loss_B = flow.flow_loss(prediction, target, kind, c)
    assert loss_B.shape == (2,)
    assert loss_B.dtype == torch.float32
    assert loss_B.tolist() == pytest.approx([expected, 0], rel=1e-3, abs=1e-6)


def test_a_mask_makes_each_pictures_loss_the_mean_over_what_is_seen_of_it():
    prediction, target = torch.tensor([[[[1.0, 2.0]], [[3.0, 5.0]]]] * 3), torch.zeros(3, 2, 1, 2)
    mask = torch.tensor([[[[1.0, 0.0]]], [[[0.25, 0.75]]], [[[0.01, 0.0]]]])
    left, right = (1 + 9) / 2, (4 + 25) / 2
    loss = flow.flow_loss(prediction, target, "l2", 0.1, mask).tolist()
    assert loss == pytest.approx([left, 0.25 * left + 0.75 * right, left])
    everywhere = flow.flow_loss(prediction, target, "l2", 0.1, torch.ones(3, 1, 1, 2))
    assert everywhere.tolist() == pytest.approx(flow.flow_loss(prediction, target, "l2", 0.1).tolist())


@pytest.mark.parametrize("loss_type", ["l2", "huber", "smooth_l1"])
def test_what_is_masked_out_gives_no_gradient(loss_type):
    prediction = torch.linspace(-1, 1, 2 * 3 * 4 * 4).view(2, 3, 4, 4).requires_grad_()
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, :, :2] = 1
    mask[1, :, 1] = 0.3
    flow.flow_loss(prediction, torch.full((2, 3, 4, 4), 2.0), loss_type, 0.1, mask).mean().backward()
    seen = mask.expand(2, 3, 4, 4) > 0
    assert (prediction.grad[~seen] == 0).all()
    assert (prediction.grad[seen] != 0).all()
