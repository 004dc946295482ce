"""Products in the card's 8-bit units: both sides as int8 or float8 e4m3, one scale a row, summed in 32 bits.

For a frozen layer y = x W^T + b, with rows x_n = s_n q_n and W_o = t_o w_o in 8 bits,

    y_no  = s_n t_o sum_i q_ni w_oi + b_o
    dx_ni = u_n sum_o p_no w_oi                where u_n p_no = t_o dy_no, in 8 bits as well

so that the same 8-bit weight serves both directions: its scales go into the gradient before that is rounded. Rounding
both sides row by row: Dettmers et al. 2022, arXiv 2208.07339, section 2; float8 with scales a row: Micikevicius et al.
2022, arXiv 2209.05433.

Plain functions of tensors, meant for torch.compile, which puts the rounding of x into whatever makes x; that of GELU,
between the two layers of a feed-forward network, has a kernel of its own (gelu_kernels.py). Layers with a LoRA stay in
16 bits: adding the LoRA's share afterwards costs what the product saves (docs/performance.md).

Shapes: N rows, I input features, O output features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

INT8, FP8 = "int8", "fp8"
_TYPES = {INT8: torch.int8, FP8: torch.float8_e4m3fn}
KINDS = tuple(_TYPES)
_LARGEST = {INT8: 127.0, FP8: 448.0}
_SMALLEST_SCALE = 1e-12  # of a row of zeros


def product(x: Tensor, data: Tensor, scale: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """x (..., I) times the rows of `eight_bit_rows` of the same kind, plus bias (O,) -> (..., O), in the dtype of x."""
    result: Tensor = _Product.apply(x, data, scale, bias, kind)
    return result


class Rows(NamedTuple):
    """A frozen layer's weight (O, I) in 8 bits, its rows' scales (O,) in float32, its bias (O,)."""

    data: Tensor
    scale: Tensor
    bias: Tensor | None


def feed_forward(x: Tensor, first: Rows, second: Rows, kind: str) -> Tensor:
    """x (..., I) through `first`, GELU by tanh and `second` -> (..., O), as two `product`s; what lies between the
    layers is rounded as it is computed, without being 16 bits before."""
    result: Tensor = _FeedForward.apply(x, *first, *second, kind)
    return result


def eight_bit_rows(data: Tensor, scale: Tensor | None, weight: Tensor | None, kind: str) -> tuple[Tensor, Tensor]:
    """A weight (O, I) in 8 bits with its scales (O,) in float32.

    data, scale: as `quantize.dequantize` has them. What is in this kind of 8 bits already is taken as it is; anything
    else is rounded from `weight`, the whole in 16 bits, which is not read otherwise.
    """
    if scale is not None and data.dtype is _TYPES[kind]:
        return data, scale.float().flatten().expand(data.shape[0])
    assert weight is not None
    return quantize_rows(weight, kind)


def is_eight_bit(data: Tensor, scale: Tensor | None, kind: str) -> bool:
    """Whether `eight_bit_rows` takes the weight as it is."""
    return scale is not None and data.dtype is _TYPES[kind]


def quantize_rows(x: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """(N, I) -> the same in 8 bits, and the rows' scales (N,) in float32."""
    largest = _LARGEST[kind]
    scale = (x.abs().amax(-1, keepdim=True).float() / largest).clamp(min=_SMALLEST_SCALE)
    scaled = x.float() / scale
    if kind == INT8:
        scaled = scaled.round()
    return scaled.clamp(-largest, largest).to(_TYPES[kind]), scale.squeeze(-1)


