"""Random numbers as a function: of (seed, stream, step, sample, element), and of nothing else.

There is no generator whose state has to be saved: a resumed run asks for the same numbers again, whatever the batch
size, the order, the device or the number of processes. The numbers come from hashing the five coordinates with the
finalizer of splitmix64 (Steele, Lea and Flood 2014; constants by Stafford, variant 13) in wrapping int64 arithmetic,
so the integers are the same on every device, and `step` may be a tensor inside a captured CUDA graph.

Shapes: B batch, N elements of one sample.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Stream(enum.IntEnum):
    """Independent sequences. A number once given is never used for something else: it would change old runs."""

    NOISE = 1
    SIGMA = 2
    CAPTION_DROPOUT = 3
    LORA_DROPOUT = 4
    VALIDATION_NOISE = 5


_MASK = (1 << 64) - 1
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)
_STEP_STRIDE = 0xD1342543DE82EF95
_SAMPLE_STRIDE = 0xA0761D6478BD642F
_ELEMENT_STRIDE = 0x9E3779B97F4A7C15  # 2^64 / golden ratio


def uniform(seed: int, stream: Stream, step: int | Tensor, sample_ids_B: Tensor, shape: Sequence[int] = ()) -> Tensor:
    """Uniform float32 numbers in the open interval (0, 1), of shape (B, *shape), on the ids' device.

    step: an int or a 0-dim int64 tensor; sample_ids_B: int64. Odd multiples of 2^-24, so 0 and 1 can't occur.
    """
    bits_BN = _bits(seed, stream, step, sample_ids_B, math.prod(shape))
    numbers_BN = _shift_right(bits_BN, 41).float().add_(0.5).mul_(2.0**-23)
    return numbers_BN.view(-1, *shape)


def normal(seed: int, stream: Stream, step: int | Tensor, sample_ids_B: Tensor, shape: Sequence[int] = ()) -> Tensor:
    """Standard normal float32 numbers of shape (B, *shape), by Box and Muller (1958); at most 6.66 in size.

    Radius and angle come from the upper and lower 32 bits of one hash.
    """
    bits_BN = _bits(seed, stream, step, sample_ids_B, math.prod(shape))
    radius_BN = _shift_right(bits_BN, 32).float().add_(1.0).mul_(2.0**-32).log_().mul_(-2.0).clamp_(min=0.0).sqrt_()
    angle_BN = bits_BN.bitwise_and_(0xFFFFFFFF).float().mul_(2 * math.pi * 2.0**-32)
    return radius_BN.mul_(angle_BN.cos_()).view(-1, *shape)


def seed_torch(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch's global generators for one step of one process: dropout layers draw from them."""
    torch.manual_seed(_mix_int(_step_key(seed, Stream.LORA_DROPOUT, step) + rank * _SAMPLE_STRIDE) >> 1)


def _bits(seed: int, stream: Stream, step: int | Tensor, sample_ids_B: Tensor, count: int) -> Tensor:
    """Hash the coordinates of `count` elements of each sample to int64 (B, N), all 64 bits well mixed."""
    key_B1 = _sample_keys(seed, stream, step, sample_ids_B)[:, None]
    index_N = torch.arange(count, device=sample_ids_B.device, dtype=torch.int64)
    bits_BN = _mix(index_N * _signed(_ELEMENT_STRIDE) + key_B1)
    return _mix(bits_BN.add_(key_B1))


def _sample_keys(seed: int, stream: Stream, step: int | Tensor, sample_ids_B: Tensor) -> Tensor:
    if isinstance(step, Tensor):
        base = _mix(step * _signed(_STEP_STRIDE) + _signed(_stream_key(seed, stream)))
    else:
        base = _signed(_step_key(seed, stream, step))
    return _mix(sample_ids_B * _signed(_SAMPLE_STRIDE) + base)


def _stream_key(seed: int, stream: Stream) -> int:
    return _mix_int(_mix_int(seed * _ELEMENT_STRIDE + 1) + int(stream) * _SAMPLE_STRIDE)


def _step_key(seed: int, stream: Stream, step: int) -> int:
    return _mix_int(step * _STEP_STRIDE + _stream_key(seed, stream))


def _mix(x: Tensor) -> Tensor:
    """The finalizer on a fresh int64 tensor, in place."""
    first, second = _MULTIPLIERS
    x.bitwise_xor_(_shift_right(x, _SHIFTS[0])).mul_(_signed(first))
    x.bitwise_xor_(_shift_right(x, _SHIFTS[1])).mul_(_signed(second))
    return x.bitwise_xor_(_shift_right(x, _SHIFTS[2]))


def _mix_int(x: int) -> int:
    """The same finalizer on a Python integer, modulo 2^64."""
    x &= _MASK
    for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
        x = ((x ^ (x >> shift)) * multiplier) & _MASK
    return x ^ (x >> _SHIFTS[2])


def _shift_right(x: Tensor, places: int) -> Tensor:
    """Logical shift: torch's own copies the sign bit, which the mask takes off again."""
    return (x >> places).bitwise_and_((1 << (64 - places)) - 1)


def _signed(x: int) -> int:
    """The int64 with the bits of x modulo 2^64."""
    x &= _MASK
    return x - (1 << 64) if x >> 63 else x
