"""Counter-based randomness: a function of its coordinates, and statistically what it says."""

import itertools
import time
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simpletune.trainer.randomness import Stream, normal, seed_torch, uniform

IDS = torch.arange(8)
GOLDEN_UNIFORM = [0.877005398273468, 0.0430791974067688]
GOLDEN_NORMAL = [0.13647714257240295, -0.4969619810581207, 1.8234978914260864]
few = settings(max_examples=30, deadline=None)


def largest_gap(sample, cdf):
    """The Kolmogorov-Smirnov statistic times sqrt(n); above 1.95 one time in a thousand."""
    ordered = sample.flatten().double().sort().values
    n = len(ordered)
    expected = cdf(ordered)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return max((expected - steps[:-1]).max(), (steps[1:] - expected).max()).item() * n**0.5


def normal_cdf(x):
    return 0.5 * torch.erfc(-x / 2**0.5)


@pytest.mark.parametrize("draw", [uniform, normal])
class TestFunction:
    def test_a_batch_equals_its_samples_one_by_one(self, draw):
        batch = draw(7, Stream.NOISE, 3, IDS, (4, 5))
        for i, sample_id in enumerate(IDS):
            assert torch.equal(batch[i : i + 1], draw(7, Stream.NOISE, 3, sample_id[None], (4, 5)))

    @few
    @given(order=st.permutations(range(8)))
    def test_the_order_of_a_batch_does_not_matter(self, draw, order):
        assert torch.equal(
            draw(7, Stream.NOISE, 3, IDS[list(order)], (6,)), draw(7, Stream.NOISE, 3, IDS, (6,))[list(order)]
        )

    @few
    @given(seed=st.integers(0, 2**70), step=st.integers(0, 2**40), sample=st.integers(0, 2**62))
    def test_step_may_be_a_tensor(self, draw, seed, step, sample):
        ids = torch.tensor([sample])
        expected = draw(seed, Stream.SIGMA, step, ids, (3,))
        assert torch.equal(draw(seed, Stream.SIGMA, torch.tensor(step), ids, (3,)), expected)

    def test_every_coordinate_matters(self, draw):
        draws = {
            tuple(draw(seed, stream, step, torch.tensor([sample]), (4,)).flatten().tolist())
            for seed, stream, step, sample in itertools.product(
                (0, 1, 2), (Stream.NOISE, Stream.SIGMA), (0, 1, 2), (0, 1, 2)
            )
        }
        assert len(draws) == 54

    def test_a_larger_shape_begins_with_the_smaller_one(self, draw):
        assert torch.equal(draw(0, Stream.NOISE, 0, IDS, (10,))[:, :4], draw(0, Stream.NOISE, 0, IDS, (4,)))

    def test_global_generators_are_left_alone(self, draw):
        before = torch.get_rng_state()
        draw(0, Stream.NOISE, 0, IDS, (3,))
        assert torch.equal(torch.get_rng_state(), before)

    def test_neighbours_are_uncorrelated(self, draw):
        """Rows: steps; columns: samples, elements. 4 standard errors of a correlation of n pairs are 4 / sqrt(n)."""
        numbers = torch.stack([draw(5, Stream.NOISE, step, torch.arange(40), (64,)) for step in range(40)]).double()
        numbers = (numbers - numbers.mean()) / numbers.std()
        other = torch.stack([draw(5, Stream.SIGMA, step, torch.arange(40), (64,)) for step in range(40)]).double()
        other = (other - other.mean()) / other.std()
        pairs = [
            (numbers[1:], numbers[:-1]),
            (numbers[:, 1:], numbers[:, :-1]),
            (numbers[..., 1:], numbers[..., :-1]),
            (numbers[..., 2:], numbers[..., :-2]),
            (numbers[..., 1:].square() - 1, numbers[..., :-1].square() - 1),
            (numbers, other),
        ]
        for a, b in pairs:
            correlation = (a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()
            assert abs(correlation.item()) < 4 / a.numel() ** 0.5


def test_normals_are_normal():
    numbers = normal(1, Stream.NOISE, 0, torch.arange(16), (16384,))
    n = numbers.numel()
    moments = [numbers.double().pow(k).mean().item() for k in (1, 2, 3, 4)]
    errors = [(1 / n) ** 0.5, (2 / n) ** 0.5, (15 / n) ** 0.5, (96 / n) ** 0.5]
    assert all(abs(m - e) < 4 * s for m, e, s in zip(moments, (0, 1, 0, 3), errors, strict=True))
    assert largest_gap(numbers, normal_cdf) < 1.95
    beyond = (numbers.abs() > 3).double().mean().item()
    assert beyond == pytest.approx(2 * NormalDist().cdf(-3), rel=0.15)
    assert numbers.dtype == torch.float32
    assert numbers.isfinite().all()


def test_means_of_samples_spread_as_they_should():
    """A weak hash shows here: 2,000 means over samples and steps, each of 1,024 numbers."""
    means = torch.cat([normal(9, Stream.NOISE, s, torch.arange(100), (1024,)).mean(1) * 32 for s in range(20)])
    assert largest_gap(means, normal_cdf) < 1.95


def test_first_numbers_of_each_step_and_sample_are_uniform():
    """sigma takes one number a sample: consecutive steps and ids must fill the interval evenly."""
    by_step = torch.cat([uniform(42, Stream.SIGMA, s, torch.tensor([0])) for s in range(4000)])
    by_sample = uniform(42, Stream.SIGMA, 0, torch.arange(100_000))
    by_seed = torch.cat([uniform(s, Stream.SIGMA, 0, torch.tensor([0])) for s in range(4000)])
    for numbers in (by_step, by_sample, by_seed):
        assert largest_gap(numbers, lambda x: x) < 1.95


def test_uniforms_stay_inside_the_open_interval():
    numbers = uniform(3, Stream.SIGMA, 0, torch.arange(64), (65536,))
    assert numbers.min() > 0
    assert numbers.max() < 1
    assert numbers.double().mean().item() == pytest.approx(0.5, abs=4 * (1 / 12 / numbers.numel()) ** 0.5)


def test_noise_does_not_repeat():
    rows = torch.cat([normal(0, Stream.NOISE, step, torch.arange(50), (4,)) for step in range(200)])
    assert len(torch.unique(rows, dim=0)) == len(rows)


def test_golden_numbers():
    """Stored runs depend on these; a change of the hash would silently change every resumed run."""
    assert uniform(42, Stream.SIGMA, 0, torch.tensor([0, 1])).tolist() == GOLDEN_UNIFORM
    assert normal(42, Stream.NOISE, 7, torch.tensor([5]), (3,)).flatten().tolist() == pytest.approx(
        GOLDEN_NORMAL, abs=1e-6
    )


def test_shapes():
    assert uniform(0, Stream.SIGMA, 0, IDS).shape == (8,)
    assert normal(0, Stream.NOISE, 0, IDS, (2, 3, 4)).shape == (8, 2, 3, 4)


def test_a_latent_of_1024_pixels_takes_under_30_ms():
    normal(0, Stream.NOISE, 0, IDS[:1], (16, 128, 128))
    seconds = []
    for step in range(7):
        start = time.perf_counter()
        normal(0, Stream.NOISE, step, IDS[:1], (16, 128, 128))
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.030


def test_seed_torch_depends_on_seed_step_and_rank():
    before = torch.get_rng_state()
    draws = []
    for coordinates in ((1, 2, 0), (1, 2, 1), (1, 3, 0), (2, 2, 0), (1, 2, 0)):
        seed_torch(*coordinates)
        draws.append(torch.rand(4).tolist())
    torch.set_rng_state(before)
    assert draws[0] == draws[4]
    assert len({tuple(d) for d in draws}) == 4
