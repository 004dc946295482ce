"""Triton kernels that round GELU's rows, and those of its gradient, to 8 bits in one pass.

A row's scale is known once all of it is computed. The compiler therefore reads a row and computes its GELU twice, which
takes three times as long at SD3's width (docs/performance.md). Here a program holds a whole row.

Imported only where they run: Triton comes with torch for CUDA and with nothing else. The formulas are
`eight_bit.quantize_rows`' and those of GELU by tanh (Hendrycks and Gimpel 2016, arXiv 1606.08415, section 2).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

_THREAD_HOLDS = 16  # numbers of a row
_MOST_WARPS = 16


def gelu(h: Tensor, bias: Tensor | None, out: Tensor, scale: Tensor, largest: float, smallest_scale: float) -> None:
    """out (N, I), in 8 bits of which `largest` is the largest, and scale (N,) in float32 of gelu(h (N, I) + bias (I,)).

    All of them lie row by row in memory, without gaps.
    """
    _gelu[(len(h),)](
        h, h if bias is None else bias, out, scale, HAS_BIAS=bias is not None, **_fixed(out, largest, smallest_scale)
    )


def gelu_backward(
    grad: Tensor,
    h: Tensor,
    bias: Tensor | None,
    factors: Tensor,
    out: Tensor,
    scale: Tensor,
    largest: float,
    smallest_scale: float,
) -> None:
    """The same of grad (N, I) gelu'(h + bias) factors (I,)."""
    _gelu_backward[(len(h),)](
        grad,
        h,
        h if bias is None else bias,
        factors,
        out,
        scale,
        HAS_BIAS=bias is not None,
        **_fixed(out, largest, smallest_scale),
    )


def _fixed(out: Tensor, largest: float, smallest_scale: float) -> dict[str, object]:
    """What both are compiled for."""
    width = out.shape[1]
    block = triton.next_power_of_2(width)
    warps = min(max(block // (32 * _THREAD_HOLDS), 1), _MOST_WARPS)
    rounds = out.dtype is torch.int8
    return {
        "WIDTH": width, "BLOCK": block, "LARGEST": largest, "SMALLEST": smallest_scale, "ROUNDS": rounds,
        "num_warps": warps,
    }  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _tanh_of_gelu(x):  # type: ignore[no-untyped-def]
    """tanh(sqrt(2 / pi) (x + 0.044715 x^3)); exp may overflow to infinity, which gives 1."""
    return 1.0 - 2.0 / (tl.exp(1.5957691216057308 * (x + 0.044715 * x * x * x)) + 1.0)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _store_row(  # type: ignore[no-untyped-def]
    y,
    out,
    scale,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    ROUNDS: tl.constexpr,
) -> None:
    """Of this program's row. Something that is no number anywhere in it becomes its scale, so that it isn't lost."""
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    own = tl.maximum(tl.max(tl.abs(y), 0) / LARGEST, SMALLEST)
    own = tl.where(tl.max((y != y).to(tl.int32), 0) > 0, float("nan"), own)
    scaled = y / own
    if ROUNDS:
        scaled = libdevice.rint(scaled)
    scaled = tl.minimum(tl.maximum(scaled, -LARGEST), LARGEST)
    tl.store(out + row * WIDTH + column, scaled.to(out.dtype.element_ty), mask=column < WIDTH)
    tl.store(scale + row, own)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _gelu(  # type: ignore[no-untyped-def]
    h,
    bias,
    out,
    scale,
    HAS_BIAS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    ROUNDS: tl.constexpr,
) -> None:
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    here = column < WIDTH
    x = tl.load(h + row * WIDTH + column, mask=here, other=0.0).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias + column, mask=here, other=0.0).to(tl.float32)
    y = 0.5 * x * (1.0 + _tanh_of_gelu(x))
    _store_row(y, out, scale, WIDTH, BLOCK, LARGEST, SMALLEST, ROUNDS)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _gelu_backward(  # type: ignore[no-untyped-def]
    grad,
    h,
    bias,
    factors,
    out,
    scale,
    HAS_BIAS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    ROUNDS: tl.constexpr,
) -> None:
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    here = column < WIDTH
    x = tl.load(h + row * WIDTH + column, mask=here, other=0.0).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias + column, mask=here, other=0.0).to(tl.float32)
    t = _tanh_of_gelu(x)
    slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * 0.7978845608028654 * (1.0 + 0.134145 * x * x)
    y = tl.load(grad + row * WIDTH + column, mask=here, other=0.0).to(tl.float32) * slope
    y *= tl.load(factors + column, mask=here, other=0.0).to(tl.float32)
    _store_row(y, out, scale, WIDTH, BLOCK, LARGEST, SMALLEST, ROUNDS)
