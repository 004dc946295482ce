"""Frozen linear layers that share an input, and their LoRAs, as one product: what a compiled training step computes.
LoHas and LoKrs are added to it, and DoRAs made of LoRAs, by deltas.py.

For layers W_1 .. W_n with LoRAs s B_j A_j on the same input x,

    [y_1 .. y_n] = [x, x A^T] [W, B]^T + b     W = W_1 .. W_n below each other, A = A_1 .. A_n likewise,
                                               B = s B_1 .. s B_n on the diagonal

is a single product: x is read once, and the LoRA's share is added where the sum is kept anyway. Its backward pass is
one product too, [dy B, dy W] = dy [B, W], and three thin ones. LoRA: Hu et al. 2021, arXiv 2106.09685.

Plain functions of tensors, meant for torch.compile: uncompiled they are right, and slow. The compiler decides what is
kept for the backward pass, and is made to keep no weight: it unpacks them again. [B, W] stands in another order there
than [W, B] in the forward pass so that the compiler doesn't find them equal, and keep the one for the other.

Shapes: N rows, I input features, O output features of all layers, R rank of all LoRAs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from simpletune.models import eight_bit
from simpletune.models.adapter_layers import AdapterLayer, LoraLinear, LycorisLinear
from simpletune.models.deltas import LowRank, Magnitude, Share, low_rank_pair, rescaled, share
from simpletune.models.quantize import FrozenLinear, dequantize

_ALIGNED_8BIT = 32  # a side of a product in 8 bits is a multiple of it
_ALIGNED = 8  # a side of a bf16 product that isn't a multiple of this many elements runs several times slower


class Frozen(NamedTuple):
    """A linear layer's weight as it lies in memory: plain (`scale` None), or quantized as `quantize.dequantize` has it.

    A tuple rather than a module: the compiler then treats the tensors as inputs, so that equal blocks share one graph.
    """

    data: Tensor
    scale: Tensor | None
    shift: Tensor | None
    bias: Tensor | None
    bits: int
    shape: tuple[int, int]

    def weight(self, *, again: bool = False) -> Tensor:
        """(O, I) in the compute dtype; `again` as `quantize.dequantize` has it."""
        if self.scale is None:
            return self.data
        return dequantize(self.data, self.scale, self.shift, self.bits, self.shape, again=again)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All but the bias."""
        return tuple(tensor for tensor in (self.data, self.scale, self.shift) if tensor is not None)

    @property
    def kind(self) -> _Kind:
        return _Kind(len(self.tensors), self.bits, self.shape)


class _Kind(NamedTuple):
    """What is left of a `Frozen` without its tensors, of which there are so many."""

    pieces: int
    bits: int
    shape: tuple[int, int]


class Group(NamedTuple):
    """Linear layers of one input. `frozen` are their weights, in as few pieces as they can be had; `loras` (with their
    `lengths` where they are DoRAs), `shares` (LoHas and LoKrs) and `sizes` (output features) are those of the single
    layers. `kind`: of 8 bits, of a product in those (eight_bit.py)."""

    frozen: tuple[Frozen, ...]
    loras: tuple[LowRank | None, ...]
    lengths: tuple[Magnitude | None, ...]
    shares: tuple[Share | None, ...]
    sizes: tuple[int, ...]
    kind: str | None = None

    @property
    def is_bare(self) -> bool:
        """Whether it is a single layer without an adapter."""
        return self.loras == (None,) and self.shares == (None,)


def group_of(*modules: nn.Module) -> Group:
    """The layers' tensors: their own, not copies. An adapter that is switched off isn't among them.

    Where the layers are plain or in 8 bits, their weights are first moved into one piece of memory, of which each layer
    then holds its rows: the product of all of them needs no copy. Layers that aren't nn.Linear raise TypeError.
    """
    bases = [_base(module) for module in modules]
    _lay_together(bases)
    parts = [_frozen(base) for base in bases]
    on = [module if isinstance(module, AdapterLayer) and module.is_on else None for module in modules]
    loras = tuple(module.low_rank if isinstance(module, LoraLinear) else None for module in on)
    lengths = tuple(module.decomposed if isinstance(module, LoraLinear) else None for module in on)
    shares = tuple(module.delta if isinstance(module, LycorisLinear) else None for module in on)
    sizes = tuple(part.shape[0] for part in parts)
    whole = _whole(parts)
    return Group((whole,) if whole is not None else tuple(parts), loras, lengths, shares, sizes)


