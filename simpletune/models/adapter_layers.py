"""The layers that adapters are made of: a frozen linear layer, and beside it what is trained.

Each kind has its matrices (fp32, or bf16 where the optimizer wants that) and computes its share in the base layer's
dtype (deltas.py). Casting the small matrices is what autocast does, and what a bf16 pipeline computes with the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.nn import functional

from simpletune.models.deltas import Hadamard, Kronecker, LowRank, Magnitude, Share, rescaled, row_squares, share
from simpletune.models.quantize import FrozenLinear

ADAPTER = "default"  # PEFT's name for the only one
MAGNITUDE = "lora_magnitude_vector"


class AdapterLayer(nn.Module):
    """A linear layer with an adapter on. `tensors` are what the adapter is, by short name; those that are parameters
    are trained."""

    _disable_adapters: bool

    def base(self) -> nn.Linear:
        """The frozen layer."""
        return cast("nn.Linear", self.base_layer)

    @property
    def is_on(self) -> bool:
        return not self._disable_adapters

    def tensors(self) -> dict[str, Tensor]:
        raise NotImplementedError


class LoraLinear(PeftLinear, AdapterLayer):
    """PEFT's LoRA layer with fp32 weights and a product in the base layer's dtype.

    PEFT itself casts the input to the LoRA's dtype: an fp32 copy of each input, saved for backward, and fp32 products.
    """

    initial_a: Tensor | None
    initial_b: Tensor | None
    magnitude: nn.Parameter | None
    base_squares: Tensor

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base = self.base()
        result: Tensor = base(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        x, lora = x.to(result.dtype), self.low_rank
        delta = _low_rank(self.lora_dropout[ADAPTER](x), lora.a, lora.b)
        if lora.initial_a is not None and lora.initial_b is not None:
            delta = delta - _low_rank(x, lora.initial_a, lora.initial_b)
        result = result + delta * lora.scaling
        decomposed = self.decomposed
        return result if decomposed is None else rescaled(result, base.bias, lora, decomposed, weight_of(base))

    @property
    def low_rank(self) -> LowRank:
        weights = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        return LowRank(*weights, self.initial_a, self.initial_b, float(self.scaling[ADAPTER]))

    @property
    def decomposed(self) -> Magnitude | None:
        """Of a DoRA."""
        return None if self.magnitude is None else Magnitude(self.magnitude, self.base_squares)

    def start(self, a: Tensor, b: Tensor, scaling: float, subtract: bool = False) -> None:
        """Set A (r, I), B (O, r) and s; with `subtract` keep copies of the two as A0 and B0."""
        self.lora_A[ADAPTER].weight = nn.Parameter(a)
        self.lora_B[ADAPTER].weight = nn.Parameter(b)
        self.scaling[ADAPTER] = scaling
        self.register_buffer("initial_a", a.clone() if subtract else None)
        self.register_buffer("initial_b", b.clone() if subtract else None)
        self.register_parameter("magnitude", None)

    def decompose(self, device: torch.device, length: Tensor | None = None) -> None:
        """Make it a DoRA, whose rows have this `length` (O,) or that of the base's, on the device it computes on."""
        squares = row_squares(weight_of(self.base(), device))
        self.register_buffer("base_squares", squares, persistent=False)
        started = squares.sqrt().to(self.lora_A[ADAPTER].weight.dtype) if length is None else length.to(device)
        self.magnitude = nn.Parameter(started)

    def tensors(self) -> dict[str, Tensor]:
        named = {"lora_A.weight": self.lora_A[ADAPTER].weight, "lora_B.weight": self.lora_B[ADAPTER].weight}
        if self.initial_a is not None and self.initial_b is not None:
            named |= {"initial_a": self.initial_a, "initial_b": self.initial_b}
        return named if self.magnitude is None else {**named, MAGNITUDE: self.magnitude}


class LycorisLinear(AdapterLayer):
    """A LoHa or a LoKr, whose matrices have the names that the LyCORIS library gives them."""

    def __init__(self, base: nn.Linear, tensors: Mapping[str, Tensor], scaling: float) -> None:
        super().__init__()
        self.base_layer = base
        self.scaling = scaling
        self.names = tuple(tensors)
        self._disable_adapters = False
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base()(x)
        return result + share(x.to(result.dtype), self.delta) if self.is_on else result

    @property
    def delta(self) -> Share:
        return as_share({name: getattr(self, name) for name in self.names}, self.scaling)

    def tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.names}

    # What diffusers and PEFT ask a linear layer for.

    @property
    def weight(self) -> Tensor:
        return self.base().weight

    @property
    def bias(self) -> Tensor | None:
        return self.base().bias


def as_share(named: Mapping[str, Tensor], scaling: float) -> Share:
    """A LoHa's or LoKr's matrices, by the library's names, as deltas.py takes them."""
    if "hada_w1_a" in named:
        w1_a, w1_b, w2_a, w2_b = (named[f"hada_{part}"] for part in ("w1_a", "w1_b", "w2_a", "w2_b"))
        return Hadamard(w1_a, w1_b, w2_a, w2_b, scaling)
    first, second = ((named.get(name, named.get(f"{name}_a")), named.get(f"{name}_b")) for name in _WHOLE)
    return Kronecker(cast("Tensor", first[0]), first[1], cast("Tensor", second[0]), second[1], scaling)


_WHOLE = ("lokr_w1", "lokr_w2")


def weight_of(base: nn.Linear, device: torch.device | None = None) -> Tensor:
    """A base layer's weight (O, I) as it is computed with, of a quantized one dequantized; on `device` where named."""
    if isinstance(base, FrozenLinear):
        return base.dequantized(device)
    weight = base.weight.detach()
    return weight if device is None else weight.to(device)


def _low_rank(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return functional.linear(functional.linear(x, down.to(x.dtype)), up.to(x.dtype))


def adapter_layers(transformer: nn.Module) -> list[tuple[str, AdapterLayer]]:
    """All of a transformer's, with their names, in its order."""
    return [(name, module) for name, module in transformer.named_modules() if isinstance(module, AdapterLayer)]
