"""Each metric against an independent computation: loops over pairs, scipy, or figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist, cosine

from simpletune.evaluate.metrics import intervals, mean_of, once_each
from simpletune.evaluate.metrics.cosine import likeness_to_centroid, prompt_adherence
from simpletune.evaluate.metrics.discrepancy import cmmd, kid
from simpletune.evaluate.metrics.diversity import pairwise_distance, vendi_score
from simpletune.evaluate.metrics.memorization import leave_one_out, nearest, threshold
from simpletune.evaluate.metrics.roundtrip import psnr

RANDOM = np.random.default_rng(7)
X, Y = RANDOM.normal(size=(7, 5)) + 1, RANDOM.normal(size=(9, 5))


def value(statistic) -> float:
    return float(statistic(once_each(len(X)))[0])


def by_loops(kernel, x, y) -> float:
    """Unbiased MMD^2 as three plain sums."""
    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(kernel(a, b) for a in x for b in y) / (n * m)
    return xx + yy - 2 * xy


def test_cmmd_is_the_unbiased_mmd_of_a_gaussian_kernel():
    def kernel(a, b) -> float:
        return math.exp(-(math.dist(a / math.hypot(*a), b / math.hypot(*b)) ** 2) / 200)

    assert value(cmmd(X, Y)) == pytest.approx(1000 * by_loops(kernel, X, Y), rel=1e-9)
    assert value(cmmd(3 * X, Y)) == pytest.approx(value(cmmd(X, Y)))


def test_kid_is_the_unbiased_mmd_of_a_cubic_kernel():
    assert value(kid(X, Y)) == pytest.approx(1000 * by_loops(lambda a, b: (sum(a * b) / 5 + 1) ** 3, X, Y), rel=1e-9)


def test_discrepancies_are_about_zero_for_two_halves_of_one_set():
    both = np.random.default_rng(1).normal(size=(400, 6))
    for metric in (cmmd, kid):
        drawn = intervals.bootstrap(metric(both[:200], both[200:]), intervals.draws(200, 200)).estimate
        assert drawn.low < 0.5 * drawn.high
        assert abs(drawn.value) < 0.2 * abs(float(metric(both[:200] + 1, both[200:])(once_each(200))[0])), (
            "less than a shift of one standard deviation"
        )


def test_cosines():
    expected = [1 - cosine(a, b) for a, b in zip(X, Y, strict=False)]
    assert prompt_adherence(X, Y[: len(X)]) == pytest.approx(expected)
    middle = sum(row / np.sqrt((row * row).sum()) for row in Y)
    assert likeness_to_centroid(X, Y) == pytest.approx([1 - cosine(row, middle) for row in X])
    # what the docstring says of all pairs
    pairs = 1 - cdist(X, Y, "cosine")
    length = np.linalg.norm(middle) / len(Y)
    assert pairs.mean(axis=1) == pytest.approx(likeness_to_centroid(X, Y) * length)


def test_pairwise_distance():
    distances = cdist(X, X, "cosine")
    assert value(pairwise_distance(X)) == pytest.approx(distances[np.triu_indices(7, 1)].mean())
    assert value(pairwise_distance(np.ones((7, 3)))) == pytest.approx(0, abs=1e-12)
    assert math.isnan(float(pairwise_distance(X[:1])(once_each(1))[0]))


def test_vendi_score():
    eigenvalues = np.linalg.eigvals((1 - cdist(X, X, "cosine")) / 7).real
    entropy = -sum(v * math.log(v) for v in eigenvalues if v > 1e-12)
    assert value(vendi_score(X)) == pytest.approx(math.exp(entropy))
    assert value(vendi_score(np.eye(7))) == pytest.approx(7)
    assert value(vendi_score(np.ones((7, 2)))) == pytest.approx(1)
    half = np.repeat(np.eye(2), [3, 4], axis=0)
    by_hand = math.exp(-(3 / 7 * math.log(3 / 7) + 4 / 7 * math.log(4 / 7)))
    assert value(vendi_score(half)) == pytest.approx(by_hand)
    assert float(vendi_score(np.eye(2))(np.array([[3.0, 4.0]]))[0]) == pytest.approx(by_hand), "counted as repeated"


def test_nearest_and_leave_one_out():
    distance, index = nearest(X, Y)
    every = cdist(X, Y, "cosine")
    assert index.tolist() == every.argmin(1).tolist()
    assert distance == pytest.approx(every.min(1))
    own = cdist(Y, Y, "cosine")
    assert leave_one_out(Y) == pytest.approx([min(own[i][j] for j in range(9) if j != i) for i in range(9)])


def test_the_threshold_is_a_low_quantile_of_the_sets_own_distances():
    angles = np.deg2rad([0, 1, 10, 30, 60, 100])
    training = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = threshold(training, np.array([0.5]))
    assert found.distance == pytest.approx(1 - math.cos(math.radians(1)))
    assert found.equal == 0
    with_equals = np.concatenate([training, training[:1]])
    found = threshold(with_equals[1:], np.array([0.5]))
    assert found.distance == pytest.approx(1 - math.cos(math.radians(1)))
    found = threshold(np.concatenate([training, training[-1:]]), np.array([0.5]))
    assert (found.equal, found.distance > 0) == (2, True), "equal training pictures don't make everything unlike"
    spread = np.random.default_rng(0).normal(size=(500, 8))
    own = leave_one_out(spread)
    assert (own < threshold(spread, own).distance).mean() == pytest.approx(0.01, abs=0.003)


def test_few_training_pictures_are_measured_by_the_base():
    found = threshold(Y[:1], np.array([0.5, 0.3]))
    assert found.distance == 0.15
    assert "base" in found.rule
    assert threshold(Y[:2], np.array([0.5, 0.3])).distance == 0.15


def test_psnr():
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 51, np.uint8)
    assert psnr(black, grey) == pytest.approx(20 * math.log10(5))
    assert psnr(grey, grey) == math.inf


def test_the_bootstraps_spread_is_the_standard_error_of_a_mean():
    values = np.random.default_rng(3).normal(size=200)
    found = intervals.bootstrap(mean_of(values), intervals.draws(200)).estimate
    error = values.std() / math.sqrt(200)
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert intervals.bootstrap(mean_of(values), intervals.draws(200)).estimate == found, "seeded"
    left = values[:90]
    assert intervals.jackknife(mean_of(left), 90).estimate.low == pytest.approx(
        left.mean() - 1.96 * left.std(ddof=1) / math.sqrt(90), rel=1e-3
    )
    grouped = intervals.jackknife(mean_of(values), 200).estimate
    assert (grouped.high - grouped.low) == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_a_difference_is_one_of_pairs():
    """What both have in common drops out: pairs that differ by 1 each differ by 1 without doubt."""
    base = np.random.default_rng(4).normal(size=20)
    tuned, control = (intervals.bootstrap(mean_of(one), intervals.draws(20)) for one in (base + 1, base))
    found = (tuned - control).estimate
    assert (found.low, found.high) == (pytest.approx(1), pytest.approx(1))


def test_one_picture_has_no_interval():
    found = intervals.bootstrap(mean_of(np.array([0.5])), intervals.draws(1)).estimate
    assert found == intervals.Estimate(0.5, None, None)


def test_the_interval_of_a_share():
    """Against the roots of (p - share)^2 = z^2 p (1 - p) / n."""
    found = intervals.wilson(2, 10)
    z2 = 1.959963984540054**2
    roots = np.roots([1 + z2 / 10, -(2 * 0.2 + z2 / 10), 0.04])
    assert (found.low, found.high) == (pytest.approx(min(roots)), pytest.approx(max(roots)))
    assert intervals.wilson(0, 10).low == 0.0
    assert intervals.wilson(0, 10).high > 0.2
