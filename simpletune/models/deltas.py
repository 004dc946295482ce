"""What an adapter adds to a frozen linear layer's product, for each kind: plain functions of tensors.

    LoRA   s B A x                                   Hu et al. 2021, arXiv 2106.09685
    LoHa   s ((W1a W1b) * (W2a W2b)) x               Hyeon-Woo et al. 2022, arXiv 2108.06098
    LoKr   s (W1 (x) W2) x                           Yeh et al. 2023, arXiv 2309.14859
    DoRA   m / |W + s B A| (W + s B A) x             Liu et al. 2024, arXiv 2402.09353, the norm kept constant (4.3)

LoHa's matrix has full rank: it is made in the forward pass and again, by other operations, in the backward pass, so
that neither autograd nor a compiler keeps it. LoKr's is never made: with x as a matrix X (c, d), (W1 (x) W2) x is
W1 X W2^T. Factors are multiplied in fp32 where they are, and cast to the dtype of x.

Shapes: N rows, I inputs, O outputs, r rank; LoKr: O = a b, I = c d, W1 (a, c), W2 (b, d).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class LowRank(NamedTuple):
    """A LoRA: a (r, I), b (O, r), what it started from where that is subtracted, and the factor s."""

    a: Tensor
    b: Tensor
    initial_a: Tensor | None
    initial_b: Tensor | None
    scaling: float


class Hadamard(NamedTuple):
    """A LoHa: w1_a and w2_a (O, r), w1_b and w2_b (r, I)."""

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    scaling: float


class Kronecker(NamedTuple):
    """A LoKr: w1 and w2, each whole or as the product of two (then `..._b` is there)."""

    w1: Tensor
    w1_b: Tensor | None
    w2: Tensor
    w2_b: Tensor | None
    scaling: float


class Magnitude(NamedTuple):
    """What makes a LoRA a DoRA: m (O,), and the squared lengths (O,) of the base weight's rows, fp32."""

    length: Tensor
    base_squares: Tensor


Share = Hadamard | Kronecker


def share(x: Tensor, delta: Share) -> Tensor:
    """What a LoHa or LoKr adds to the layer's product: (..., I) -> (..., O)."""
    if isinstance(delta, Hadamard):
        factors = (delta.w1_a * delta.scaling, delta.w1_b, delta.w2_a, delta.w2_b)
        added: Tensor = _HadamardProduct.apply(x, *(factor.to(x.dtype) for factor in factors))
        return added
    first = _whole(delta.w1, delta.w1_b) * delta.scaling
    product: Tensor = _KroneckerProduct.apply(x, first.to(x.dtype), _whole(delta.w2, delta.w2_b).to(x.dtype))
    return product


def _whole(left: Tensor, right: Tensor | None) -> Tensor:
    return left if right is None else left @ right


def low_rank_pair(lora: LowRank) -> tuple[Tensor, Tensor]:
    """A and B of all it adds, the scale in B: [s B, -s B0] [A; A0]. B is fp32, as in a finished file: s times a bf16
    number isn't one."""
    a, b = lora.a, lora.b.float() * lora.scaling
    if lora.initial_a is None or lora.initial_b is None:
        return a, b
    return torch.cat([a, lora.initial_a]), torch.cat([b, lora.initial_b.float() * -lora.scaling], 1)


def rescaled(y: Tensor, bias: Tensor | None, lora: LowRank, magnitude: Magnitude, weight: Tensor) -> Tensor:
    """A LoRA's layer as a DoRA's: y = (W + s B A) x + bias (..., O) -> m / n (y - bias) + bias, n the lengths of the
    rows of W + s B A.

    As y + (m / n - 1) (y - bias), which is y itself, bit for bit, where nothing has been learned yet.
    """
    product = y if bias is None else y - bias.to(y.dtype)
    length = row_lengths(weight, magnitude.base_squares, *low_rank_pair(lora))
    return torch.addcmul(y, product, (magnitude.length.float() / length - 1).to(y.dtype))


def row_lengths(weight: Tensor, squares: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """|W + B A| by rows (O,), fp32, without gradients; `squares` are those of W. The sum is never formed:

    |w + b A|^2 = |w|^2 + 2 (w A^T) b + b (A A^T) b.
    """
    a, b = a.detach().float(), b.detach().float()
    mixed = (functional.linear(weight, a.to(weight.dtype)).float() * b).sum(1)
    own = ((b @ (a @ a.t())) * b).sum(1)
    return (squares + 2 * mixed + own).clamp_min(torch.finfo(torch.float32).tiny).sqrt()


def row_squares(weight: Tensor) -> Tensor:
    """Squared lengths of a weight's rows (O,), fp32."""
    return weight.float().square().sum(1)


# What follows takes all it is given as one list, as in projection.py.


class _HadamardProduct(torch.autograd.Function):
    """x ((W1a W1b) * (W2a W2b))^T, given x and the four."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        x, w1_a, w1_b, w2_a, w2_b = given
        ctx.save_for_backward(*given)
        return functional.linear(x, (w1_a @ w1_b) * (w2_a @ w2_b))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, w1_a, w1_b, w2_a, w2_b = ctx.saved_tensors
        grad_NO, x_NI = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        first_IO, second_IO = w1_b.t() @ w1_a.t(), w2_b.t() @ w2_a.t()  # transposed: other operations than before
        grad_x = grad_NO @ (first_IO * second_IO).t()
        grad_IO = x_NI.t() @ grad_NO
        of_first, of_second = grad_IO * second_IO, grad_IO * first_IO
        factors = (
            of_first.t() @ w1_b.t(),
            (of_first @ w1_a).t(),
            of_second.t() @ w2_b.t(),
            (of_second @ w2_a).t(),
        )
        return grad_x.reshape(x.shape), *factors


class _KroneckerProduct(torch.autograd.Function):
    """x (W1 (x) W2)^T, given x, W1 (a, c) and W2 (b, d)."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        x, first, second = given
        ctx.save_for_backward(x, first, second)
        x_cd = x.unflatten(-1, (first.shape[1], second.shape[1]))
        seen_bc = functional.linear(x_cd, second).transpose(-1, -2)
        return functional.linear(seen_bc, first).transpose(-1, -2).flatten(-2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, first, second = ctx.saved_tensors
        (a, c), (b, d) = first.shape, second.shape
        grad_Nab, x_Ncd = grad.reshape(-1, a, b), x.reshape(-1, c, d)
        back_Nad = grad_Nab @ second
        grad_x = functional.linear(back_Nad.transpose(1, 2), first.t()).transpose(1, 2)
        by_first = back_Nad.transpose(0, 1).reshape(a, -1) @ x_Ncd.transpose(0, 1).reshape(c, -1).t()
        mixed_Nad = functional.linear(x_Ncd.transpose(1, 2), first).transpose(1, 2)
        by_second = grad_Nab.reshape(-1, b).t() @ mixed_Nad.reshape(-1, d)
        return grad_x.reshape(x.shape), by_first, by_second