def in_eight_bits(group: Group, kind: str | None) -> Group:
    """The group with its product in 8 bits, where that can be: a single layer of aligned size without an adapter."""
    rows, features = group.frozen[0].shape
    fits = rows % _ALIGNED_8BIT == 0 and features % _ALIGNED_8BIT == 0
    return group._replace(kind=kind) if fits and group.is_bare else group


def _base(module: nn.Module) -> nn.Linear:
    base = module.base() if isinstance(module, AdapterLayer) else module
    if not isinstance(base, nn.Linear):
        raise TypeError(f"{type(base).__name__} is no linear layer")
    return base


def _frozen(base: nn.Linear) -> Frozen:
    shape = (base.out_features, base.in_features)
    if isinstance(base, FrozenLinear):
        return Frozen(base.data, base.scale, base.shift, base.bias, base.bits, shape)
    return Frozen(base.weight.detach(), None, None, None if base.bias is None else base.bias.detach(), 16, shape)


def _lay_together(bases: Sequence[nn.Linear]) -> None:
    """Make the layers' weights, scales and biases consecutive rows of one tensor each, where they can be and aren't."""
    parts = [_frozen(base) for base in bases]
    kinds = {(part.data.dtype, part.shape[1], part.bias is None, _scale_dtype(part)) for part in parts}
    if len(kinds) > 1 or any(part.shift is not None for part in parts) or _whole(parts) is not None:
        return
    for name in ("data", "scale", "bias"):
        tensors = [getattr(part, name) for part in parts]
        if tensors[0] is None:
            continue
        pieces = torch.cat(tensors).split([tensor.shape[0] for tensor in tensors])
        for base, piece in zip(bases, pieces, strict=True):
            if isinstance(base, FrozenLinear):
                base.register_buffer(name, piece)
            else:
                getattr(base, {"data": "weight"}.get(name, name)).data = piece


def _scale_dtype(part: Frozen) -> torch.dtype | None:
    return None if part.scale is None else part.scale.dtype


def _whole(parts: Sequence[Frozen]) -> Frozen | None:
    """The parts as one weight, when they lie behind each other in memory."""
    if len(parts) == 1:
        return parts[0]
    if any(part.shift is not None for part in parts):
        return None
    rows, first = sum(part.shape[0] for part in parts), parts[0]
    data, scale, bias = (_joined_rows([getattr(part, name) for part in parts]) for name in ("data", "scale", "bias"))
    if data is None or (scale is None) != (first.scale is None) or (bias is None) != (first.bias is None):
        return None
    return Frozen(data, scale, None, bias, first.bits, (rows, first.shape[1]))


