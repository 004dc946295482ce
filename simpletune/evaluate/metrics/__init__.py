"""The metrics: pure functions of features, one paper a module. numpy alone, in float64.

Shapes: N pictures of a variant, M training pictures, D features, R resamples.

A `Statistic` is a metric of N pictures as a function of how often each is counted: (R, N) -> (R,). Counted once each,
it gives the metric's value; counted as often as drawn, the resamples of a bootstrap. Statistics of pairs leave out all
pairs of a picture with itself, so that drawing one twice isn't taken for two that are alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Statistic = Callable[[Array], Array]


def unit(features_ND: Array) -> Array:
    """Each row at length 1, float64; a row of zeros stays."""
    features_ND = np.asarray(features_ND, dtype=np.float64)
    length_N1 = np.linalg.norm(features_ND, axis=1, keepdims=True)
    return features_ND / np.where(length_N1 > 0, length_N1, 1.0)


def mean_of(values_N: Array) -> Statistic:
    """The mean of a number a picture has."""
    values_N = np.asarray(values_N, dtype=np.float64)
    return lambda counts_RN: counts_RN @ values_N / counts_RN.sum(axis=1)


def mean_of_pairs(kernel_NN: Array) -> Statistic:
    """The mean of a symmetric kernel over ordered pairs of different pictures; NaN where there are none."""
    between_NN = np.array(kernel_NN, dtype=np.float64)
    np.fill_diagonal(between_NN, 0.0)

    def statistic(counts_RN: Array) -> Array:
        total_R = ((counts_RN @ between_NN) * counts_RN).sum(axis=1)
        pairs_R = counts_RN.sum(axis=1) ** 2 - (counts_RN**2).sum(axis=1)
        return np.divide(total_R, pairs_R, out=np.full_like(total_R, np.nan), where=pairs_R > 0)

    return statistic


def once_each(count: int) -> Array:
    """The counts (1, N) that give a statistic's value."""
    return np.ones((1, count))
