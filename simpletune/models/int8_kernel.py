"""A Triton kernel for products of int8 rows: torch's own `_int_mm` was slower than bf16 at the sizes of SD3.

Imported only where it runs: Triton comes with torch for CUDA and with nothing else.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

_WIDE = {"BM": 128, "BN": 256, "BK": 128, "num_warps": 8, "num_stages": 3}
_NARROW = {"BM": 128, "BN": 128, "BK": 64, "num_warps": 4, "num_stages": 3}
_WIDE_NEEDS = 160 << 10  # bytes of shared memory a multiprocessor: data centre cards have it
_GROUP = 8  # rows of tiles that run side by side, so that they find the weight in the cache


def launch(
    rows: Tensor, row_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    """out (N, O) = rows (N, K) weight (O, K)^T, int8 both, times their scales (N,) and (O,) in float32, plus bias.

    K is a multiple of 32, the least that the units take.
    """
    count, width = rows.shape
    outputs = weight.shape[0]
    sizes = _sizes(rows.device, width)
    tiles = triton.cdiv(count, sizes["BM"]) * triton.cdiv(outputs, sizes["BN"])
    _kernel[(tiles,)](
        rows,
        weight,
        out,
        row_scale,
        weight_scale,
        row_scale if bias is None else bias,
        count,
        outputs,
        width,
        HAS_BIAS=bias is not None,
        GROUP=_GROUP,
        **sizes,
    )


def _sizes(device: torch.device, width: int) -> dict[str, int]:
    shared = torch.cuda.get_device_properties(device).shared_memory_per_multiprocessor
    sizes = _WIDE if shared >= _WIDE_NEEDS else _NARROW
    return {**sizes, "BK": math.gcd(sizes["BK"], width)}


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _kernel(  # type: ignore[no-untyped-def]  # Triton takes an annotation for a value that the kernel reads
    a,
    b,
    out,
    a_scale,
    b_scale,
    bias,
    M,
    N,
    K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """One tile (BM, BN) of `out`; K is a multiple of BK."""
    down, across = tl.cdiv(M, BM), tl.cdiv(N, BN)
    band = tl.program_id(0) // (GROUP * across)
    height = min(down - band * GROUP, GROUP)
    place = tl.program_id(0) % (GROUP * across)
    row = (band * GROUP + place % height) * BM + tl.arange(0, BM)
    col = (place // height) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    from_a = a + (row % M).to(tl.int64)[:, None] * K + k[None, :]
    from_b = b + (col % N).to(tl.int64)[None, :] * K + k[:, None]
    total = tl.zeros((BM, BN), dtype=tl.int32)
    for _ in range(0, K, BK):
        total = tl.dot(tl.load(from_a), tl.load(from_b), total, out_dtype=tl.int32)
        from_a += BK
        from_b += BK
    here, there = row < M, col < N
    y = total.to(tl.float32) * tl.load(a_scale + row, mask=here, other=0.0)[:, None]
    y *= tl.load(b_scale + col, mask=there, other=0.0)[None, :]
    if HAS_BIAS:
        y += tl.load(bias + col, mask=there, other=0.0).to(tl.float32)[None, :]
    tl.store(
        out + row.to(tl.int64)[:, None] * N + col[None, :],
        y.to(out.dtype.element_ty),
        mask=here[:, None] & there[None, :],
    )
