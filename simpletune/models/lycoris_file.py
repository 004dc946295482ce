"""LyCORIS files: the key layout of the library's `state_dict`, which ComfyUI reads as well.

    lycoris_transformer_blocks_0_attn_to_q.lokr_w1, .lokr_w2, .alpha        the module's name with _ for dots

The library multiplies by alpha / rank, twice where it merges; a finished file has the scale in its first matrix and
states alpha = rank, so that every reader multiplies by 1. A checkpoint has the matrices as they are trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from simpletune.config.families import FAMILIES, module_names
from simpletune.errors import ConfigError

PREFIX = "lycoris_"
MULTIPLIER_KEY = "lycoris_multiplier"  # of a checkpoint's header
ALPHA, DORA_SCALE = "alpha", "dora_scale"
UP, DOWN = "lora_up.weight", "lora_down.weight"
_LOHA = frozenset(f"hada_w{n}_{side}" for n in "12" for side in "ab")
_LOKR = ("lokr_w1", "lokr_w2")
_CONVOLUTIONS = ("lora_mid.weight", "hada_t1", "hada_t2", "lokr_t1", "lokr_t2")


@dataclass(frozen=True)
class Matrices:
    """One layer's LoHa or LoKr by the names that the library gives its matrices, the scale included."""

    tensors: Mapping[str, Tensor]

    @property
    def is_loha(self) -> bool:
        return "hada_w1_a" in self.tensors

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I) of the layer."""
        if self.is_loha:
            return self.tensors["hada_w1_a"].shape[0], self.tensors["hada_w1_b"].shape[1]
        (a, c), (b, d) = (_product_shape(self.tensors, name) for name in _LOKR)
        return a * b, c * d

    @property
    def rank(self) -> int:
        """What alpha is divided by: the inner width of the first product there is, 1 where all matrices are whole."""
        return next((tensor.shape[0] for name, tensor in self.tensors.items() if name.endswith("_b")), 1)

    def change(self) -> Tensor:
        """What is added to the layer's weight, (O, I) in fp32."""
        named = {name: tensor.float() for name, tensor in self.tensors.items()}
        if self.is_loha:
            return (named["hada_w1_a"] @ named["hada_w1_b"]) * (named["hada_w2_a"] @ named["hada_w2_b"])
        first, second = (named[name] if name in named else named[f"{name}_a"] @ named[f"{name}_b"] for name in _LOKR)
        return torch.kron(first, second.contiguous())

    def applied_to(self, weight: Tensor) -> Tensor:
        """The layer's weight with the adapter in it, fp32."""
        return weight.float() + self.change()

    def scaled(self, scale: float) -> Matrices:
        """The same with `scale` multiplied in."""
        first = next(iter(_ordered(self.tensors)))
        return Matrices({**self.tensors, first: self.tensors[first] * scale})


def _ordered(named: Iterable[str]) -> list[str]:
    return sorted(named)  # lokr_w1 before lokr_w2, w1_a before all others


def _product_shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    if name in tensors:
        return tensors[name].shape[0], tensors[name].shape[1]
    return tensors[f"{name}_a"].shape[0], tensors[f"{name}_b"].shape[1]


def key(module: str, short: str) -> str:
    """The key of a layer's tensor."""
    return f"{PREFIX}{module.replace('.', '_')}.{short}"


def is_lycoris(keys: Iterable[str]) -> bool:
    """Whether a file with these keys is in this layout."""
    return any(name.startswith(PREFIX) for name in keys)


@dataclass(frozen=True)
class Pair:
    """One layer's LoRA: A (r, I) and B (O, r), the scale in B; m (O,) of a DoRA."""

    a: Tensor
    b: Tensor
    magnitude: Tensor | None


