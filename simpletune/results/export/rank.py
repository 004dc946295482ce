"""Lower ranks: the best approximation of each layer's product, and how far it is off.

By Eckart and Young no matrix of rank n is nearer to B A, in the Frobenius norm, than its n largest singular triplets.
B A is never formed: with B = Qb Rb and A^T = Qa Ra, its singular values are those of the small Rb Ra^T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from simpletune.models.lora_file import Factors


@dataclass(frozen=True)
class Reduced:
    """A layer's new factors; `error` is |B A - new| / |B A| (Frobenius), `norm` is |B A|."""

    factors: Factors
    error: float
    norm: float


def reduce(factor: Factors, rank: int | None, max_error: float | None = None) -> Reduced:
    """A layer at `rank` at most, and at the lowest rank that is off by `max_error` at most; None sets no limit.

    Its rank is never raised. Singular values are shared evenly between A and B, so that half precision suits both.
    """
    q_b, r_b = torch.linalg.qr(factor.b.double())
    q_a, r_a = torch.linalg.qr(factor.a.double().T)
    u, s, v = torch.linalg.svd(r_b @ r_a.T)
    norm = float(s.norm())
    keep = min(len(s), rank or len(s))
    if max_error is not None:
        # lost[n]: how far off it is at rank n; rank 0 is no LoRA, so 1 is the least.
        lost = [float(s[n:].norm()) for n in range(len(s) + 1)]
        keep = min(keep, max(1, next(n for n, error in enumerate(lost) if error <= max_error * norm)))
    if keep >= len(factor.a):
        return Reduced(factor, 0.0, norm)
    root = s[:keep].sqrt()
    a = root[:, None] * (v[:keep] @ q_a.T)
    b = (q_b @ u[:, :keep]) * root
    dropped = float(s[keep:].norm())
    return Reduced(Factors(a.float(), b.float()), dropped / norm if norm else 0.0, norm)


def error_in_all(layers: Mapping[str, Reduced]) -> float:
    """|all - new| / |all| over all layers together."""
    lost = math.fsum((layer.error * layer.norm) ** 2 for layer in layers.values())
    whole = math.fsum(layer.norm**2 for layer in layers.values())
    return math.sqrt(lost / whole) if whole else 0.0
