"""Products in the card's 8-bit units: both sides as int8 or float8 e4m3, one scale a row, summed in 32 bits.

For a frozen layer y = x W^T + b, with rows x_n = s_n q_n and W_o = t_o w_o in 8 bits,

    y_no  = s_n t_o sum_i q_ni w_oi + b_o
    dx_ni = u_n sum_o p_no w_oi                where u_n p_no = t_o dy_no, in 8 bits as well

so that the same 8-bit weight serves both directions: its scales go into the gradient before that is rounded. Rounding
both sides row by row: Dettmers et al. 2022, arXiv 2208.07339, section 2; float8 with scales a row: Micikevicius et al.
2022, arXiv 2209.05433.

Plain functions of tensors, meant for torch.compile, which puts the rounding of x into whatever makes x. Layers with a
LoRA stay in 16 bits: adding the LoRA's share afterwards costs what the product saves (docs/performance.md).

Shapes: N rows, I input features, O output features.
"""

from __future__ import annotations

from typing import Any

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
        rows, row_scale = quantize_rows(weighted, ctx.kind)
        # The units read both sides along the sum, so the weight is turned round.
        turned = data.t().contiguous()
        grad_x = _scaled(rows, row_scale, turned, torch.ones_like(scale[:1]).expand(len(turned)), None, grad.dtype)
        return grad_x.reshape(*grad.shape[:-1], data.shape[1]), None, None, None, None


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