def read(tensors: Mapping[str, Tensor], header: Mapping[str, str], where: str) -> dict[str, Matrices | Pair]:
    """The layers' adapters by module name, from all of a file's tensors in fp32.

    Raises ConfigError, beginning with `where`, for anything that isn't a LoRA, LoHa or LoKr of linear layers.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        flat, dot, short = name.removeprefix(PREFIX).partition(".")
        if not name.startswith(PREFIX) or not dot:
            raise _odd(where, name)
        layers.setdefault(flat, {})[short] = tensor
    try:
        multiplier = float(header.get(MULTIPLIER_KEY, "1"))
    except ValueError as error:
        raise _odd(where, MULTIPLIER_KEY) from error
    return {_module(flat): _layer(flat, given, multiplier, where) for flat, given in layers.items()}


def _layer(flat: str, given: dict[str, Tensor], multiplier: float, where: str) -> Matrices | Pair:
    alpha, lengths = given.pop(ALPHA, None), given.pop(DORA_SCALE, None)
    if alpha is not None and alpha.numel() != 1:
        raise _odd(where, f"{flat}.{ALPHA}")
    strange = next((name for name in _CONVOLUTIONS if name in given), None)
    if strange is not None or any(tensor.dim() != 2 for tensor in given.values()):
        raise _odd(where, f"{flat}.{strange or next(iter(given))}, which is for a convolution")
    if set(given) == {UP, DOWN}:
        return _pair(flat, given, alpha, lengths, multiplier, where)
    if lengths is not None:
        raise _odd(where, f"{flat}.{DORA_SCALE} beside {next(iter(given), 'nothing')}")
    found = Matrices(given)
    if not _is_whole(given):
        raise _odd(where, f"{flat}.{next(iter(given), ALPHA)}")
    whole = set(given) == set(_LOKR)
    scale = 1.0 if whole or alpha is None else float(alpha) / found.rank
    return found.scaled(scale * multiplier)


def _pair(
    flat: str,
    given: Mapping[str, Tensor],
    alpha: Tensor | None,
    lengths: Tensor | None,
    multiplier: float,
    where: str,
) -> Pair:
    a, b = given[DOWN], given[UP]
    rank = len(a)
    if not rank or b.shape[1] != rank or (lengths is not None and tuple(lengths.shape) not in {(len(b),), (len(b), 1)}):
        raise _odd(where, f"{flat}.{UP if lengths is None else DORA_SCALE}")
    scale = (1.0 if alpha is None else float(alpha) / rank) * multiplier
    return Pair(a, b * scale, None if lengths is None else lengths.reshape(-1))


def _is_whole(given: Mapping[str, Tensor]) -> bool:
    """Whether these are all matrices of a LoHa or a LoKr, and their products exist."""
    if set(given) == _LOHA:
        products = [(given[f"hada_w{n}_a"], given[f"hada_w{n}_b"]) for n in "12"]
        shapes = {(left.shape[0], right.shape[1]) for left, right in products}
        return len(shapes) == 1 and all(left.shape[1] == right.shape[0] for left, right in products)
    for name in _LOKR:
        parts = [given[part] for part in (f"{name}_a", f"{name}_b") if part in given]
        if (name in given) == bool(parts) or len(parts) == 1:
            return False
        if parts and parts[0].shape[1] != parts[1].shape[0]:
            return False
    known = {*_LOKR, *(f"{name}_{side}" for name in _LOKR for side in "ab")}
    return set(given) <= known


def _module(flat: str) -> str:
    """The module that a key's part without dots means; as it is, where no model is known to have it."""
    return _flat_names().get(flat, flat)


@cache
def _flat_names() -> Mapping[str, str]:
    flavours = [(facts, flavour) for facts in FAMILIES.values() for flavour in facts.flavours.values()]
    names = {name for facts, flavour in flavours for name in module_names(facts, flavour)}
    # The last block of one flavour lacks layers that the same block of another may have.
    names |= {
        f"{facts.block_prefix}.{block}.{module}"
        for facts, _ in flavours
        for block in range(100)
        for module in facts.block_modules
    }
    return {name.replace(".", "_"): name for name in names}


def _odd(where: str, odd: str) -> ConfigError:
    return ConfigError(
        f"{where} is no LyCORIS adapter that can be used: it has {odd}",
        "LoRA, LoHa and LoKr of linear layers are read, as LyCORIS and SimpleTuner save them",
    )
