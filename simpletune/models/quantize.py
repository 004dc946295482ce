"""A frozen linear layer whose weight is kept in 8, 4 or 2 bits.

optimum-quanto chooses the scales and packs the values; the arithmetic is ours. quanto's own kernels save a layer's
input for a weight gradient that nobody wants, refuse the fp32 input that autocast feeds them, and pack themselves
into formats (TinyGemm, Marlin) that are slower or noisier than plain dequantizing; none of them is ever used here.

Shapes: O output features, I input features, R = O * I / group rows of one scale each, G values in such a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from optimum.quanto import AbsmaxOptimizer, MaxOptimizer, qfloat8_e4m3fn, qint2, qint4, qint8, quantize_weight
from optimum.quanto.tensor import WeightQBitsTensor, WeightQBytesTensor
from optimum.quanto.tensor.packed import PackedTensor
from torch import Tensor, nn
from torch.nn import functional

from simpletune.errors import ConfigError, EnvironmentNotReady

NO_CHANGE = "no_change"
_QTYPES = {"int8-quanto": qint8, "int4-quanto": qint4, "int2-quanto": qint2, "fp8-quanto": qfloat8_e4m3fn}
PRECISIONS = (NO_CHANGE, *_QTYPES)

QuantizeChoice = Callable[[str, nn.Linear], bool]
"""Says of a linear layer, given its full name, whether its weight is to be quantized."""


def is_quantized(precision: str) -> bool:
    """Whether a `..._precision` value changes the weights at all."""
    if precision not in PRECISIONS:
        raise ConfigError(f"unknown precision {precision!r}", f"one of {', '.join(PRECISIONS)}")
    return precision != NO_CHANGE


def all_but(*patterns: str) -> QuantizeChoice:
    """Quantize every linear layer but those whose full name matches a pattern (`*` stands for anything)."""

    def choose(name: str, _linear: nn.Linear) -> bool:
        return not any(fnmatchcase(name, pattern) for pattern in patterns)

    return choose


def dequantize(
    data: Tensor, scale: Tensor, shift: Tensor | None, bits: int, shape: tuple[int, int], *, again: bool = False
) -> Tensor:
    """The weight (O, I) in the dtype of `scale`: in 8 bits, bit for bit what quanto's own tensors dequantize to.

    In 4 and 2 bits it is rounded once, where quanto rounds the product and the difference: a compiler that fuses the
    two does the same, so that training and sampling see the same weights, compiled or not.

    8 bits: data (O, I) int8 or float8, scale (O, 1) or (1, 1). 4 and 2 bits: data (ceil(R / values a byte), G) uint8,
    where byte row j holds the values of rows j, j + ceil(...), ... from the lowest bits up; scale and shift (R, 1).

    `again`: the same values by other operations, for a backward pass. A compiler that finds those of the forward pass
    there keeps their results, a byte a value, rather than computing them twice.
    """
    if shift is None:
        # int8 is converted by the multiplication itself: the same bits, and one kernel less where nothing is compiled.
        return scale * (data if data.dtype is torch.int8 else data.to(scale.dtype))
    values_RG = (_quotients if again else _shifted)(data, bits)[: shape[0] * shape[1] // data.shape[1]]
    return (scale.float() * values_RG - shift.float()).to(scale.dtype).reshape(shape)


# The numbers are not computed from `bits`: torch.compile takes what has had two values for a variable.


def _shifted(data: Tensor, bits: int) -> Tensor:
    """The values of packed rows (J, G), as uint8 (J times the values a byte, G)."""
    mask, places = (15, (0, 4)) if bits == 4 else (3, (0, 2, 4, 6))
    return torch.cat([(data >> place) & mask for place in places])


def _quotients(data: Tensor, bits: int) -> Tensor:
    """What `_shifted` gives, by divisions."""
    values, units = (16, (1, 16)) if bits == 4 else (4, (1, 4, 16, 64))
    return torch.cat([torch.div(data, unit, rounding_mode="floor").remainder(values) for unit in units])


class _FrozenProduct(torch.autograd.Function):
    """x W^T + b for a weight that takes no gradient: only its quantized form is kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        data: Tensor,
        scale: Tensor,
        shift: Tensor | None,
        bias: Tensor | None,
        bits: int,
        shape: tuple[int, int],
    ) -> Tensor:
        ctx.bits, ctx.shape = bits, shape
        ctx.save_for_backward(*(tensor for tensor in (data, scale, shift) if tensor is not None))
        return functional.linear(x, dequantize(data, scale, shift, bits, shape), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        data, scale, *rest = ctx.saved_tensors
        shift = rest[0] if rest else None
        with _without_autocast(grad.device.type):
            grad_x = grad @ dequantize(data, scale, shift, ctx.bits, ctx.shape)
        return grad_x, None, None, None, None, None, None


def _without_autocast(device_type: str) -> AbstractContextManager[Any]:
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


class FrozenLinear(nn.Linear):
    """A linear layer with a quantized weight that is never trained.

    It is an `nn.Linear` to whoever asks (PEFT dispatches on that) but holds buffers only: `data`, `scale`, `shift`
    (4 and 2 bits) and `bias`. The product is computed in `compute_dtype` whatever autocast says: the input is cast to
    it, the output has it, and the input's gradient has the input's dtype. Moving to another device works;
    a change of dtype (`.half()`, `.to(torch.float32)`) leaves the layer as it is, because its precision was chosen.
    """

    data: Tensor
    scale: Tensor
    shift: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        data: Tensor,
        scale: Tensor,
        shift: Tensor | None,
        bias: Tensor | None,
        shape: tuple[int, int],
        precision: str,
    ) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would allocate the full weight
        self.out_features, self.in_features = shape
        self.precision = precision
        self._shape, self._bits = shape, _QTYPES[precision].bits
        for name, tensor in {"data": data, "scale": scale, "shift": shift, "bias": bias}.items():
            self.register_buffer(name, tensor)

    @property
    def compute_dtype(self) -> torch.dtype:
        return self.scale.dtype

    @property
    def bits(self) -> int:
        return self._bits

    @property
    def weight(self) -> Tensor:
        """The weight (O, I) as one of quanto's tensors, which dequantizes itself when an operation touches it.

        PEFT and transformers' T5 read `.weight.dtype` and `.weight.device` on hot paths: those cost nothing here,
        and whoever does use the values gets the right ones. Nothing in `forward` goes through it.
        """
        qtype, stride = _QTYPES[self.precision], (self.in_features, 1)
        if self.shift is None:
            axis = None if self.out_features == 1 else 0
            return WeightQBytesTensor(qtype, axis, torch.Size(self._shape), stride, self.data, self.scale, None)
        group = self.data.shape[1]
        size = torch.Size((self.out_features * self.in_features // group, group))
        packed = PackedTensor(self.data, self._bits, size, (group, 1))
        group_size = group if group != self.in_features else None
        return WeightQBitsTensor(qtype, 0, group_size, torch.Size(self._shape), stride, packed, self.scale, self.shift)

    def dequantized(self, device: torch.device | None = None) -> Tensor:
        """The weight (O, I) as an ordinary tensor in the compute dtype, made on `device` where one is named."""
        tensors = (self.data, self.scale, self.shift)
        data, scale, shift = (None if tensor is None else tensor.to(device or tensor.device) for tensor in tensors)
        assert data is not None
        assert scale is not None
        return dequantize(data, scale, shift, self._bits, self._shape)

    def forward(self, input: Tensor) -> Tensor:
        with _without_autocast(input.device.type):
            return _FrozenProduct.apply(
                input.to(self.scale.dtype), self.data, self.scale, self.shift, self.bias, self._bits, self._shape
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenLinear:
        # Bytes can be moved but not cast, so a dtype change of the whole model can't turn float8 data into floats.
        return super()._apply(lambda tensor: fn(tensor.view(torch.uint8)).view(tensor.dtype), recurse)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, bias={bias}, precision={self.precision}, {self.compute_dtype}"


def frozen_linear(
    weight: Tensor,
    bias: Tensor | None,
    precision: str,
    compute_dtype: torch.dtype,
    *,
    name: str = "a linear layer",
    key: str = "base_model_precision",
) -> FrozenLinear:
    """Quantize `weight` (O, I) where it is, in `compute_dtype`, as quanto does for its own linear module.

    `name` and `key` are what an error calls the layer and the setting.

    Raises ConfigError when quanto refuses the shape or the weights aren't finite in that dtype, EnvironmentNotReady
    when the device can't hold the type.
    """
    if precision not in _QTYPES:
        raise ConfigError(f"{key}: {precision!r} is not a quantized precision", f"one of {', '.join(_QTYPES)}")
    if weight.ndim != 2 or not compute_dtype.is_floating_point or compute_dtype.itemsize < 2:
        raise _refused(name, weight, precision, key, f"it needs a matrix in bf16, fp16 or fp32, not {compute_dtype}")
    if precision == "fp8-quanto":
        _require_float8(weight.device, compute_dtype, key)
    with torch.no_grad():
        weight = weight.detach().to(compute_dtype).contiguous()
        data, scale, shift = _quantized(weight, precision, name, key)
        bias = None if bias is None else bias.detach().to(compute_dtype).clone()
    return FrozenLinear(data, scale, shift, bias, (weight.shape[0], weight.shape[1]), precision)


def _quantized(weight: Tensor, precision: str, name: str, key: str) -> tuple[Tensor, Tensor, Tensor | None]:
    qtype = _QTYPES[precision]
    group_size = _group_size(weight.shape[1]) if qtype.bits < 8 else None
    shift = None
    try:
        if qtype.bits == 8:
            scale = AbsmaxOptimizer()(weight, qtype=qtype, axis=0)
        else:
            scale, shift = MaxOptimizer()(weight, qtype=qtype, axis=0, group_size=group_size)
        # A row of equal values has scale 0, and 0 / 0 would be stored: as NaN in float8.
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        quantized = quantize_weight(
            weight, qtype=qtype, axis=0, scale=scale, shift=shift, group_size=group_size, optimized=False
        )
    except ValueError as error:
        raise _refused(name, weight, precision, key, str(error)) from error
    if not bool(torch.isfinite(scale).all()):
        raise _refused(name, weight, precision, key, f"its weights aren't all finite in {weight.dtype}")
    data = quantized._data
    if isinstance(data, PackedTensor):
        data = data._data
    return data, scale.reshape(-1, scale.shape[-1] if scale.ndim else 1), shift


def _group_size(in_features: int) -> int | None:
    """Values that share a scale in 4 and 2 bits, by the rule of quanto's QModuleMixin; None = the whole row."""
    if in_features <= 128:
        return None
    return next((size for size in (128, 96, 64, 32) if in_features % size == 0), None)


def _require_float8(device: torch.device, compute_dtype: torch.dtype, key: str) -> None:
    try:
        torch.ones(1, device=device, dtype=compute_dtype).to(torch.float8_e4m3fn).to(compute_dtype)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise EnvironmentNotReady(
            f"{key}: fp8-quanto can't be used on {device.type}, which doesn't convert float8 values",
            f'set "{key}" to "int8-quanto", which takes as much memory',
        ) from error


def _refused(name: str, weight: Tensor, precision: str, key: str, reason: str) -> ConfigError:
    shape = " x ".join(str(size) for size in weight.shape)
    return ConfigError(
        f"{key}: {name} ({shape}) can't be quantized to {precision}: {reason}",
        f'set "{key}" to "no_change", or to another precision',
    )


@dataclass(frozen=True)
class LayerReport:
    """What became of a model's linear layers; sizes in bytes."""

    quantized: tuple[str, ...]
    unquantized: tuple[str, ...]
    quantized_bytes: int
    total_bytes: int


def quantized_layer_report(module: nn.Module) -> LayerReport:
    """Which linear layers are quantized, and how much memory those and all parameters and buffers take."""
    linears = [(name, child) for name, child in module.named_modules() if isinstance(child, nn.Linear)]
    frozen = [(name, child) for name, child in linears if isinstance(child, FrozenLinear)]
    return LayerReport(
        quantized=tuple(name for name, _ in frozen),
        unquantized=tuple(name for name, child in linears if not isinstance(child, FrozenLinear)),
        quantized_bytes=sum(_bytes(child.buffers()) for _, child in frozen),
        total_bytes=_bytes(module.parameters()) + _bytes(module.buffers()),
    )


def assert_all_quantized(module: nn.Module, quantize: QuantizeChoice, key: str = "base_model_precision") -> None:
    """Raise ConfigError naming the first linear layers that `quantize` chooses and that aren't quantized."""
    left = [
        name
        for name, child in module.named_modules()
        if isinstance(child, nn.Linear) and not isinstance(child, FrozenLinear) and quantize(name, child)
    ]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise ConfigError(
            f"{key}: {', '.join(left[:3])}{more} should be quantized and can't be",
            f'set "{key}" to "no_change", or to another precision',
        )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
