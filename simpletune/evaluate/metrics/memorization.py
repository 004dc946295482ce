"""Copies of training pictures: is a picture nearer to one of them than they are to each other?

The distance is 1 - cos of two pictures' features. Its yardstick is the set's own: from each training picture to the
nearest other one. As van den Burg & Williams 2021, arXiv 2106.03216, and Somepalli et al. 2023, arXiv 2212.03860, look
at nearest neighbours; that a quantile of the set's own distances decides is this program's rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simpletune.evaluate.metrics import Array, unit

QUANTILE = 0.01
FEWEST = 5
"""With fewer training pictures their distances to each other say nothing: the base's pictures are the yardstick."""
ROUNDING = 1e-6
"""Distances up to this are those of equal pictures."""


def nearest(pictures_ND: Array, training_MD: Array) -> tuple[Array, Array]:
    """(distance (N,), index (N,)) of each picture's nearest training picture."""
    distance_NM = 1.0 - unit(pictures_ND) @ unit(training_MD).T
    index_N = distance_NM.argmin(axis=1)
    return np.maximum(distance_NM[np.arange(len(index_N)), index_N], 0.0), index_N


def leave_one_out(training_MD: Array) -> Array:
    """(M,): each training picture's distance to the nearest other one. M is at least 2."""
    x_MD = unit(training_MD)
    distance_MM = 1.0 - x_MD @ x_MD.T
    np.fill_diagonal(distance_MM, np.inf)
    return np.maximum(distance_MM.min(axis=1), 0.0)


@dataclass(frozen=True)
class Threshold:
    """A picture nearer than `distance` is flagged; `rule` says where that comes from; `equal` training pictures have
    an equal one, and have no part in it; `chance` is the share of new pictures of the set's kind that are flagged."""

    distance: float
    rule: str
    equal: int
    chance: float


def threshold(training_MD: Array, base_distances_N: Array) -> Threshold:
    """The distance below which a picture counts as a copy.

    The 1% quantile of `leave_one_out` (the smallest of them for fewer than 100), of training pictures that haven't an
    equal among them. With fewer than FEWEST of these: half of the smallest distance that the base's pictures have,
    which the base can't have copied.

    A new picture of the set's kind is as likely as any of the M to be the one nearest to another, so that the smallest
    of their distances is undercut by about 1 in M + 1: `chance` is that, or the quantile where it is more.
    """
    own_M = leave_one_out(training_MD) if len(training_MD) > 1 else np.empty(0)
    apart = own_M[own_M > ROUNDING]
    equal = len(own_M) - len(apart)
    if len(apart) >= FEWEST:
        # "lower": a distance that occurs, the smallest one of fewer than 100.
        distance = float(np.quantile(apart, QUANTILE, method="lower"))
        rule = f"the {QUANTILE:.0%} quantile of the training pictures' own nearest distances"
        return Threshold(distance, rule, equal, max(QUANTILE, 1 / (len(apart) + 1)))
    smallest = float(base_distances_N.min()) if len(base_distances_N) else 0.0
    return Threshold(smallest / 2, "half of the nearest that a picture of the base comes", equal, QUANTILE)