def _joined_rows(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """The tensor whose consecutive rows these are, without a copy; None when they aren't."""
    first, expected = tensors[0], 0
    for tensor in tensors:
        if tensor is None or first is None or tensor.shape[1:] != first.shape[1:]:
            return None
        if tensor.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return None
        if tensor.storage_offset() != first.storage_offset() + expected or not tensor.is_contiguous():
            return None
        expected += tensor.numel()
    assert first is not None
    rows = sum(tensor.shape[0] for tensor in tensors if tensor is not None)
    return first.as_strided((rows, *first.shape[1:]), first.stride())


def project(x: Tensor, group: Group, *, joined: bool) -> list[Tensor]:
    """What each layer makes of x (..., I), in the dtype of x.

    `joined`: x and x A^T are put side by side, which copies the weight and saves a pass over the output: right where
    there are more rows than weight rows. Otherwise the LoRA's share is added to the output.
    """
    if group.kind is not None:
        return [eight_bit.product(x, *_eight_bit_rows(group.frozen[0], group.kind), group.kind)]
    bias = _bias(group, x)
    factors = low_rank_factors(group, x.dtype)
    kinds, tensors = tuple(part.kind for part in group.frozen), [one for part in group.frozen for one in part.tensors]
    if factors is None:
        y = _Plain.apply(x, bias, kinds, *tensors)
    else:
        product = _Joined if joined else _Added
        y = product.apply(x, *factors, bias, kinds, *tensors)
    results = list(y.split(group.sizes, -1))
    for place, delta in enumerate(group.shares):
        if delta is not None:
            results[place] = results[place] + share(x, delta)
    if any(length is not None for length in group.lengths):
        results = _decomposed(results, group, bias)
    return results


def _decomposed(results: list[Tensor], group: Group, bias: Tensor | None) -> list[Tensor]:
    """The results with those of DoRAs turned into what a DoRA's layer gives."""
    weight = torch.cat([part.weight() for part in group.frozen]) if len(group.frozen) > 1 else group.frozen[0].weight()
    weights = weight.split(group.sizes)
    biases = [None] * len(results) if bias is None else bias.split(group.sizes)
    return [
        y if lora is None or length is None else rescaled(y, own_bias, lora, length, own)
        for y, own_bias, lora, length, own in zip(results, biases, group.loras, group.lengths, weights, strict=True)
    ]


def _weights(kinds: Sequence[_Kind], tensors: Sequence[Tensor], dtype: torch.dtype, *, again: bool) -> list[Tensor]:
    """The weights of a group's pieces, (O, I) each, from its tensors one behind the other."""
    rest, weights = list(tensors), []
    for kind in kinds:
        own, rest = rest[: kind.pieces], rest[kind.pieces :]
        data, scale, shift = (*own, None, None)[:3]
        assert data is not None
        weights.append(Frozen(data, scale, shift, None, kind.bits, kind.shape).weight(again=again).to(dtype))
    return weights


def feed_forward(x: Tensor, groups: tuple[Group, Group], *, joined: bool) -> Tensor:
    """x (..., I) through two layers of one output each, and GELU by tanh between them."""
    first, second = groups
    if first.kind is not None and first.kind == second.kind:
        one, other = (_eight_bit_rows(group.frozen[0], first.kind) for group in groups)
        return eight_bit.feed_forward(x, one, other, first.kind)
    (hidden,) = project(x, first, joined=joined)
    (out,) = project(functional.gelu(hidden, approximate="tanh"), second, joined=joined)
    return out


def _eight_bit_rows(frozen: Frozen, kind: str) -> eight_bit.Rows:
    taken_as_it_is = eight_bit.is_eight_bit(frozen.data, frozen.scale, kind)
    weight = None if taken_as_it_is else frozen.weight()
    return eight_bit.Rows(*eight_bit.eight_bit_rows(frozen.data, frozen.scale, weight, kind), frozen.bias)


def low_rank_factors(group: Group, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """A (R, I) and B (O, R) of all layers' LoRAs, the factor s in B; zeros fill R up to an aligned size."""
    downs: list[Tensor] = []
    ups: list[Tensor] = []
    for lora, rows in zip(group.loras, group.sizes, strict=True):
        if lora is None:
            ups.append(group.frozen[0].data.new_zeros((rows, 0), dtype=dtype))
            continue
        down, up = low_rank_pair(lora)
        downs.append(down.to(dtype))
        ups.append(up.to(dtype))
    if not downs:
        return None
    missing = -sum(down.shape[0] for down in downs) % _ALIGNED
    if missing:
        downs.append(downs[0].new_zeros((missing, downs[0].shape[1])))
    diagonal = ups[0] if len(ups) == 1 else torch.block_diag(*ups)
    return torch.cat(downs) if len(downs) > 1 else downs[0], functional.pad(diagonal, (0, missing))


# What follows takes all it is given as one list: without gradients torch.compile (2.13) leaves out `ctx` where the
# number of arguments happens to be that of the parameters.


class _Plain(torch.autograd.Function):
    """y = x W^T + bias; both are frozen. Given x, bias, kinds and the weights' tensors."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        x, bias, kinds, *tensors = given
        ctx.kinds = kinds
        ctx.save_for_backward(*tensors)
        weights = _weights(kinds, tensors, x.dtype, again=False)
        return functional.linear(x, weights[0] if len(weights) == 1 else torch.cat(weights), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        weights = _weights(ctx.kinds, tensors, grad.dtype, again=True)
        grad_x = grad @ (weights[0] if len(weights) == 1 else torch.cat(weights))
        return grad_x, None, None, *[None] * len(tensors)


class _Joined(torch.autograd.Function):
    """y = [x, x A^T] [W, B]^T + bias; W and bias are frozen. Given x, A, B, bias, kinds and the weights' tensors."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        x, a, b, bias, kinds, *tensors = given
        down, weights = functional.linear(x, a), _weights(kinds, tensors, x.dtype, again=False)
        ctx.kinds = kinds
        ctx.save_for_backward(x, down, a, b, *tensors)
        return functional.linear(torch.cat([x, down], -1), torch.cat([torch.cat(weights), b], 1), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, down, a, b, *tensors = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        both = rows @ torch.cat([b, torch.cat(_weights(ctx.kinds, tensors, x.dtype, again=True))], 1)
        grad_down, grad_x = both[:, : b.shape[1]], both[:, b.shape[1] :]
        grad_x = grad_x + grad_down @ a  # not addmm, which copies grad_x first
        return _gradients(x, down, rows, grad_x, grad_down, len(tensors))


class _Added(torch.autograd.Function):
    """y = x W^T + bias + (x A^T) B^T; W and bias are frozen. Given what `_Joined` is."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        x, a, b, bias, kinds, *tensors = given
        down, weights = functional.linear(x, a), _weights(kinds, tensors, x.dtype, again=False)
        ctx.kinds = kinds
        ctx.save_for_backward(x, down, a, b, *tensors)
        biases = [None] * len(weights) if bias is None else bias.split([weight.shape[0] for weight in weights])
        products = [functional.linear(x, weight, part) for weight, part in zip(weights, biases, strict=True)]
        return torch.cat(products, -1) + functional.linear(down, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, down, a, b, *tensors = ctx.saved_tensors
        weights = _weights(ctx.kinds, tensors, x.dtype, again=True)
        rows = grad.reshape(-1, grad.shape[-1])
        grad_down = rows @ b
        grad_x = grad_down @ a
        for part, weight in zip(rows.split([weight.shape[0] for weight in weights], 1), weights, strict=True):
            grad_x = grad_x + part @ weight
        return _gradients(x, down, rows, grad_x, grad_down, len(tensors))


def _gradients(
    x: Tensor, down: Tensor, grad: Tensor, grad_x: Tensor, grad_down: Tensor, frozen: int
) -> tuple[Tensor | None, ...]:
    """Of x, A (R, I) and B (O, R), from the rows' gradients (N, O), (N, I) and (N, R); what is frozen has none."""
    grad_a = grad_down.t() @ x.reshape(-1, x.shape[-1])
    grad_b = grad.t() @ down.reshape(-1, down.shape[-1])
    return grad_x.reshape(x.shape), grad_a, grad_b, None, None, *[None] * frozen


def _bias(group: Group, x: Tensor) -> Tensor | None:
    biases = [part.bias for part in group.frozen]
    if all(bias is None for bias in biases):
        return None
    if len(biases) == 1 and biases[0] is not None:
        return biases[0].to(x.dtype)
    zeros = [x.new_zeros(part.shape[0]) for part in group.frozen]
    return torch.cat([none if bias is None else bias.to(x.dtype) for bias, none in zip(biases, zeros, strict=True)])
