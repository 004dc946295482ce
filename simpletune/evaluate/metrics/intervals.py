"""95% intervals by resampling pictures: how much a value would move with other seeds of the same prompts.

A variant's pictures and the base's are drawn together, as they have prompts and seeds in common, so the interval of a
difference is that of pairs. The training set isn't resampled: it is what it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from simpletune.evaluate.metrics import Array, Statistic, once_each

LEVEL = 0.95
RESAMPLES = 2000
SEED = 20261123
_NORMAL = 1.959963984540054  # the 97.5% quantile


@dataclass(frozen=True)
class Estimate:
    """A value and its interval; the bounds are None where nothing can be resampled (fewer than two pictures)."""

    value: float
    low: float | None
    high: float | None


def draws(count: int, resamples: int = RESAMPLES, seed: int = SEED) -> Array:
    """(R, N): how often each of N pictures is drawn when N are drawn with replacement; the same for the same N."""
    generator = np.random.default_rng([seed, count])
    counts_RN: Array = generator.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    return counts_RN


def percentile(statistic: Statistic, counts_RN: Array) -> Estimate:
    """The percentile bootstrap: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3."""
    value = float(statistic(once_each(counts_RN.shape[1]))[0])
    if counts_RN.shape[1] < 2:
        return Estimate(value, None, None)
    drawn = statistic(counts_RN)
    drawn = drawn[np.isfinite(drawn)]  # a draw of one picture alone has no pairs
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def jackknife(statistic: Statistic, count: int) -> Estimate:
    """value +- 1.96 standard errors of the jackknife: Efron & Tibshirani 1993, eq. 11.5.

    For the Vendi score: of a resample it counts those drawn twice once, and would come out too low.
    """
    value = float(statistic(once_each(count))[0])
    if count < 3:
        return Estimate(value, None, None)
    left_out_N = statistic(np.ones((count, count)) - np.eye(count))
    spread = float(((left_out_N - left_out_N.mean()) ** 2).sum())
    error = math.sqrt((count - 1) / count * spread)
    return Estimate(value, value - _NORMAL * error, value + _NORMAL * error)


def minus(statistic: Statistic, other: Statistic) -> Statistic:
    """The difference of two statistics of paired pictures."""
    return lambda counts_RN: statistic(counts_RN) - other(counts_RN)


def wilson(successes: int, count: int) -> Estimate:
    """The interval of a share: Wilson 1927, JASA 22, as Brown, Cai & DasGupta 2001 advise. It isn't empty at 0."""
    share, z2 = successes / count, _NORMAL**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _NORMAL / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))
