"""How far two sets of pictures are apart: the squared maximum mean discrepancy, unbiased. CMMD and KID.

MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y), with x != x' and y != y': Gretton et al. 2012, "A Kernel Two-Sample
Test", JMLR 13, eq. 3. Without bias it may come out a little below zero for sets that are alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simpletune.evaluate.metrics import Array, Statistic, mean_of, mean_of_pairs, once_each, unit

CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0
KID_SCALE = 1000.0


def cmmd(pictures_ND: Array, training_MD: Array) -> Statistic:
    """CMMD: 1000 MMD^2 with the kernel exp(-|x - y|^2 / (2 sigma^2)), sigma = 10, on CLIP embeddings of length 1.

    Jayasumana et al. 2024, "Rethinking FID", arXiv 2401.09603, section 4. Their code counts each picture's pair with
    itself too, which adds about 1000 (1 - mean kernel) / N: with few pictures that is most of what is read off.
    """
    return _mmd(_rbf, unit(pictures_ND), unit(training_MD), CMMD_SCALE)


def kid(pictures_ND: Array, training_MD: Array) -> Statistic:
    """KID: MMD^2 with the kernel (x . y / D + 1)^3 on the features as they are, times 1000.

    Binkowski et al. 2018, "Demystifying MMD GANs", arXiv 1801.01401, section 4; of all pictures at once, not of
    subsets.
    """
    return _mmd(_cubic, np.asarray(pictures_ND, np.float64), np.asarray(training_MD, np.float64), KID_SCALE)


def _mmd(kernel: Callable[[Array, Array], Array], x_ND: Array, y_MD: Array, scale: float) -> Statistic:
    among_x = mean_of_pairs(kernel(x_ND, x_ND))
    among_y = float(mean_of_pairs(kernel(y_MD, y_MD))(once_each(len(y_MD)))[0])
    between = mean_of(kernel(x_ND, y_MD).mean(axis=1))
    return lambda counts_RN: scale * (among_x(counts_RN) + among_y - 2 * between(counts_RN))


def _rbf(x_ND: Array, y_MD: Array) -> Array:
    squared_NM = (x_ND**2).sum(1)[:, None] + (y_MD**2).sum(1)[None] - 2 * x_ND @ y_MD.T
    result: Array = np.exp(-np.maximum(squared_NM, 0.0) / (2 * CMMD_SIGMA**2))
    return result


def _cubic(x_ND: Array, y_MD: Array) -> Array:
    result: Array = (x_ND @ y_MD.T / x_ND.shape[1] + 1) ** 3
    return result