class _Product(torch.autograd.Function):
    """Keeps the weight for the backward pass, and nothing of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, data: Tensor, scale: Tensor, bias: Tensor | None, kind: str) -> Tensor:
        ctx.kind = kind
        ctx.save_for_backward(data, scale)
        rows, row_scale = quantize_rows(x.reshape(-1, x.shape[-1]), kind)
        y = _scaled(rows, row_scale, data, scale, bias, x.dtype)
        return y.reshape(*x.shape[:-1], data.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        data, scale = ctx.saved_tensors
        weighted = grad.reshape(-1, grad.shape[-1]).float() * scale
        grad_x = _turned(*quantize_rows(weighted, ctx.kind), data, grad.dtype)
        return grad_x.reshape(*grad.shape[:-1], data.shape[1]), None, None, None, None


class _FeedForward(torch.autograd.Function):
    """Keeps the weights and what GELU is taken of, without the bias."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        data: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        next_data: Tensor,
        next_scale: Tensor,
        next_bias: Tensor | None,
        kind: str,
    ) -> Tensor:
        rows, row_scale = quantize_rows(x.reshape(-1, x.shape[-1]), kind)
        h = _scaled(rows, row_scale, data, scale, None, x.dtype)
        ctx.kind = kind
        ctx.save_for_backward(h, data, scale, bias, next_data, next_scale)
        rows, row_scale = _gelu_rows(h, bias, kind)
        y = _scaled(rows, row_scale, next_data, next_scale, next_bias, x.dtype)
        return y.reshape(*x.shape[:-1], next_data.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, data, scale, bias, next_data, next_scale = ctx.saved_tensors
        rows, row_scale = quantize_rows(grad.reshape(-1, grad.shape[-1]).float() * next_scale, ctx.kind)
        grad_fed = _turned(rows, row_scale, next_data, grad.dtype)
        rows, row_scale = _gelu_backward_rows(grad_fed, h, bias, scale, ctx.kind)
        grad_x = _turned(rows, row_scale, data, grad.dtype)
        return grad_x.reshape(*grad.shape[:-1], data.shape[1]), *[None] * 7


def _turned(rows: Tensor, row_scale: Tensor, data: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, O) in 8 bits times (O, I), whose scales are in the rows already -> (N, I)."""
    # The units read both sides along the sum, so the weight is turned round.
    turned = data.t().contiguous()
    return _scaled(rows, row_scale, turned, row_scale.new_ones(1).expand(len(turned)), None, dtype)


def _gelu_rows(h: Tensor, bias: Tensor | None, kind: str) -> tuple[Tensor, Tensor]:
    """`quantize_rows` of gelu(h (N, I) + bias)."""
    if h.device.type == "cuda":
        rows: tuple[Tensor, Tensor] = torch.ops.simpletune.gelu_rows(h, bias, kind)
        return rows
    x = h.float() if bias is None else h.float() + bias.float()
    return quantize_rows(functional.gelu(x, approximate="tanh"), kind)


def _gelu_backward_rows(
    grad: Tensor, h: Tensor, bias: Tensor | None, factors: Tensor, kind: str
) -> tuple[Tensor, Tensor]:
    """`quantize_rows` of grad (N, I) times gelu'(h (N, I) + bias) times factors (I,)."""
    if h.device.type == "cuda":
        rows: tuple[Tensor, Tensor] = torch.ops.simpletune.gelu_backward_rows(grad, h, bias, factors, kind)
        return rows
    x = h.float() if bias is None else h.float() + bias.float()
    slope = torch.ops.aten.gelu_backward(grad.float(), x, approximate="tanh")
    return quantize_rows(slope * factors, kind)


def _scaled(
    rows: Tensor, row_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """(N, K) and (O, K) in 8 bits -> (N, O)."""
    if rows.device.type != "cuda":
        y = functional.linear(rows.float(), weight.float()) * row_scale[:, None] * weight_scale
        return (y if bias is None else y + bias.float()).to(dtype)
    if rows.dtype is torch.int8:
        product: Tensor = torch.ops.simpletune.int8_product(
            rows, row_scale, weight, weight_scale.contiguous(), bias, dtype
        )
        return product
    y = torch._scaled_mm(
        rows,
        weight.t(),
        scale_a=row_scale[:, None],
        scale_b=weight_scale[None].contiguous(),
        out_dtype=dtype,
        use_fast_accum=True,
    )
    return y if bias is None else y + bias.to(dtype)


@torch.library.custom_op("simpletune::int8_product", mutates_args=(), device_types="cuda")
def _int8_product(
    rows: Tensor, row_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    from simpletune.models.int8_kernel import launch  # Triton: comes with torch where there is CUDA

    out = rows.new_empty((rows.shape[0], weight.shape[0]), dtype=dtype)
    launch(rows, row_scale, weight, weight_scale, bias, out)
    return out


@_int8_product.register_fake
def _(
    rows: Tensor,
    row_scale: Tensor,  # noqa: ARG001
    weight: Tensor,
    weight_scale: Tensor,  # noqa: ARG001
    bias: Tensor | None,  # noqa: ARG001
    dtype: torch.dtype,
) -> Tensor:
    return rows.new_empty((rows.shape[0], weight.shape[0]), dtype=dtype)


@torch.library.custom_op("simpletune::gelu_rows", mutates_args=(), device_types="cuda")
def _gelu_rows_op(h: Tensor, bias: Tensor | None, kind: str) -> tuple[Tensor, Tensor]:
    from simpletune.models.gelu_kernels import gelu

    out, scale = _empty_rows(h, kind)
    gelu(h.contiguous(), bias, out, scale, _LARGEST[kind], _SMALLEST_SCALE)
    return out, scale


@_gelu_rows_op.register_fake
def _(h: Tensor, bias: Tensor | None, kind: str) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return _empty_rows(h, kind)


@torch.library.custom_op("simpletune::gelu_backward_rows", mutates_args=(), device_types="cuda")
def _gelu_backward_rows_op(
    grad: Tensor, h: Tensor, bias: Tensor | None, factors: Tensor, kind: str
) -> tuple[Tensor, Tensor]:
    from simpletune.models.gelu_kernels import gelu_backward

    out, scale = _empty_rows(h, kind)
    gelu_backward(
        grad.contiguous(), h.contiguous(), bias, factors.contiguous(), out, scale, _LARGEST[kind], _SMALLEST_SCALE
    )
    return out, scale


@_gelu_backward_rows_op.register_fake
def _(
    grad: Tensor,  # noqa: ARG001
    h: Tensor,
    bias: Tensor | None,  # noqa: ARG001
    factors: Tensor,  # noqa: ARG001
    kind: str,
) -> tuple[Tensor, Tensor]:
    return _empty_rows(h, kind)


def _empty_rows(h: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    # Not len(h), which the compiler takes for a constant: each size of picture would be compiled anew.
    return h.new_empty(h.shape, dtype=_TYPES[kind]), h.new_empty(h.shape[0], dtype=torch.float32)
