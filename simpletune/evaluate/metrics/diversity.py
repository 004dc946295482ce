"""How different a variant's pictures are from each other."""

from __future__ import annotations

import numpy as np

from simpletune.evaluate.metrics import Array, Statistic, mean_of_pairs, unit


def pairwise_distance(pictures_ND: Array) -> Statistic:
    """The mean of 1 - cos over all pairs of pictures: 0 when all are one, 1 when they have nothing in common.

    As in Ruiz et al. 2023, "DreamBooth", arXiv 2208.12242, section 4.3, where the distance is LPIPS.
    """
    x_ND = unit(pictures_ND)
    return mean_of_pairs(1.0 - x_ND @ x_ND.T)


def vendi_score(pictures_ND: Array) -> Statistic:
    """The number of different pictures that N amount to, from 1 to N: exp(-sum l log l), with l the eigenvalues of
    K / N and K the cosines.

    Friedman & Dieng 2022, "The Vendi Score", arXiv 2210.02410, definition 3.1; with counts it is their probability-
    weighted form, of the eigenvalues of diag(sqrt p) K diag(sqrt p).
    """
    x_ND = unit(pictures_ND)

    def statistic(counts_RN: Array) -> Array:
        return np.array([_effective_number(x_ND * np.sqrt(p_N)[:, None]) for p_N in _shares(counts_RN)])

    return statistic


def _shares(counts_RN: Array) -> Array:
    shares_RN: Array = counts_RN / counts_RN.sum(axis=1, keepdims=True)
    return shares_RN


def _effective_number(weighted_ND: Array) -> float:
    """exp of the entropy; X X' and X' X have the same eigenvalues but zeros, so the smaller of them is taken."""
    gram = weighted_ND @ weighted_ND.T if len(weighted_ND) <= weighted_ND.shape[1] else weighted_ND.T @ weighted_ND
    eigenvalues = np.linalg.eigvalsh(gram)
    positive = eigenvalues[eigenvalues > 1e-12]
    return float(np.exp(-(positive * np.log(positive)).sum()))
