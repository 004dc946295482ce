"""Write safetensors files of any size one tensor at a time, sharded as the libraries expect.

The format (huggingface/safetensors, README): eight bytes of little-endian header length, a JSON header that gives every
tensor's dtype, shape and byte range, then the bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from simpletune import files

_DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class TensorSpec:
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_sharded(
    folder: Path,
    stem: str,
    specs: Sequence[TensorSpec],
    make: Callable[[TensorSpec], Tensor],
    max_shard_bytes: int,
    written: Callable[[int], None],
) -> None:
    """Write `specs` into `folder`/`stem`.safetensors, or into numbered shards with an index.

    `make` returns one tensor on the CPU at a time and nothing is kept, so memory holds the largest tensor only;
    `written` is told the bytes of each.
    """
    shards = _split(specs, max_shard_bytes)
    if len(shards) == 1:
        _write_file(folder / f"{stem}.safetensors", shards[0], make, written)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / name, shard, make, written)
        weight_map |= dict.fromkeys((spec.name for spec in shard), name)
    total = sum(spec.size_bytes for spec in specs)
    files.write_json(
        folder / f"{stem}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def _split(specs: Iterable[TensorSpec], max_shard_bytes: int) -> list[list[TensorSpec]]:
    shards: list[list[TensorSpec]] = [[]]
    room = max_shard_bytes
    for spec in specs:
        if spec.size_bytes > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(spec)
        room -= spec.size_bytes
    return shards


def _write_file(
    path: Path, specs: Sequence[TensorSpec], make: Callable[[TensorSpec], Tensor], written: Callable[[int], None]
) -> None:
    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(_header(specs))
            for spec in specs:
                _append(file, spec, make(spec))
                written(spec.size_bytes)

    files.write_with(path, fill)


def _header(specs: Sequence[TensorSpec]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in specs:
        end = offset + spec.size_bytes
        entries[spec.name] = {
            "dtype": _DTYPE_NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # keeps the tensors aligned for readers that map the file
    return len(text).to_bytes(8, "little") + text


def _append(file: BinaryIO, spec: TensorSpec, tensor: Tensor) -> None:
    if tuple(tensor.shape) != spec.shape or tensor.dtype != spec.dtype:
        raise ValueError(
            f"{spec.name}: {tuple(tensor.shape)} {tensor.dtype}, the header says {spec.shape} {spec.dtype}"
        )
    file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
