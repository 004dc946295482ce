"""Write safetensors files of any size a few tensors at a time, sharded as the libraries expect.

The format (huggingface/safetensors, README): eight bytes of little-endian header length, a JSON header that gives every
tensor's dtype, shape and byte range, then the bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from simpletune import files

_AT_ONCE = 8  # tensors in memory; making and writing them leave Python's lock to others
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

    `make` returns one tensor on the CPU, and is called by several threads; nothing is kept, so memory holds a tensor of
    each of them. `written` is told the bytes of each tensor, in order.
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
    header = _header(specs)
    offsets = accumulate((spec.size_bytes for spec in specs), initial=len(header))

    def fill(temporary: Path) -> None:
        def put(spec: TensorSpec, offset: int) -> int:
            data = _bytes_of(spec, make(spec))
            with temporary.open("r+b") as file:
                file.seek(offset)
                file.write(data)
            return spec.size_bytes

        temporary.write_bytes(header)
        pool = ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1), "write")
        try:
            for size in pool.map(put, specs, offsets):
                written(size)
        finally:
            pool.shutdown(cancel_futures=True)  # interrupted, the rest isn't wanted any more

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


def _bytes_of(spec: TensorSpec, tensor: Tensor) -> memoryview:
    if tuple(tensor.shape) != spec.shape or tensor.dtype != spec.dtype:
        raise ValueError(
            f"{spec.name}: {tuple(tensor.shape)} {tensor.dtype}, the header says {spec.shape} {spec.dtype}"
        )
    data: memoryview = tensor.contiguous().flatten().view(torch.uint8).numpy().data
    return data
