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
GROUPS = 100
METHOD = (
    "percentile bootstrap over pictures (prompt x size x seed), those of a variant paired with the base's; "
    "Vendi score: jackknife; shares: Wilson"
)
_NORMAL = 1.959963984540054  # the 97.5% quantile


@dataclass(frozen=True)
class Estimate:
    """A value and its interval; the bounds are None with fewer than three pictures."""

    value: float
    low: float | None
    high: float | None


def draws(count: int, resamples: int = RESAMPLES, seed: int = SEED) -> Array:
    """(R, N): how often each of N pictures is drawn when N are drawn with replacement; the same for the same N."""
    generator = np.random.default_rng([seed, count])
    counts_RN: Array = generator.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    return counts_RN


@dataclass(frozen=True)
class Resampled:
    """A statistic's value and what resampling made of it; the difference of two is that of their pairs."""

    value: float
    drawn: Array
    by_jackknife: bool = False

    def __sub__(self, other: Resampled) -> Resampled:
        return Resampled(self.value - other.value, self.drawn - other.drawn, self.by_jackknife)

    @property
    def estimate(self) -> Estimate:
        drawn = self.drawn[np.isfinite(self.drawn)]  # a draw of one picture alone has no pairs
        if len(drawn) < 2:
            return Estimate(self.value, None, None)
        if self.by_jackknife:
            count = len(drawn)
            error = math.sqrt((count - 1) / count * float(((drawn - drawn.mean()) ** 2).sum()))
            return Estimate(self.value, self.value - _NORMAL * error, self.value + _NORMAL * error)
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(self.value, float(low), float(high))


def bootstrap(statistic: Statistic, counts_RN: Array) -> Resampled:
    """For the percentile bootstrap: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3."""
    count = counts_RN.shape[1]
    value = float(statistic(once_each(count))[0])
    return Resampled(value, statistic(counts_RN) if count > 2 else np.empty(0))  # of two there are three draws


def jackknife(statistic: Statistic, count: int) -> Resampled:
    """For value +- 1.96 standard errors of the jackknife: Efron & Tibshirani 1993, eq. 11.5; of GROUPS groups of
    pictures where there are more pictures than that.

    For the Vendi score: of a resample it counts those drawn twice once, and would come out too low.
    """
    value = float(statistic(once_each(count))[0])
    if count < 3:
        return Resampled(value, np.empty(0), by_jackknife=True)
    groups = min(count, GROUPS)
    group_N: Array = np.arange(count) % groups
    kept_GN = (group_N[None] != np.arange(groups)[:, None]).astype(np.float64)
    return Resampled(value, statistic(kept_GN), by_jackknife=True)


def wilson(successes: int, count: int) -> Estimate:
    """The interval of a share: Wilson 1927, JASA 22, as Brown, Cai & DasGupta 2001 advise. It isn't empty at 0."""
    share, z2 = successes / count, _NORMAL**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _NORMAL / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))
