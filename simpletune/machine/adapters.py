"""What an adapter is in figures, reckoned from the settings: its layers, its numbers, and what it adds to a step.

Nothing is loaded. A LyCORIS config is given as the text of its JSON, which can be remembered by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from simpletune.config.lycoris import LayerKind, faults, parse
from simpletune.config.lycoris_targets import known_layers, layer_kinds
from simpletune.machine.activations import is_of_text
from simpletune.machine.shapes import family_flavour, family_of, lora_layers, part_tensors

LYCORIS = "lycoris"
_BYTES = 2  # of a LoHa's matrix, in the compute dtype
_MATRICES = 6  # of its size that the backward pass of a layer has at once
# Bytes that a compiled micro batch moves beside the products, all passes together, fitted to a step of each kind
# (docs/performance.md): for each number of an adapted layer's matrix, which DoRA measures and LoHa multiplies out; for
# each token and output of a layer that LoKr brings in another order between its factors.
_DORA_MOVES, _LOHA_MOVES, _LOKR_MOVES = 57, 48, 54


@dataclass(frozen=True)
class Adapter:
    """Names are those of config.json; `lycoris` is the text of what lycoris_config names, None for a standard LoRA."""

    flavour: str
    target: str | tuple[str, ...]
    rank: int
    dora: bool = False
    lycoris: str | None = None

    @property
    def kinds(self) -> Mapping[str, LayerKind]:
        return _kinds(self)

    @property
    def layers(self) -> str | tuple[str, ...]:
        """What `lora_target` would say for these layers."""
        return self.target if self.lycoris is None else tuple(self.kinds)

    @property
    def parameters(self) -> int:
        """Its trained numbers."""
        return _parameters(self)

    @property
    def kept_rank(self) -> int:
        """Numbers a token and layer that are kept between two products: a LoHa or LoKr keeps none."""
        if self.lycoris is None:
            return self.rank
        return max((kind.dim for kind in self.kinds.values() if kind.algo == "lora"), default=0)

    @property
    def work(self) -> tuple[int, int]:
        """Numbers that every token of the picture is multiplied with, and those of every token of its caption."""
        return _work(self)

    @property
    def moved(self) -> tuple[int, int, int]:
        """Bytes that a compiled micro batch moves besides: in all, for each token of the picture, of its caption."""
        return _moved(self)

    @property
    def matrix_bytes(self) -> int:
        """What is made, besides, of the largest layer's whole matrix: of a LoHa."""
        shapes = part_tensors(self.flavour, "transformer")
        sizes = [_size(shapes[f"{name}.weight"]) for name, kind in self.kinds.items() if kind.algo == "loha"]
        return _MATRICES * _BYTES * max(sizes, default=0)


def lycoris_text(value: Any) -> str | None:
    """A LyCORIS config as `Adapter` takes it; None where it is none that can be used."""
    if value is None or any(not fault.warning for fault in faults(value)):
        return None
    return json.dumps(value, sort_keys=True)


@lru_cache(maxsize=64)
def _kinds(adapter: Adapter) -> Mapping[str, LayerKind]:
    if adapter.lycoris is None:
        kind = LayerKind("lora", adapter.rank, float(adapter.rank), dora=adapter.dora)
        return MappingProxyType(dict.fromkeys(lora_layers(adapter.flavour, adapter.target), kind))
    layers = known_layers(family_of(adapter.flavour), family_flavour(adapter.flavour))
    return MappingProxyType(layer_kinds(parse(json.loads(adapter.lycoris)), layers))


@lru_cache(maxsize=64)
def _parameters(adapter: Adapter) -> int:
    shapes = part_tensors(adapter.flavour, "transformer")
    return sum(kind.numbers(*shapes[f"{name}.weight"][:2]) for name, kind in adapter.kinds.items())


@lru_cache(maxsize=64)
def _work(adapter: Adapter) -> tuple[int, int]:
    shapes, found = part_tensors(adapter.flavour, "transformer"), [0, 0]
    for name, kind in adapter.kinds.items():
        if not name.endswith(("norm1.linear", "norm1_context.linear")):
            found[is_of_text(name)] += _of_layer(kind, *shapes[f"{name}.weight"][:2])
    return found[0], found[1]


@lru_cache(maxsize=64)
def _moved(adapter: Adapter) -> tuple[int, int, int]:
    shapes, whole, tokens = part_tensors(adapter.flavour, "transformer"), 0, [0, 0]
    for name, kind in adapter.kinds.items():
        outputs, inputs = shapes[f"{name}.weight"][:2]
        if kind.dora or kind.algo == "loha":
            whole += outputs * inputs * (_DORA_MOVES if kind.dora else _LOHA_MOVES)
        elif kind.algo == "lokr":
            tokens[is_of_text(name)] += outputs * _LOKR_MOVES
    return whole, tokens[0], tokens[1]


def _of_layer(kind: LayerKind, outputs: int, inputs: int) -> int:
    if kind.algo == "lora":
        return kind.dim * (outputs + inputs)
    if kind.algo == "loha":
        return outputs * inputs
    (_, c), (b, _) = kind.factors(outputs, inputs)
    return inputs * b + outputs * c


def _size(shape: tuple[int, ...]) -> int:
    return shape[0] * shape[1]
