"""What a LoRA's two matrices start from. W is a base weight (O, I), A (r, I) and B (O, r); the delta is s B A.

Every random number comes from the run's seed and the layer's name, so that a layer starts the same whatever else is
trained, on whichever device.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from simpletune.config.lycoris import LayerKind

FROM_BASE_WEIGHT = ("pissa", "olora")
"""Inits that start from a part of W itself: s B A is not zero at first, so that part is subtracted (adapters.py)."""

_POWER_ITERATIONS, _OVERSAMPLING = 8, 16


def starting_matrices(
    init: str, name: str, weight: Tensor, rank: int, scaling: float, seed: int
) -> tuple[Tensor, Tensor]:
    """A (r, I) and B (O, r) in fp32 on the weight's device for the layer `name`.

    `weight` gives shape and device, and to pissa and olora its values; `scaling` is s.
    """
    generator = _generator(f"{seed}/lora/{name}")
    out_features, in_features = weight.shape
    if init == "pissa":
        return _pissa(weight.float(), rank, scaling, generator)
    if init == "olora":
        return _olora(weight.float(), rank)
    if init == "gaussian":
        a_RI = torch.randn(rank, in_features, generator=generator) / rank
    else:
        a_RI = _uniform((rank, in_features), generator)
    return a_RI.to(weight.device), torch.zeros(out_features, rank, device=weight.device)


def starting_lycoris(kind: LayerKind, name: str, shape: tuple[int, int], seed: int) -> dict[str, Tensor]:
    """The matrices of a LoHa or LoKr for the layer `name` of (O, I) = `shape`, fp32 on the CPU, as LyCORIS begins them.

    One is zero, so that nothing is added at first: W2a of a LoHa; W2 of a LoKr, or the second of the two it is made of.
    """
    generator = _generator(f"{seed}/lora/{name}")
    zero = {"hada_w2_a", "lokr_w2", "lokr_w2_b"}
    found = {}
    for short, size in kind.shapes(*shape).items():
        if short in zero:
            found[short] = torch.zeros(size)
        elif short.startswith("hada"):
            found[short] = torch.randn(size, generator=generator) * (0.1 if short == "hada_w1_a" else 1.0)
        else:
            found[short] = _uniform(size, generator)
    return found


def _uniform(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """He's uniform bound with a = sqrt(5), nn.Linear's own and the LoRA paper's code."""
    return (torch.rand(size, generator=generator) * 2 - 1) / math.sqrt(size[1])


def _pissa(weight_OI: Tensor, rank: int, scaling: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The principal part of W (Meng et al. 2024, arXiv 2404.02948): s B A = U S V^T, the r largest values."""
    u_OR, s_R, v_RI = _top_singular(weight_OI, rank, generator)
    root_R = (s_R / scaling).sqrt()
    return (root_R[:, None] * v_RI).contiguous(), (u_OR * root_R).contiguous()


def _olora(weight_OI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The first r columns and rows of W = QR (Büyükakyüz 2024, arXiv 2406.01775)."""
    q_OK, r_KI = torch.linalg.qr(weight_OI)
    return r_KI[:rank].contiguous(), q_OK[:, :rank].contiguous()


def _top_singular(weight_OI: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The r largest singular triplets by randomized subspace iteration (Halko et al. 2011), as PiSSA's authors do.

    An exact decomposition of SD3's 190 matrices takes minutes; this takes seconds, and any error in it only shifts the
    starting point: what is added is also what is subtracted.
    """
    width = min(rank + _OVERSAMPLING, *weight_OI.shape)
    start = torch.randn(weight_OI.shape[1], width, generator=generator).to(weight_OI.device)
    basis_OW = torch.linalg.qr(weight_OI @ start).Q
    for _ in range(_POWER_ITERATIONS):
        basis_OW = torch.linalg.qr(weight_OI @ torch.linalg.qr(weight_OI.T @ basis_OW).Q).Q
    u_WW, s_W, v_WI = torch.linalg.svd(basis_OW.T @ weight_OI, full_matrices=False)
    return (basis_OW @ u_WW)[:, :rank], s_W[:rank], v_WI[:rank]


def _generator(key: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1)
