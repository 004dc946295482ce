"""A model of real size without files: random weights, made on the device when they are asked for.

`simpletune bench` loads it through the code that loads every model, so that what is measured is what a run does.
Two billion numbers take a second on a GPU, where `models/builder.py` would write and read 4 GB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simpletune.config.architecture import component_config
from simpletune.machine.shapes import Shape, count, part_tensors
from simpletune.models.family import ModelFiles
from simpletune.models.random_weights import positions, shaped
from simpletune.models.weight_source import WeightSource


class RandomSource(WeightSource):
    """The tensors of one part by name, as a file of them would give them.

    Every tensor follows from its name alone, so that reading in another order, or again, gives the same one; other
    devices give other numbers. `read` makes it on `device` in `dtype`.
    """

    def __init__(self, flavour: str, part: str, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__({})
        self._tensors: Mapping[str, Shape] = part_tensors(flavour, part)
        self._flavour, self._part = flavour, part
        self._device, self._dtype = device, dtype

    def names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    @property
    def total_bytes(self) -> int:
        return sum(map(count, self._tensors.values())) * self._dtype.itemsize

    def raw(self, name: str) -> Tensor:
        shape = self._tensors[name]
        if name == "pos_embed.pos_embed":
            return positions(component_config(self._flavour, self._part), shape).to(self._device, self._dtype)

        def draw(deviation: float) -> Tensor:
            generator = torch.Generator(self._device).manual_seed(_number(f"{self._part}/{name}"))
            empty = torch.empty(shape, device=self._device, dtype=self._dtype)
            return empty.normal_(0.0, deviation, generator=generator)

        return shaped(self._part, name, shape, self._dtype, draw).to(self._device)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        return self.raw(name)[start:stop]

    def shape(self, name: str) -> tuple[int, ...] | None:
        return tuple(self._tensors[name])

    def where(self, name: str) -> str:  # noqa: ARG002
        return f"the random {self._part} of {self._flavour}"


@dataclass(frozen=True)
class RandomFiles(ModelFiles):
    """A flavour's parts with random weights on `device`; `root` has its tokenizers and its scheduler as files."""

    flavour: str
    device: torch.device
    dtype: torch.dtype

    def config(self, part: str) -> dict[str, Any]:
        return component_config(self.flavour, part)

    def weights(self, part: str) -> RandomSource:
        return RandomSource(self.flavour, part, self.device, self.dtype)


def random_files(folder: Path, flavour: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> RandomFiles:
    """Write tokenizers and scheduler of the flavour to `folder`, which must not exist; weights take no disk."""
    from simpletune.models.builder import build_descriptions

    build_descriptions(folder, flavour)
    return RandomFiles("random weights", folder, "folder", None, None, flavour, device, dtype)


def _number(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:7], "little")
